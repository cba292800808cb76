"""What every part of a drug file needs while it is read: where it stands, what else is known, how to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from twinstate import units
from twinstate.catalogue import Analyte, Covariate, Gene, Provenance, Signal
from twinstate.errors import LibraryError, UnitError
from twinstate.population.covariates import DERIVED
from twinstate.reading.drug_form import DrugForm
from twinstate.reading.forms import Sourced

SECOND_UNITS: Mapping[str, Mapping[str, float]] = {
    "metabolite": units.CONCENTRATION,
    "effect_site": units.CONCENTRATION,
    "coagulation_product": units.INR,
    "coagulation_mean": units.INR,
    "myelosuppression": units.CELLS,
}


class Context:
    """One drug file being read.

    Args:
        place: The file's name, for errors.
        form: What it holds, its form already checked.
        signals: Catalogue of wearable signals.
        analytes: Catalogue of laboratory tests.
        covariates: Catalogue of covariates.
        genes: Catalogue of genes.

    Attributes:
        needed: Covariates the model may read, filled while reading.
        provenance: Status and source of every row read, by its key in the file.
    """

    def __init__(
        self,
        place: str,
        form: DrugForm,
        signals: Mapping[str, Signal],
        analytes: Mapping[str, Analyte],
        covariates: Mapping[str, Covariate],
        genes: Mapping[str, Gene],
    ) -> None:
        self.place = place
        self.form = form
        self.analytes = analytes
        self.needed: set[str] = set()
        self.provenance: dict[str, Provenance] = {}
        self._signals = signals
        self._covariates = covariates
        self._genes = genes

    @property
    def second_units(self) -> Mapping[str, float]:
        """Units in which the second output is read, the canonical one first; empty without one."""
        return SECOND_UNITS[self.form.second.kind] if self.form.second else {}

    @property
    def second_unit(self) -> str:
        """Canonical unit of the second output; empty without one."""
        return next(iter(self.second_units), "")

    def row_provenance(self, status: str, source: str | None) -> Provenance:
        """A row's status and source, the file's where it has none."""
        return Provenance(status, source or self.form.source)

    def refuse(self, key: str, value: object, rule: str) -> NoReturn:
        """Say file, key, value, rule and way out.

        Raises:
            LibraryError: Always.
        """
        raise LibraryError(f"{self.place}: {key} is {value}, {rule}")

    def noted(self, key: str, row: Sourced) -> Provenance:
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
        for derived in ("creatinine_clearance", "lean_body_mass"):
            if row.slug == derived and getattr(self.form.derived, derived) is None:
                rule = f"but derived.{derived} does not say how the paper computed it; add its method"
                self.refuse(key, slug, rule)
        self.needed.update((row.slug, *DERIVED.get(row.slug, ())))
        return row

    def gene(self, key: str, symbol: str | None) -> Gene:
        """The gene of this name.

        Raises:
            LibraryError: There is none.
        """
        if symbol is None:
            self.refuse(key, "a table of a gene", "but that needs a gene, and no covariate")
        if symbol not in self._genes:
            self.refuse(
                f"{key}.gene", symbol, "which config/signals.yaml does not list; add a row to its genes"
            )
        return self._genes[symbol]

    def check_diplotype(self, key: str, gene: Gene, diplotype: str) -> None:
        """Make sure a gene can have this diplotype.

        Raises:
            LibraryError: It cannot.
        """
        if not gene.reads(diplotype):
            known = " or ".join(gene.words) or "two star alleles, as *1/*3"
            self.refuse(key, diplotype, f"but {gene.symbol} is written {known}")

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
