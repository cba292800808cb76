"""What is really so in the virtual ward: known to tests and benchmarks, never published."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.simulation.dice import Floats
from streams.simulation.wire import DemoRecord
from twinstate.types import NS_PER_HOUR


class Story(enum.StrEnum):
    """What happens to a virtual patient."""

    ORDINARY = "ordinary"
    OVERDOSE = "overdose"  # every dose about 2.5 to 4 times too high
    FALLING_KIDNEYS = "falling kidneys"  # an ordinary dose goes on while creatinine rises
    RAISED_BASELINE = "raised baseline"  # a long QTc before and without the drug


@dataclass(frozen=True)
class Truth:
    """One virtual patient as the simulator knows him.

    Attributes:
        patient: Pseudonym.
        drug: Drug.
        story: What happens to him.
        threshold: Row of the drug file this is about: `high_auc24` or `qtc_rise`.
        limit: mg*h/L or ms; crossing it is the harm.
        eta: Deviation of each log-parameter from the typical one, by parameter.
        parameters: His own values of parameters the drug does not share, such as `baseline_ms` and `emax_ms`.
        first_dose: UTC ns.
        crossing: When the true metric first exceeds the limit, UTC ns, to 5 min; None when it never does.
        peak: Highest true metric, in the limit's unit.
        typical_peak: The same for a typical patient with his covariates and doses, all etas 0.
    """

    patient: str
    drug: str
    story: Story
    threshold: str
    limit: float
    eta: dict[str, float]
    parameters: dict[str, float]
    first_dose: int
    crossing: int | None
    peak: float
    typical_peak: float

    @property
    def overdosed(self) -> bool:
        """Whether a risk event for his threshold is due."""
        return self.story in (Story.OVERDOSE, Story.FALLING_KIDNEYS)


class Simulated(NamedTuple):
    """A virtual patient: what is published, and what is true."""

    records: list[DemoRecord]
    truth: Truth


def first_above(time_h: Floats, metric: Floats, limit: float) -> int | None:
    """The first of the times (h since 1970) at which the metric exceeds its limit, as UTC ns; both shape (times,)."""
    above: NDArray[np.intp] = np.flatnonzero(metric > limit)
    return round(float(time_h[above[0]]) * 3600.0) * (NS_PER_HOUR // 3600) if above.size else None
