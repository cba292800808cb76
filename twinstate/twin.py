"""One patient's twin: records in, transitions out, and the bytes it is kept as.

`Twin` is the hot object a worker keeps in memory. Everything in it but the timeline, the announcements and the
opening episodes is derived, so a twin thrown away and thawed from its bytes goes on as if nothing had happened.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from twinstate.assimilation.readings import names_of, readings_of
from twinstate.clocks import Clocks, DeviceClock
from twinstate.drug import DrugModel
from twinstate.errors import OF_THE_MACHINE, CovariateError
from twinstate.estimate import DrugEstimate, estimate_drug, horizon_of
from twinstate.history import Entry, Lab, device_of
from twinstate.library import Library
from twinstate.outlook import Heard, Memo, levels_disagree, look_ahead
from twinstate.risk.assess import assess, distrusted_by
from twinstate.risk.episodes import (
    CLEARED,
    Announcement,
    Decision,
    Episode,
    PointRisk,
    Transition,
    announce,
    retell,
    tell_story,
)
from twinstate.telemetry import Stored, Telemetry
from twinstate.therapy import drugs_of, therapy_at, until
from twinstate.timeline import Outcome, Timeline, TimeRules, Verdict, hour_end
from twinstate.types import NS_PER_HOUR

FORMAT = 3
# State of a patient whose history was erased, and reason of the episodes that ended so.
FORGOTTEN = "forgotten"
_BEFORE_ALL = -(2**63)


class StandingEpisode(msgspec.Struct, frozen=True, array_like=True):
    """An episode that stands at the watermark."""

    id: str
    drug: str
    threshold: str
    severity: str
    crossing: int


class TwinDocument(msgspec.Struct, frozen=True, array_like=True):
    """The canonical twin: a pure function of its accepted records, the library and the watermark.

    Its bytes are what digests compare. Times in UTC ns.
    """

    format: int
    patient: str
    state: str
    reason: tuple[str, ...]
    watermark: int
    entries: tuple[Entry, ...]
    windows: Stored
    estimates: tuple[DrugEstimate, ...]
    standing: tuple[StandingEpisode, ...]
    quality: tuple[str, ...]


class TwinMemory(msgspec.Struct, frozen=True, array_like=True):
    """What a worker needs beside the canonical twin to go on: never digested."""

    frames: tuple[Entry, ...]
    announced: tuple[Announcement, ...]
    decisions: tuple[Decision, ...]
    opening: tuple[Episode, ...]
    settled_revised: int
    highest: int | None
    gone_until: int | None
    forgotten: int | None = None
    clocks: tuple[DeviceClock, ...] = ()


# Built once, as modules are loaded: msgspec crashes when two threads build the decoder of one type at the same time.
_DOCUMENT = msgspec.msgpack.Decoder(TwinDocument)
_MEMORY = msgspec.msgpack.Decoder(TwinMemory)


class StoredTwin(NamedTuple):
    """The two parts a twin is kept as."""

    canonical: bytes
    rest: bytes


@dataclass(frozen=True)
class Rules:
    """Everything but records that a twin depends on: the library (with its policy) and the events' source."""

    library: Library
    source: str

    @functools.cached_property
    def times(self) -> TimeRules:
        """Limits of lateness, revision and settling."""
        return TimeRules.of(self.library)


@dataclass
class Twin:
    """A patient's twin in a worker's memory."""

    patient: str
    timeline: Timeline = field(default_factory=Timeline)
    decisions: list[Decision] = field(default_factory=list)
    announced: dict[str, Announcement] = field(default_factory=dict)
    opening: tuple[Episode, ...] = ()
    settled_revised: int = 0
    story: list[Episode] = field(default_factory=list)
    memo: Memo = field(default_factory=Memo)

    def take(
        self, entry: Entry, append_time: int, rules: Rules, *, backfill: bool
    ) -> tuple[Verdict, list[Transition]]:
        """Judge one record, and when it is accepted follow what it changes.

        Returns:
            The verdict, and the transitions that applying this one record causes, in order.
        """
        times = rules.times
        verdict = self.timeline.judge(entry, append_time, times, backfill=backfill)
        if verdict.outcome is not Outcome.APPLIED:
            return verdict, []
        if entry.kind == "forget":
            return verdict, self._erase(entry.event_time)
        if entry.kind == "wearable" and not (backfill or entry.revision or entry.cancelled):
            self.timeline.clocks.hear(device_of(entry.id), append_time, entry.event_time)
        watermark = self.timeline.watermark
        since = self.timeline.accept(entry)
        transitions: list[Transition] = []
        if since is not None:
            if watermark is not None and since <= watermark - times.settled:
                self.settled_revised += 1
            if entry.kind != "wearable" or not self._no_point_between(watermark, since):
                transitions = self.follow(since, rules)
        self.timeline.advance(times)
        return verdict, transitions

    def follow(self, since: int, rules: Rules) -> list[Transition]:
        """Evaluate every point from `since` on (and any that failed), tell the story again, say what is new."""
        self._decide_again(since, rules)
        transitions, self.announced = announce(self.story, self.announced)
        return transitions

    def adopt(self, rules: Rules) -> list[Transition]:
        """Go on under another library: every open point is evaluated again, closed ones stay as they were decided.

        Args:
            rules: From here on; their library may follow the one so far (`twinstate.succession`).

        Returns:
            Transitions of what stands, by the story or for a subscriber; what is over on both sides is history.
        """
        self._decide_again(_BEFORE_ALL, rules)
        transitions, self.announced = retell(self.story, self.announced)
        self.timeline.trim(rules.times)
        return transitions

    def _erase(self, at: int) -> list[Transition]:
        """Be nobody from here on; what stands for subscribers is cleared, since nothing would ever end it."""
        until = max(at, self.timeline.watermark or at)
        standing = [known for known in self.announced.values() if known.standing]
        standing.sort(key=lambda known: (known.episode.drug, known.episode.threshold, known.episode.crossing))
        self.timeline = Timeline(forgotten=until)
        self.decisions, self.announced, self.opening, self.story = [], {}, (), []
        self.settled_revised = 0
        return [
            Transition(
                CLEARED,
                msgspec.structs.replace(known.episode, ended=until, reason=FORGOTTEN, latest=until),
                known.revision + 1,
            )
            for known in standing
        ]

    def _decide_again(self, since: int, rules: Rules) -> None:
        closed = self._close(rules)
        decisions = [d for d in self.decisions if closed is not None and d.at < closed]
        kept = {d.at: d for d in self.decisions if d.at < since and not d.failure}
        away = self._absences()
        for at in self.timeline.points(rules.times):
            if any(start < at and (end is None or at < end) for start, end in away):
                continue
            known = kept.get(at)
            if known is None:
                left = any(start == at for start, _ in away)
                known = Decision(at, (), discharged=True) if left else self._decide(at, decisions, rules)
            decisions.append(known)
        self.decisions = decisions
        self.story = tell_story(decisions, rules.library.policy, rules.source, self.patient, self.opening)

    def freeze(self, rules: Rules) -> StoredTwin:
        """Estimate every drug at the watermark and give the twin as bytes."""
        return StoredTwin(*(encode(part) for part in self.describe(rules)))

    def describe(self, rules: Rules) -> tuple[TwinDocument, TwinMemory]:
        """The canonical document and the memory beside it."""
        timeline = self.timeline
        watermark = timeline.watermark if timeline.watermark is not None else 0
        estimates, failure = self._estimate(rules, watermark)
        state, reason = self._state(estimates, failure)
        document = TwinDocument(
            format=FORMAT,
            patient=self.patient,
            state=state,
            reason=reason,
            watermark=watermark,
            entries=tuple(sorted(timeline.entries.values(), key=lambda e: (e.place, e.cancelled))),
            windows=timeline.telemetry.stored(),
            estimates=estimates,
            standing=tuple(
                StandingEpisode(e.id, e.drug, e.threshold, e.severity, e.crossing)
                for e in self.story
                if e.ended is None
            ),
            quality=self._quality(estimates, rules),
        )
        memory = TwinMemory(
            frames=tuple(sorted(timeline.frames.values(), key=lambda e: e.place)),
            announced=tuple(
                sorted(self.announced.values(), key=lambda a: (a.episode.crossing, a.episode.id))
            ),
            decisions=tuple(self.decisions),
            opening=self.opening,
            settled_revised=self.settled_revised,
            highest=self.timeline.highest,
            gone_until=self.timeline.gone_until,
            forgotten=self.timeline.forgotten,
            clocks=self.timeline.clocks.stored(),
        )
        return document, memory

    def _decide(self, at: int, before: list[Decision], rules: Rules) -> Decision:
        """Assess every threshold of every drug at one point; one drug's failure leaves the others assessed."""
        library = rules.library
        entries = until(self.timeline.in_order(), at)
        last = before[-1].risks if before else ()
        risks: list[PointRisk] = []
        failures: list[str] = []
        for drug in sorted(drugs_of(entries, library, at) | self._feared(before, rules)):
            model = library.drugs[drug]
            if not model.thresholds:
                continue
            try:
                risks += self._assess(entries, model, at, library)
            except CovariateError:
                # What cannot be assessed keeps what was last said of it.
                risks += [risk for risk in last if risk.drug == drug]
            except OF_THE_MACHINE:
                raise
            except Exception as failure:
                failures.append(f"{drug}: {failure or type(failure).__name__}")
                risks += [risk for risk in last if risk.drug == drug]
        return Decision(at, tuple(risks), failure="; ".join(failures))

    def _assess(
        self, entries: Sequence[Entry], model: DrugModel, at: int, library: Library
    ) -> list[PointRisk]:
        therapy = therapy_at(entries, model, library, at)
        heard = self._heard(model, library, at, whole=False)
        outlook = look_ahead(therapy, self.memo, horizon_of(model), heard)
        risks = []
        for threshold in model.thresholds:
            risk = assess(outlook, threshold)
            if risk is None:  # nobody has read the signal: the threshold keeps its state
                continue
            risks.append(
                PointRisk(
                    drug=model.drug,
                    threshold=threshold.name,
                    version=str(threshold.version),
                    probability=risk.probability,
                    error=risk.error,
                    median=risk.metric.median,
                    low=risk.metric.low,
                    high=risk.metric.high,
                    capped=bool(therapy.outside) or levels_disagree(outlook),
                    planned=therapy.has_plan,
                    levels=len(therapy.lab_entries),
                    distrusted=distrusted_by(outlook, threshold),
                )
            )
        return risks

    def _estimate(self, rules: Rules, watermark: int) -> tuple[tuple[DrugEstimate, ...], str]:
        entries = until(self.timeline.in_order(), watermark)
        library = rules.library
        try:
            return (
                tuple(
                    estimate_drug(
                        entries,
                        model,
                        library,
                        watermark,
                        self.memo,
                        self._heard(model, library, watermark, whole=True),
                    )
                    for model in (
                        library.drugs[drug] for drug in sorted(drugs_of(entries, library, watermark))
                    )
                ),
                "",
            )
        except OF_THE_MACHINE:
            raise
        except Exception as failure:
            return (), str(failure) or type(failure).__name__

    def _heard(self, model: DrugModel, library: Library, as_of: int, *, whole: bool) -> Heard:
        if model.channel is None:
            return Heard((), None)
        signal = library.signals[model.channel.signal]
        keep = int(model.channel.keep_h * NS_PER_HOUR)
        return Heard(self.timeline.counted_windows(signal.slug, as_of, keep, whole=whole), signal)

    def _state(self, estimates: tuple[DrugEstimate, ...], failure: str) -> tuple[str, tuple[str, ...]]:
        if failure:
            return "quarantined", (failure,)
        if self.timeline.forgotten is not None and self.timeline.blank:
            return FORGOTTEN, ()
        if self.timeline.pending:
            return "pending", ("no patient record has been accepted yet",)
        away = self._absences()
        if away and away[-1][1] is None:
            return "discharged", ()
        for state in ("pending", "out_of_domain"):
            reasons = [sentence for e in estimates if e.state == state for sentence in e.reason]
            if reasons:
                return state, tuple(reasons)
        return "live", ()

    def _quality(self, estimates: tuple[DrugEstimate, ...], rules: Rules) -> tuple[str, ...]:
        flags = {f"{e.drug}:{flag}" for e in estimates for flag in e.flags}
        modelled = {m.channel.signal for m in rules.library.drugs.values() if m.channel is not None}
        flags |= {
            f"{signal}:unmodelled" for signal in self.timeline.telemetry.hours if signal not in modelled
        }
        flags |= self._devices_quality(rules)
        analytes = rules.library.analytes
        for entry in self.timeline.in_order():
            if isinstance(entry.content, Lab):
                usual = analytes[entry.content.analyte].usual
                if usual is not None and not usual.holds(entry.content.value):
                    flags.add(f"{entry.content.analyte}:unusual")
        away = self._absences()
        if any(
            s < e.event_time < (end or e.event_time + 1) for s, end in away for e in self.timeline.in_order()
        ):
            flags.add("after_discharge")
        if self.timeline.forgotten is not None:
            flags.add("history_forgotten")
        return tuple(sorted(flags))

    def _devices_quality(self, rules: Rules) -> set[str]:
        """What is odd about the devices of each signal: its marks in the last hour, and who else was heard.

        An hour's frames are heard together, so that "the last hour" holds the one running and the one before it.
        """
        watermark = self.timeline.watermark
        flags: set[str] = set()
        if watermark is None:
            return flags
        until = hour_end(watermark)
        for slug, devices in self.timeline.telemetry.hours.items():
            signal = rules.library.signals[slug]
            keep = rules.times.keep_signal[slug]
            recent = self.timeline.telemetry.heard(slug, watermark - NS_PER_HOUR, until)
            marks = np.bitwise_or.reduce(readings_of(recent, signal, 0.0).marks, initial=0)
            flags |= {f"{slug}:{name}" for name in names_of(int(marks))}
            counting = [
                d for d, hours in devices.items() if any(watermark - keep < r <= until for r in hours)
            ]
            if len(counting) > 1:
                flags.add(f"{slug}:several_devices")
            indices = [one.window.index for one in recent]
            if len(set(indices)) < len(indices):
                flags.add(f"{slug}:devices_overlap")
            if self.timeline.frames_overlap(slug, watermark, keep):
                flags.add(f"{slug}:frames_overlap")
        return flags

    def _absences(self) -> list[tuple[int, int | None]]:
        """Stretches from a discharge to the patient record that re-admits; None while the patient is away."""
        away: list[tuple[int, int | None]] = []
        for entry in self.timeline.in_order():
            gone = bool(away) and away[-1][1] is None
            if entry.kind == "discharge" and not gone:
                away.append((entry.event_time, None))
            elif entry.kind == "patient" and gone:
                away[-1] = (away[-1][0], entry.event_time)
        return away

    def _no_point_between(self, watermark: int | None, since: int) -> bool:
        """A frame that neither reaches the end of an hour nor comes late touches no evaluation point."""
        now = self.timeline.watermark
        if watermark is None or now is None:
            return False
        failed = bool(self.decisions) and bool(self.decisions[-1].failure)
        return not failed and since > now >= watermark and hour_end(watermark + 1) > now

    def _feared(self, before: list[Decision], rules: Rules) -> set[str]:
        """Drugs that may have a standing episode: one of which nothing counts any more must still be seen to clear."""
        limit = rules.library.policy.clear_probability
        return {risk.drug for risk in before[-1].risks if risk.probability >= limit} if before else set()

    def _close(self, rules: Rules) -> int | None:
        """Fold decisions that no record can reach any more into the episodes that stood after them.

        The last of them stays, as what the first open point follows.

        Returns:
            Before this time (UTC ns) decisions are closed; None while none can be.
        """
        closed = self.timeline.closed(rules.times)
        if closed is None:
            return None
        past = [d for d in self.decisions if d.at < closed][:-1]
        if past:
            told = tell_story(past, rules.library.policy, rules.source, self.patient, self.opening)
            self.opening = tuple(e for e in told if e.ended is None)
            self.decisions = self.decisions[len(past) :]
            standing = {e.id for e in self.opening}
            since = self.decisions[0].at
            self.announced = {
                i: a for i, a in self.announced.items() if a.episode.crossing >= since or i in standing
            }
        return closed


def thaw(stored: StoredTwin, rules: Rules, memo: Memo | None = None) -> Twin:
    """Bring a twin back from its bytes.

    Args:
        stored: From `freeze`.
        rules: Those it was frozen under.
        memo: Cache to share with other twins.

    Raises:
        msgspec.ValidationError: The bytes were written in another format.
    """
    document = _DOCUMENT.decode(stored.canonical)
    memory = _MEMORY.decode(stored.rest)
    timeline = Timeline(
        entries={e.identity: e for e in document.entries},
        frames={e.identity: e for e in memory.frames},
        telemetry=Telemetry.of(document.windows),
        watermark=document.watermark or None,
        highest=memory.highest,
        gone_until=memory.gone_until,
        forgotten=memory.forgotten,
        clocks=Clocks.of(memory.clocks),
    )
    twin = Twin(
        patient=document.patient,
        timeline=timeline,
        decisions=list(memory.decisions),
        announced={a.episode.id: a for a in memory.announced},
        opening=memory.opening,
        settled_revised=memory.settled_revised,
        memo=Memo() if memo is None else memo,
    )
    twin.story = tell_story(twin.decisions, rules.library.policy, rules.source, twin.patient, twin.opening)
    return twin


def encode(part: TwinDocument | TwinMemory) -> bytes:
    """Deterministic bytes of a document: same values, same bytes."""
    return msgspec.msgpack.encode(part, order="deterministic")
