"""The unit people read a drug's level in, where it is not the canonical one.

Twins, records and events hold canonical units (mg/L); answers, tables and pictures speak the unit of the laboratory's
report: ng/mL of tacrolimus, mmol/L of lithium.
"""

from __future__ import annotations

from typing import NamedTuple

from twinstate.drug import DrugModel, Threshold
from twinstate.library import Library

LEVEL_METRICS = ("concentration", "trough", "level_after")
EXPOSURE_METRICS = ("auc24", "auc_total")


class Scale(NamedTuple):
    """A unit, and what one of it is in the canonical unit."""

    unit: str
    factor: float

    def shown(self, value: float) -> float:
        """A canonical value in this unit."""
        return value if self.factor == 1.0 else value / self.factor


class Scales(NamedTuple):
    """In which units one drug is shown.

    Attributes:
        level: Of a concentration (mg/L).
        exposure: Of an area under it (mg*h/L).
        second: Of the second output.
        measured: Of what the drug's laboratory test reads: the level, or the second output.
    """

    level: Scale
    exposure: Scale
    second: Scale
    measured: Scale

    def of_output(self, output: str) -> Scale:
        """The scale of a test that reads `concentration` or `second`."""
        return self.second if output == "second" else self.level

    def of(self, threshold: Threshold) -> Scale:
        """The scale of a threshold's metric; the second output and a channel keep the threshold's own unit."""
        if threshold.metric in LEVEL_METRICS:
            return self.level
        if threshold.metric in EXPOSURE_METRICS:
            return self.exposure
        return Scale(threshold.unit, 1.0)


def scales_of(model: DrugModel, library: Library) -> Scales:
    """The units in which the laboratory reports what this model says."""
    names = [model.analyte] if model.observes == "concentration" else []
    names += [row.analyte for row in model.also_observed if row.output == "concentration"]
    level = Scale("mg/L", 1.0)
    if names:
        row = library.analytes[names[0]]
        level = Scale(row.reported, row.units[row.reported])
    amount, _, volume = level.unit.partition("/")
    second = Scale(model.unit_of("second"), 1.0)
    return Scales(
        level,
        Scale(f"{amount}*h/{volume}", level.factor),
        second,
        level if model.observes == "concentration" else second,
    )
