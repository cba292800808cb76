"""Episodes of risk: a story told again from decisions fixed in event time, and what subscribers must still hear.

The *story* is a pure function of the decisions: an episode is raised at the first point whose probability reaches
`raise_probability`, steps in severity, and ends when the probability falls below `clear_probability` or the patient is
discharged. What was *announced* before is compared with the story; the difference is the transitions to emit. A late
record therefore needs no special case: it changes decisions, and the difference says what to raise and retract.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from twinstate.policy import Policy

MODERATE = "moderate"
HIGH = "high"
RAISED = "raised"
UPDATED = "updated"
CLEARED = "cleared"
RETRACTED = "retracted"


class PointRisk(msgspec.Struct, frozen=True, array_like=True):
    """What one evaluation point says of one threshold of one drug."""

    drug: str
    threshold: str
    version: str
    probability: float
    error: float
    median: float
    low: float
    high: float
    capped: bool  # input outside the model's domain: the severity is held at moderate
    planned: bool  # a regimen is in force; otherwise no further doses were assumed
    levels: int  # levels that informed the estimate
    distrusted: tuple[str, ...] = ()  # devices without trust, each `name:why`, of the signal it rests on


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """One evaluation point.

    Attributes:
        at: UTC ns.
        risks: Every threshold assessed; a threshold that could not be assessed is absent and keeps its state.
        discharged: The patient left at this point.
        failure: Why the arithmetic failed here; the decision then keeps what the point before decided.
    """

    at: int
    risks: tuple[PointRisk, ...]
    discharged: bool = False
    failure: str = ""


class Episode(msgspec.Struct, frozen=True, array_like=True):
    """One stay above a threshold.

    Attributes:
        id: Hash of source, patient, drug, threshold and its version, and the crossing's event time.
        drug: Drug.
        threshold: Name of the threshold's row.
        crossing: Evaluation point that raised it, UTC ns.
        severity: `moderate` or `high`, as it last was.
        ended: Point that ended it, UTC ns; None while it stands.
        reason: Why it ended: `below`, `discharged` or `forgotten`; empty while it stands.
        latest: Point whose numbers describe it now, UTC ns.
        risk: Numbers of that point.
    """

    id: str
    drug: str
    threshold: str
    crossing: int
    severity: str
    ended: int | None
    reason: str
    latest: int
    risk: PointRisk


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """What subscribers have been told of an episode."""

    episode: Episode
    type: str  # the last event's type
    revision: int  # events emitted so far

    @property
    def standing(self) -> bool:
        """Subscribers hold this episode to be standing."""
        return self.type in (RAISED, UPDATED)


class Transition(NamedTuple):
    """One event to emit."""

    type: str
    episode: Episode
    revision: int
    replaces: str | None = None
    replaced_by: str | None = None


def episode_id(source: str, patient: str, risk: PointRisk, crossing: int) -> str:
    """Name an episode by its content, free of arrival order, offsets and processing time."""
    return content_id(source, patient, risk.drug, risk.threshold, risk.version, str(crossing))


def event_id(transition: Transition) -> str:
    """Name an event: the same episode, type and revision give the same id on every replay."""
    return content_id(transition.episode.id, transition.type, str(transition.revision))


def content_id(*parts: str) -> str:
    """26 letters and digits hashed from parts that cannot run into one another."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:26]


def tell_story(
    decisions: Sequence[Decision], policy: Policy, source: str, patient: str, opening: Sequence[Episode] = ()
) -> list[Episode]:
    """Every episode the decisions make, ordered by drug, threshold and crossing.

    Args:
        decisions: Evaluation points in event time.
        policy: Probabilities that raise, step and clear.
        source: CloudEvents source, part of the episode's name.
        patient: Pseudonym, part of the episode's name.
        opening: Episodes standing before the first decision kept.
    """
    ended: list[Episode] = []
    standing = {(e.drug, e.threshold): e for e in opening}
    for decision in decisions:
        if decision.discharged:
            ended += [
                msgspec.structs.replace(e, ended=decision.at, reason="discharged", latest=decision.at)
                for e in standing.values()
            ]
            standing.clear()
            continue
        for risk in decision.risks:
            key = (risk.drug, risk.threshold)
            episode = standing.get(key)
            if episode is None:
                if risk.probability >= policy.raise_probability:
                    standing[key] = Episode(
                        id=episode_id(source, patient, risk, decision.at),
                        drug=risk.drug,
                        threshold=risk.threshold,
                        crossing=decision.at,
                        severity=_severity(None, risk, policy),
                        ended=None,
                        reason="",
                        latest=decision.at,
                        risk=risk,
                    )
            elif risk.probability < policy.clear_probability:
                del standing[key]
                ended.append(
                    msgspec.structs.replace(
                        episode, ended=decision.at, reason="below", latest=decision.at, risk=risk
                    )
                )
            else:
                severity = _severity(episode.severity, risk, policy)
                standing[key] = msgspec.structs.replace(
                    episode, severity=severity, latest=decision.at, risk=risk
                )
    return sorted([*ended, *standing.values()], key=lambda e: (e.drug, e.threshold, e.crossing))


def announce(
    story: Iterable[Episode], announced: dict[str, Announcement]
) -> tuple[list[Transition], dict[str, Announcement]]:
    """Compare the story with what subscribers know.

    Within a drug and threshold, the new crossing is raised before the old one is retracted, so that a subscriber never
    sees a standing risk vanish for a moment.

    Returns:
        Transitions in the order to emit them, and what subscribers know afterwards.
    """
    told = dict(announced)
    story = list(story)
    living = {episode.id for episode in story}
    undone: dict[tuple[str, str], list[Announcement]] = {}
    for known in sorted(announced.values(), key=lambda a: a.episode.crossing):
        if known.episode.id not in living and known.type != RETRACTED:
            undone.setdefault((known.episode.drug, known.episode.threshold), []).append(known)
    transitions: list[Transition] = []

    def tell(
        kind: str, episode: Episode, replaces: str | None = None, replaced_by: str | None = None
    ) -> None:
        known = told.get(episode.id)
        revision = 1 if known is None else known.revision + 1
        told[episode.id] = Announcement(episode, kind, revision)
        transitions.append(Transition(kind, episode, revision, replaces, replaced_by))

    keys = sorted({(e.drug, e.threshold) for e in story} | set(undone))
    for key in keys:
        gone = undone.get(key, [])
        fresh: list[Episode] = []
        for episode in (e for e in story if (e.drug, e.threshold) == key):
            heard = told.get(episode.id)
            if heard is None or heard.type == RETRACTED:
                replaces = gone[len(fresh)].episode.id if len(fresh) < len(gone) else None
                fresh.append(episode)
                tell(RAISED, episode, replaces=replaces)
            elif not heard.standing and episode.ended is None:
                tell(RAISED, episode)
            elif heard.standing and heard.episode.severity != episode.severity and episode.ended is None:
                tell(UPDATED, episode)
            if episode.ended is not None and told[episode.id].standing:
                tell(CLEARED, episode)
        for i, mistaken in enumerate(gone):
            tell(RETRACTED, mistaken.episode, replaced_by=fresh[i].id if i < len(fresh) else None)
    return transitions, told


def retell(
    story: Iterable[Episode], told: Mapping[str, Announcement]
) -> tuple[list[Transition], dict[str, Announcement]]:
    """Compare a story with what was told, as far as anything stands: by the story, or for a subscriber.

    What is over on both sides is history. The memory of it is corrected, so that the next record does not bring it up
    again, but no event is sent: a threshold's new version would raise and clear every old episode once more.

    Args:
        story: Every episode, as the log tells it now.
        told: What subscribers were told before, by episode.

    Returns:
        Transitions in the order to emit them, and what subscribers know afterwards.
    """
    story = list(story)
    standing = {i for i, known in told.items() if known.standing} | {e.id for e in story if e.ended is None}
    transitions, knowledge = announce(
        [e for e in story if e.id in standing], {i: known for i, known in told.items() if i in standing}
    )
    over = {e.id: e for e in story if e.id not in standing}
    for identifier, known in told.items():
        if identifier not in standing:
            kind = CLEARED if identifier in over else RETRACTED
            knowledge[identifier] = msgspec.structs.replace(known, type=kind)
    for identifier, episode in over.items():
        if identifier not in told:
            knowledge[identifier] = Announcement(episode, CLEARED, 0)
    return transitions, knowledge


def _severity(before: str | None, risk: PointRisk, policy: Policy) -> str:
    if risk.capped and policy.out_of_domain_cap == MODERATE:
        return MODERATE
    if risk.probability >= policy.high_probability:
        return HIGH
    if before == HIGH and risk.probability >= policy.high_until_probability:
        return HIGH
    return MODERATE
