"""From evaluation points to episodes, and from episodes to what subscribers must hear."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

from streams.oracle.acceptance import Chart, absences, frames_of, hour_end, records_of, watermark_of
from streams.oracle.exposure import Exposure, contradictory, expose, horizon_of, risk_of
from streams.oracle.known import drugs_named, heard, know
from twinstate.drug import DrugModel, Threshold
from twinstate.errors import OF_THE_MACHINE, CovariateError
from twinstate.history import Entry
from twinstate.library import Library
from twinstate.policy import Policy
from twinstate.risk.episodes import PointRisk


class Point(NamedTuple):
    """One evaluation point: what every threshold says there, or that the patient leaves."""

    at: int
    risks: tuple[PointRisk, ...]
    leaves: bool


@dataclass
class Spell:
    """One episode, as it stands after the points looked at so far; fields as events tell them."""

    id: str
    drug: str
    threshold: str
    crossing: int
    severity: str
    ended: int | None
    reason: str
    latest: int
    risk: PointRisk


@dataclass
class Told:
    """What subscribers last heard of an episode, and how many events that makes."""

    spell: Spell
    type: str
    revision: int


class Event(NamedTuple):
    """One transition."""

    type: str
    spell: Spell
    revision: int
    replaces: str | None
    replaced_by: str | None


def evaluation_times(chart: Chart) -> list[tuple[int, bool]]:
    """Evaluation points up to the watermark in order, UTC ns, and whether the patient leaves there."""
    watermark = watermark_of(chart)
    away = absences(chart)
    times = {record.event_time for record in records_of(chart)}
    for frame in frames_of(chart):
        if watermark is not None and hour_end(frame.event_time) <= watermark and _has_windows(frame):
            times.add(hour_end(frame.event_time))
    points = []
    for time in sorted(times):
        leaves = any(time == left for left, _ in away)
        absent = any(left < time and (back is None or time < back) for left, back in away)
        if leaves or not absent:
            points.append((time, leaves))
    return points


def evaluate(chart: Chart, library: Library, computed: dict[int, Point], closed: int | None) -> list[Point]:
    """Every point of a chart in order; those in `computed` are taken from there, the others are put there.

    Args:
        chart: The patient's records.
        library: Models, signals and policy.
        computed: Points evaluated before; one that failed is not among them.
        closed: Points before this time (UTC ns) stay as they were decided; None while all are open.
    """
    points = [point for time, point in sorted(computed.items()) if closed is not None and time < closed]
    records = records_of(chart)
    for time, leaves in evaluation_times(chart):
        if closed is not None and time < closed:
            continue
        if leaves:
            computed[time] = Point(time, (), leaves=True)
        elif time not in computed:
            before = points[-1].risks if points else ()
            risks, failed = _risks(chart, records, library, time, before)
            if failed:  # not remembered: tried again with the next record
                points.append(Point(time, risks, leaves=False))
                continue
            computed[time] = Point(time, risks, leaves=False)
        points.append(computed[time])
    return points


def _risks(
    chart: Chart, records: list[Entry], library: Library, at: int, before: tuple[PointRisk, ...]
) -> tuple[tuple[PointRisk, ...], bool]:
    """What every threshold says at a point, and whether the arithmetic of some drug failed there."""
    records = [record for record in records if record.event_time <= at]
    # Of a feared drug nothing may count any more; then it must be seen to clear.
    feared = {risk.drug for risk in before if risk.probability >= library.policy.clear_probability}
    risks: list[PointRisk] = []
    failed = False
    for drug in sorted({*drugs_named(records, library, at), *feared}):
        if not library.drugs[drug].thresholds:
            continue
        try:
            risks.extend(_risks_of(chart, records, library.drugs[drug], library, at))
        except OF_THE_MACHINE:
            raise
        except Exception as error:
            # What cannot be assessed keeps what was last said of it; the other drugs go on.
            failed = failed or not isinstance(error, CovariateError)
            risks.extend(risk for risk in before if risk.drug == drug)
    return tuple(risks), failed


def _risks_of(
    chart: Chart, records: list[Entry], model: DrugModel, library: Library, at: int
) -> list[PointRisk]:
    known = know(records, model, library, at, horizon_of(model))
    exposure = expose(model, known, at, horizon_of(model), heard(chart, model, at, until_hour=at), library)
    risks = []
    for threshold in model.thresholds:
        risk = risk_of(exposure, model, threshold)
        if risk is None:
            continue
        risks.append(
            PointRisk(
                drug=model.drug,
                threshold=threshold.name,
                version=threshold.version,
                probability=risk.probability,
                error=risk.error,
                median=risk.metric.median,
                low=risk.metric.low,
                high=risk.metric.high,
                capped=bool(known.outside) or contradictory(exposure, known),
                planned=known.has_plan,
                levels=len(known.levels),
                distrusted=_distrusted(exposure, threshold),
            )
        )
    return risks


def _distrusted(exposure: Exposure, threshold: Threshold) -> tuple[str, ...]:
    """Devices without trust behind a threshold: only one on a signal has devices behind it."""
    if exposure.channel is None:
        return ()
    return {
        "effect_rise": exposure.channel.distrusted,
        "signal_high": exposure.channel.distrusted,
        "signal_low": exposure.channel.distrusted,
    }.get(threshold.metric, ())


def spells_of(points: list[Point], policy: Policy, source: str, patient: str) -> list[Spell]:
    """Every episode, ordered by drug, threshold and crossing."""
    spells: list[Spell] = []
    for drug, threshold in sorted({(risk.drug, risk.threshold) for point in points for risk in point.risks}):
        standing: Spell | None = None
        for point in points:
            if point.leaves:
                if standing is not None:
                    spells.append(replace(standing, ended=point.at, reason="discharged", latest=point.at))
                standing = None
            for risk in point.risks:
                if (risk.drug, risk.threshold) != (drug, threshold):
                    continue
                if standing is None and risk.probability >= policy.raise_probability:
                    name = hashed(source, patient, drug, threshold, risk.version, str(point.at))
                    severity = _severity("", risk, policy)
                    standing = Spell(name, drug, threshold, point.at, severity, None, "", point.at, risk)
                elif standing is not None and risk.probability < policy.clear_probability:
                    spells.append(
                        replace(standing, ended=point.at, reason="below", latest=point.at, risk=risk)
                    )
                    standing = None
                elif standing is not None:
                    severity = _severity(standing.severity, risk, policy)
                    standing = replace(standing, severity=severity, latest=point.at, risk=risk)
        if standing is not None:
            spells.append(standing)
    return spells


def tell(spells: list[Spell], told: dict[str, Told]) -> list[Event]:
    """Bring subscribers from what they were told to what is; `told` follows.

    Drug by drug and threshold by threshold: first the episodes that are, in order of their crossings, then those that
    turned out never to have been.
    """
    events: list[Event] = []

    def say(type: str, spell: Spell, replaces: str | None = None, replaced_by: str | None = None) -> None:
        revision = told[spell.id].revision + 1 if spell.id in told else 1
        told[spell.id] = Told(spell, type, revision)
        events.append(Event(type, spell, revision, replaces, replaced_by))

    existing = {spell.id for spell in spells}
    undone = [t.spell for t in told.values() if t.spell.id not in existing and t.type != "retracted"]
    undone.sort(key=lambda spell: (spell.drug, spell.threshold, spell.crossing))
    for key in sorted({(spell.drug, spell.threshold) for spell in [*spells, *undone]}):
        mistakes = [spell for spell in undone if (spell.drug, spell.threshold) == key]
        new: list[Spell] = []
        for spell in spells:
            if (spell.drug, spell.threshold) != key:
                continue
            before = told.get(spell.id)
            if before is None or before.type == "retracted":
                say("raised", spell, replaces=mistakes[len(new)].id if len(new) < len(mistakes) else None)
                new.append(spell)
            elif before.type == "cleared" and spell.ended is None:
                say("raised", spell)
            elif before.type != "cleared" and spell.ended is None and before.spell.severity != spell.severity:
                say("updated", spell)
            if spell.ended is not None and told[spell.id].type in ("raised", "updated"):
                say("cleared", spell)
        for place, spell in enumerate(mistakes):
            say("retracted", spell, replaced_by=new[place].id if place < len(new) else None)
    return events


def tell_what_stands(spells: list[Spell], told: dict[str, Told]) -> list[Event]:
    """The same after a change of library, when the past reads differently: only of what stands, now or for subscribers.

    What is over on both sides is put right in `told` without a word.
    """
    standing = {spell.id for spell in spells if spell.ended is None}
    standing |= {name for name, known in told.items() if known.type in ("raised", "updated")}
    of_those = {name: known for name, known in told.items() if name in standing}
    events = tell([spell for spell in spells if spell.id in standing], of_those)
    told.update(of_those)
    over = {spell.id: spell for spell in spells if spell.id not in standing}
    for name, known in told.items():
        if name not in standing:
            known.type = "cleared" if name in over else "retracted"
    for name, spell in over.items():
        if name not in told:
            told[name] = Told(spell, "cleared", 0)
    return events


def hashed(*parts: str) -> str:
    """SHA-256 of parts with a separator, as 26 letters and digits."""
    digest = hashlib.sha256(chr(31).join(parts).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:26]


def _has_windows(entry: Entry) -> bool:
    """A frame in which the device measured nothing is no point."""
    return bool(getattr(entry.content, "windows", ()))


def _severity(before: str, risk: PointRisk, policy: Policy) -> str:
    if risk.capped and policy.out_of_domain_cap == "moderate":
        return "moderate"
    limit = policy.high_until_probability if before == "high" else policy.high_probability
    return "high" if risk.probability >= limit else "moderate"
