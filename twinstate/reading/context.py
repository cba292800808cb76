"""What every part of a drug file needs while it is read: where it stands, what else is known, how to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from twinstate import units
from twinstate.catalogue import Analyte, Covariate, Provenance, Signal
from twinstate.errors import LibraryError, UnitError
from twinstate.population.covariates import DERIVED
from twinstate.reading import forms


class Context:
    """One drug file being read.

    Args:
        place: The file's name, for errors.
        form: What it holds, its form already checked.
        signals: Catalogue of wearable signals.
        analytes: Catalogue of laboratory tests.
        covariates: Catalogue of covariates.

    Attributes:
        needed: Covariates the model may read, filled while reading.
        provenance: Status and source of every row read, by its key in the file.
    """

    def __init__(
        self,
        place: str,
        form: forms.DrugForm,
        signals: Mapping[str, Signal],
        analytes: Mapping[str, Analyte],
        covariates: Mapping[str, Covariate],
    ) -> None:
        self.place = place
        self.form = form
        self.analytes = analytes
        self.needed: set[str] = set()
        self.provenance: dict[str, Provenance] = {}
        self._signals = signals
        self._covariates = covariates

    def refuse(self, key: str, value: object, rule: str) -> NoReturn:
        """Say file, key, value, rule and way out.

        Raises:
            LibraryError: Always.
        """
        raise LibraryError(f"{self.place}: {key} is {value}, {rule}")

    def noted(self, key: str, row: forms.Sourced) -> Provenance:
        """Remember a row's status and source, the file's where it has none."""
        self.provenance[key] = Provenance(row.status, row.source or self.form.source)
        return self.provenance[key]

    def canonical(self, key: str, value: float, unit: str | None, allowed: Mapping[str, float]) -> float:
        """Express a number of the file in the canonical unit.

        Raises:
            LibraryError: Without a unit, or with one that is not read here.
        """
        if unit is None:
            self.refuse(key, f"{value:g} without a unit", f"but needs one of: {', '.join(allowed)}")
        try:
            return units.to_canonical(value, unit, allowed, key)
        except UnitError as wrong:
            raise LibraryError(f"{self.place}: {wrong}") from None

    def signal(self, key: str, slug: str) -> Signal:
        """The wearable signal of this name.

        Raises:
            LibraryError: There is none.
        """
        if slug not in self._signals:
            self.refuse(key, slug, "which config/signals.yaml does not list; add a row to its signals")
        return self._signals[slug]

    def covariate(self, key: str, slug: str | None, kind: str | None = None) -> Covariate:
        """The covariate of this name, noted as one the model needs.

        Raises:
            LibraryError: There is none, or it is not of the kind asked for.
        """
        row = self._covariates.get(slug or "")
        if row is None:
            rule = "which config/signals.yaml does not list under covariates; add a row there"
            self.refuse(key, slug or "without a covariate", rule)
        if kind is not None and row.kind != kind:
            self.refuse(key, slug, f"which is a {row.kind}, where a {kind} is needed")
        if row.slug == "creatinine_clearance" and self.form.derived.creatinine_clearance is None:
            rule = "but derived.creatinine_clearance does not say how the paper computed it; add its method"
            self.refuse(key, slug, rule)
        self.needed.update((row.slug, *DERIVED.get(row.slug, ())))
        return row

    def needed_rows(self) -> dict[str, Covariate]:
        """Catalogue rows of everything the model may read, by name."""
        return {name: self._covariates[name] for name in sorted(self.needed)}

    def check_word(self, key: str, covariate: Covariate, word: object) -> None:
        """Make sure a flag or category can have this value.

        Raises:
            LibraryError: It cannot.
        """
        if covariate.kind == "flag":
            known = isinstance(word, bool)
        else:
            known = isinstance(word, str) and word in covariate.categories
        if not known:
            words = {"flag": "true or false", "number": "below or at_least and a number"}
            self.refuse(
                key,
                word,
                f"but {covariate.slug} can be {words.get(covariate.kind, ' or '.join(covariate.categories))}",
            )
