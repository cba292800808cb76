"""From `config/signals.yaml` to the catalogue of signals, laboratory tests and covariates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from twinstate.catalogue import Analyte, Bounds, Covariate, Gene, Provenance, Signal
from twinstate.errors import LibraryError
from twinstate.reading.forms import AnalyteForm, CovariateForm, SignalForm, SignalsFile, Sourced


class Catalogue(NamedTuple):
    """Rows by slug, in alphabetical order."""

    signals: dict[str, Signal]
    analytes: dict[str, Analyte]
    covariates: dict[str, Covariate]
    genes: dict[str, Gene]


def read_catalogue(place: str, form: SignalsFile) -> Catalogue:
    """Build the catalogue and check that its rows fit together.

    Args:
        place: The file's name, for errors.
        form: What it holds, its form already checked.

    Raises:
        LibraryError: Naming file, key, value, rule and way out.
    """
    analytes = {slug: _analyte(place, slug, row) for slug, row in sorted(form.analytes.items())}
    catalogue = Catalogue(
        signals={slug: _signal(place, slug, row) for slug, row in sorted(form.signals.items())},
        analytes=analytes,
        covariates={
            slug: _covariate(place, slug, row, analytes) for slug, row in sorted(form.covariates.items())
        },
        genes={
            symbol: Gene(
                symbol,
                row.meaning,
                tuple(row.words),
                Provenance(row.status, row.source or "see the head of the file"),
            )
            for symbol, row in sorted(form.genes.items())
        },
    )
    _check_feeds(place, catalogue)
    _check_codes(place, (signal.loinc for signal in catalogue.signals.values()))
    _check_codes(place, (analyte.loinc for analyte in analytes.values()))
    return catalogue


def _check_feeds(place: str, catalogue: Catalogue) -> None:
    for analyte in catalogue.analytes.values():
        if analyte.covariate is None:
            continue
        fed = catalogue.covariates.get(analyte.covariate)
        if fed is None or fed.unit != analyte.unit:
            state = "not listed under covariates" if fed is None else f"in {fed.unit or 'no unit'}"
            raise LibraryError(
                f"{place}: analytes.{analyte.slug}.covariate is {analyte.covariate}, which is {state}; it must be a "
                f"number in {analyte.unit}, the unit of the analyte"
            )


def _check_codes(place: str, codes: Iterable[tuple[str, ...]]) -> None:
    for code, times in Counter(code for row in codes for code in row).items():
        if times > 1:
            raise LibraryError(
                f"{place}: the LOINC code {code} stands in {times} rows, but an alias names one row only"
            )


def _bounds(place: str, key: str, pair: list[float]) -> Bounds:
    low, high = pair
    if low >= high:
        raise LibraryError(f"{place}: {key} is [{low:g}, {high:g}], but the first must be below the second")
    return Bounds(float(low), float(high))


def _units(
    place: str, key: str, unit: str, units: Mapping[str, float], canonical_is_sent: bool = True
) -> dict[str, float]:
    """Factors, the canonical unit first; it may be missing where it is never sent."""
    if not canonical_is_sent and unit not in units:
        return {name: float(factor) for name, factor in units.items()}
    if units.get(unit) != 1:
        raise LibraryError(
            f"{place}: {key}.units has {units.get(unit, 'no row')} for the canonical unit '{unit}', which must have "
            f'the factor 1; add "{unit}": 1'
        )
    return {unit: 1.0, **{name: float(factor) for name, factor in units.items() if name != unit}}


def _provenance(**rows: Sourced) -> dict[str, Provenance]:
    return {
        part: Provenance(row.status, row.source or "see the head of the file") for part, row in rows.items()
    }


def _signal(place: str, slug: str, row: SignalForm) -> Signal:
    key = f"signals.{slug}"
    if (row.device_sd is None) != (row.noise is None):
        raise LibraryError(
            f"{place}: {key} has one of device_sd and noise, but a figure and its source come together"
        )
    return Signal(
        slug=slug,
        title=row.title,
        loinc=tuple(row.loinc),
        unit=row.unit,
        units=_units(place, key, row.unit, row.units),
        resolution=row.resolution,
        reject=_bounds(place, f"{key}.reject", row.reject),
        usual=_bounds(place, f"{key}.flag", row.flag) if row.flag else None,
        keep_h=row.keep_hours,
        device_sd=row.device_sd,
        provenance=_provenance(
            codes=row.codes, bounds=row.bounds, **({"noise": row.noise} if row.noise else {})
        ),
        still_minutes=row.still_minutes or 0.0,
    )


def _analyte(place: str, slug: str, row: AnalyteForm) -> Analyte:
    key = f"analytes.{slug}"
    if row.reported is not None and row.reported not in row.units:
        raise LibraryError(
            f"{place}: {key}.reported is {row.reported}, which is not among its units ({', '.join(row.units)}); add it"
        )
    return Analyte(
        slug=slug,
        title=row.title,
        loinc=tuple(row.loinc),
        unit=row.unit,
        units=_units(place, key, row.unit, row.units, canonical_is_sent=row.reported is None),
        reject=_bounds(place, f"{key}.reject", row.reject),
        usual=_bounds(place, f"{key}.flag", row.flag) if row.flag else None,
        covariate=row.covariate,
        reported=row.reported or row.unit,
        provenance=_provenance(codes=row.codes, bounds=row.bounds),
    )


def _covariate(place: str, slug: str, row: CovariateForm, analytes: Mapping[str, Analyte]) -> Covariate:
    key = f"covariates.{slug}"
    numeric = [name for name in ("unit", "units", "bounds") if getattr(row, name) is not None]
    if len(numeric) != (3 if row.kind == "number" else 0):
        raise LibraryError(
            f"{place}: {key} is a {row.kind} with {', '.join(numeric) or 'no unit'}, but a number, and only it, has "
            "unit, units and bounds"
        )
    if (row.kind == "category") != (len(row.categories) >= 2):
        raise LibraryError(
            f"{place}: {key} is a {row.kind} with {len(row.categories)} categories, but a category, and only it, has "
            "two or more"
        )
    return Covariate(
        slug=slug,
        kind=row.kind,
        meaning=row.meaning,
        unit=row.unit or "",
        units=_units(place, key, row.unit, row.units) if row.unit and row.units else {},
        bounds=_bounds(place, f"{key}.bounds", row.bounds) if row.bounds else None,
        categories=tuple(row.categories),
        fed_by=tuple(analyte.slug for analyte in analytes.values() if analyte.covariate == slug),
    )
