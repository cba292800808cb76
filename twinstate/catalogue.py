"""What can be measured and told of a patient: wearable signals, laboratory analytes, covariates.

Rows of `config/signals.yaml`, checked, with every unit's factor to the canonical one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Two star alleles, each with copies (*2x2) and tandems (*36+*10), as CPIC writes them.
_STAR_PAIR = re.compile(
    r"\*[0-9]+[A-Z]*(x[0-9]+)?(\+\*[0-9]+[A-Z]*)?/\*[0-9]+[A-Z]*(x[0-9]+)?(\+\*[0-9]+[A-Z]*)?"
)


@dataclass(frozen=True)
class Provenance:
    """Where a value comes from and how far that was checked.

    Attributes:
        status: V read in the named source; R recalled from professional knowledge; C computed from V values;
            A assumed here, for a stated reason; U unknown.
        source: Citation.
    """

    status: str
    source: str


@dataclass(frozen=True)
class Bounds:
    """A closed range in the canonical unit."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range, ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Signal:
    """One wearable channel.

    Attributes:
        slug: Name on the wire.
        title: Name for people.
        loinc: Codes, the usual one first.
        unit: Canonical UCUM unit.
        units: Factor to `unit` of every unit that is read.
        resolution: Step to which samples are quantised, in `unit`.
        reject: Outside it a sample is an artefact and is dropped.
        usual: Outside it a sample is kept and marked; None where nothing is known.
        keep_h: How long windows count, h.
        device_sd: Published spread of one reading against a reference device, in `unit`; None where unknown.
        still_minutes: How long a working device may give one and the same value.
        provenance: Of `codes`, `bounds` and `noise`.
    """

    slug: str
    title: str
    loinc: tuple[str, ...]
    unit: str
    units: Mapping[str, float]
    resolution: float
    reject: Bounds
    usual: Bounds | None
    keep_h: float
    device_sd: float | None
    provenance: Mapping[str, Provenance]
    still_minutes: float = 0.0


@dataclass(frozen=True)
class Analyte:
    """One laboratory test.

    Attributes:
        slug: Name on the wire.
        title: Name for people.
        loinc: Codes that are read as aliases of the slug.
        unit: Canonical UCUM unit (mg/L for drug levels).
        units: Factor to `unit` of every unit that is read.
        reject: Outside it a result is refused.
        usual: Outside it a result is kept and marked; None where nothing is known.
        covariate: The covariate this result updates, in the same canonical unit; None for most.
        reported: The unit people read it in, one of `units`.
        provenance: Of `codes` and `bounds`.
    """

    slug: str
    title: str
    loinc: tuple[str, ...]
    unit: str
    units: Mapping[str, float]
    reject: Bounds
    usual: Bounds | None
    covariate: str | None
    reported: str
    provenance: Mapping[str, Provenance]


@dataclass(frozen=True)
class Gene:
    """One gene whose diplotype a `patient` record may tell.

    Attributes:
        symbol: Name on the wire.
        meaning: What it changes, for people.
        words: All diplotypes there are; empty where they are pairs of star alleles.
        provenance: Of the nomenclature.
    """

    symbol: str
    meaning: str
    words: tuple[str, ...]
    provenance: Provenance

    def reads(self, diplotype: str) -> bool:
        """Whether this is a diplotype as the gene's nomenclature writes one."""
        if self.words:
            return diplotype in self.words
        return _STAR_PAIR.fullmatch(diplotype) is not None


@dataclass(frozen=True)
class Covariate:
    """One thing a `patient` record may tell.

    Attributes:
        slug: Name on the wire.
        kind: `number`, `flag` (true or false) or `category`.
        meaning: What it says, for people who must send it.
        unit: Canonical unit of a number, else empty.
        units: Factor to `unit` of every unit that is read.
        bounds: Of a number; outside it the record is refused.
        categories: Words of a category.
        fed_by: Analytes whose results update it.
    """

    slug: str
    kind: str
    meaning: str
    unit: str
    units: Mapping[str, float]
    bounds: Bounds | None
    categories: tuple[str, ...]
    fed_by: tuple[str, ...]

    @property
    def example(self) -> str:
        """The JSON member a sender would write."""
        if self.kind == "flag":
            return f'"{self.slug}": false'
        if self.kind == "category":
            return f'"{self.slug}": "{self.categories[0]}"'
        return f'"{self.slug}": {{"value": ..., "unit": "{self.unit}"}}'
