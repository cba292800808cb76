"""How probability becomes an episode, and how late a record may come: `config/risk.yaml`, checked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Limits every drug shares.

    Attributes:
        raise_probability: An episode begins at this probability of crossing the threshold, or above.
        clear_probability: It ends below this one.
        high_probability: Severity becomes `high` at this one, or above.
        high_until_probability: Severity falls back to `moderate` below this one.
        out_of_domain_cap: Highest severity of a patient outside the model's domain.
        late_h: First revisions of any kind but wearable: limit behind the watermark.
        late_wearable_h: The same for wearable frames.
        revise_h: Higher revisions (and history) of any kind but wearable.
        revise_wearable_h: Higher revisions of wearable frames.
        future_h: How far an event time may lie ahead of the broker's append time.
        settled_h: Event times this far behind the watermark are settled.
    """

    raise_probability: float
    clear_probability: float
    high_probability: float
    high_until_probability: float
    out_of_domain_cap: str
    late_h: float
    late_wearable_h: float
    revise_h: float
    revise_wearable_h: float
    future_h: float
    settled_h: float
