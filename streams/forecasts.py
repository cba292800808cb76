"""How well stored twins forecast the levels that were then measured.

Every twin keeps, beside each level, the forecast of it as of the instant before its draw. This reads those, and
nothing else: no model runs here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from twinstate.estimate import LevelCheck
from twinstate.risk.assess import Interval
from twinstate.twin import TwinDocument


@dataclass
class ForecastScore:
    """Forecasts of one drug's levels, after the patient's first.

    Attributes:
        drug: Drug.
        errors: |median - observed| / observed of the twin's forecasts.
        covered: Whether the twin's 90 % interval held the level.
        population_errors: The same for the population's forecast of the same levels.
        population_covered: Whether the population's interval held it.
    """

    drug: str
    errors: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    population_errors: list[float] = field(default_factory=list)
    population_covered: list[bool] = field(default_factory=list)

    @property
    def levels(self) -> int:
        """Forecasts counted."""
        return len(self.errors)

    @property
    def median_error(self) -> float:
        """Median absolute error of the twin, fraction of the level."""
        return float(np.median(self.errors))

    @property
    def coverage(self) -> float:
        """Share of levels inside the twin's 90 % interval."""
        return float(np.mean(self.covered))

    @property
    def population_median_error(self) -> float:
        """Median absolute error of the population, fraction of the level."""
        return float(np.median(self.population_errors))

    @property
    def population_coverage(self) -> float:
        """Share of levels inside the population's 90 % interval."""
        return float(np.mean(self.population_covered))

    def count(self, check: LevelCheck) -> None:
        """Add one level."""
        self.errors.append(_error(check.forecast, check.observed))
        self.covered.append(_holds(check.forecast, check.observed))
        self.population_errors.append(_error(check.population, check.observed))
        self.population_covered.append(_holds(check.population, check.observed))


def score_forecasts(twins: Iterable[TwinDocument], drugs: Iterable[str]) -> list[ForecastScore]:
    """Score the forecasts of every uncensored level that was not its patient's first.

    Args:
        twins: Stored twins.
        drugs: Which drugs to score, in this order.
    """
    scores = {drug: ForecastScore(drug) for drug in drugs}
    for twin in twins:
        for estimate in twin.estimates:
            score = scores.get(estimate.drug)
            if score is None:
                continue
            for check in estimate.checks:
                if check.levels_before > 0 and not check.censored:
                    score.count(check)
    return [score for score in scores.values() if score.levels]


def _error(forecast: Interval, observed: float) -> float:
    return abs(forecast.median - observed) / observed


def _holds(forecast: Interval, observed: float) -> bool:
    return forecast.low <= observed <= forecast.high
