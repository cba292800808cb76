"""Reads `config/drugs/`, `config/signals.yaml` and `config/risk.yaml`, and checks form, units and meaning.

The one place of `twinstate` that opens a file. A drug is added by a file, a signal or a threshold by a row; what is
wrong is refused with file, key, value, rule and way out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from twinstate.catalogue import Analyte, Covariate, Gene, Signal
from twinstate.drug import DrugModel
from twinstate.errors import LibraryError
from twinstate.policy import Policy
from twinstate.reading.breach import read_form
from twinstate.reading.context import Context
from twinstate.reading.drug_file import read_drug
from twinstate.reading.drug_form import DrugForm
from twinstate.reading.forms import RiskFile, SignalsFile
from twinstate.reading.signals_file import read_catalogue


class DrugRow(NamedTuple):
    """A model in a list for people."""

    drug: str
    model: str
    default: bool
    population: str
    source: str
    routes: tuple[str, ...]
    compartments: int
    analyte: str
    covariates: tuple[str, ...]
    signal: str
    thresholds: tuple[str, ...]
    statuses: dict[str, int]
    notes: tuple[str, ...]


class SignalRow(NamedTuple):
    """Something measured or told, in a list for people."""

    kind: str
    slug: str
    title: str
    loinc: tuple[str, ...]
    unit: str
    read_units: tuple[str, ...]
    reject: str
    usual: str
    models: tuple[str, ...]
    statuses: dict[str, str]


@dataclass(frozen=True, eq=False)
class Library:
    """Everything under `config/` that decides what a twin says.

    Attributes:
        drugs: The default model of each drug.
        models: Every model by its file's stem.
        signals: Wearable signals by slug.
        analytes: Laboratory tests by slug.
        covariates: What a patient record may tell, by slug.
        genes: Genes whose diplotype it may tell, by symbol.
        policy: Limits every drug shares.
        fingerprint: SHA-256 (hex) over the content of all files; comments and layout do not count.
    """

    drugs: Mapping[str, DrugModel]
    models: Mapping[str, DrugModel]
    signals: Mapping[str, Signal]
    analytes: Mapping[str, Analyte]
    covariates: Mapping[str, Covariate]
    genes: Mapping[str, Gene]
    policy: Policy
    fingerprint: str

    def analyte(self, name: str) -> Analyte | None:
        """The laboratory test with this slug or LOINC code."""
        return self._analyte_names.get(name)

    def signal(self, name: str) -> Signal | None:
        """The wearable signal with this slug or LOINC code."""
        return self._signal_names.get(name)

    @cached_property
    def _analyte_names(self) -> dict[str, Analyte]:
        return {name: row for row in self.analytes.values() for name in (row.slug, *row.loinc)}

    @cached_property
    def _signal_names(self) -> dict[str, Signal]:
        return {name: row for row in self.signals.values() for name in (row.slug, *row.loinc)}

    def describe_drugs(self) -> tuple[DrugRow, ...]:
        """One row a model, by name."""
        return tuple(_drug_row(model) for _, model in sorted(self.models.items()))

    def describe_signals(self) -> tuple[SignalRow, ...]:
        """One row a signal, then one a laboratory test, each by name."""
        rows = []
        for signal in self.signals.values():
            used = tuple(
                m.model for m in self.models.values() if m.channel and m.channel.signal == signal.slug
            )
            rows.append(_signal_row("wearable", signal, used))
        for analyte in self.analytes.values():
            used = tuple(
                m.model
                for m in self.models.values()
                if analyte.slug in m.tests
                or (analyte.covariate is not None and analyte.covariate in m.covariates)
            )
            rows.append(_signal_row("lab", analyte, used))
        return tuple(rows)


def load_library(directory: Path) -> Library:
    """Read and check the library.

    Args:
        directory: The folder `config`, holding `signals.yaml`, `risk.yaml` and `drugs/*.yaml`.

    Raises:
        LibraryError: The first breach found, with its place and way out.
    """
    signals_data = _read_yaml(directory / "signals.yaml")
    risk_data = _read_yaml(directory / "risk.yaml")
    contents: dict[str, object] = {"signals.yaml": signals_data, "risk.yaml": risk_data}
    place = str(directory / "signals.yaml")
    catalogue = read_catalogue(place, read_form(SignalsFile, signals_data, place))
    models: dict[str, DrugModel] = {}
    for path in sorted((directory / "drugs").glob("*.yaml")):
        data = _read_yaml(path)
        contents[f"drugs/{path.name}"] = data
        form = read_form(DrugForm, data, str(path))
        if not path.stem.startswith(f"{form.drug}-"):
            raise LibraryError(
                f"{path}: drug is {form.drug}, so the file must be called {form.drug}-<author>-<year>.yaml"
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        models[path.stem] = read_drug(Context(str(path), form, *catalogue), path.stem, digest)
    if not models:
        raise LibraryError(
            f"{directory / 'drugs'}: holds no *.yaml; add a drug file (config/drugs/README.md says how)"
        )
    return Library(
        drugs=_defaults(directory, models),
        models=models,
        signals=catalogue.signals,
        analytes=catalogue.analytes,
        covariates=catalogue.covariates,
        genes=catalogue.genes,
        policy=_policy(str(directory / "risk.yaml"), risk_data),
        fingerprint=_fingerprint(contents),
    )


class _Loader(yaml.CSafeLoader):
    """YAML without surprises: a key written twice is refused instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' is written twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as unreadable:
        raise LibraryError(f"{path}: cannot be read ({unreadable.strerror}); the library needs it") from None
    try:
        return yaml.load(text, Loader=_Loader)  # a safe loader underneath, the one in C
    except yaml.YAMLError as wrong:
        raise LibraryError(f"{path}: is not YAML: {' '.join(str(wrong).split())}") from None


def _fingerprint(contents: Mapping[str, object]) -> str:
    canonical = json.dumps(
        contents, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _defaults(directory: Path, models: Mapping[str, DrugModel]) -> dict[str, DrugModel]:
    named: dict[str, list[str]] = {}
    for model in models.values():
        named.setdefault(model.drug, []).extend([model.model] if model.default else [])
    for drug, chosen in named.items():
        if len(chosen) != 1:
            raise LibraryError(
                f"{directory / 'drugs'}: {drug} has {len(chosen)} models with default: true, but "
                "exactly one must be the default; set it in one file only"
            )
    return {drug: models[chosen[0]] for drug, chosen in sorted(named.items())}


def _policy(place: str, data: object) -> Policy:
    form = read_form(RiskFile, data, place)
    episodes, time = form.episodes, form.time
    for low, high in (
        ("clear_probability", "raise_probability"),
        ("raise_probability", "high_probability"),
        ("high_until_probability", "high_probability"),
        ("clear_probability", "high_until_probability"),
    ):
        if getattr(episodes, low) >= getattr(episodes, high):
            raise LibraryError(
                f"{place}: episodes.{low} is {getattr(episodes, low):g}, but must be below {high} "
                f"({getattr(episodes, high):g}), or an episode would flicker"
            )
    return Policy(
        raise_probability=episodes.raise_probability,
        clear_probability=episodes.clear_probability,
        high_probability=episodes.high_probability,
        high_until_probability=episodes.high_until_probability,
        out_of_domain_cap=episodes.out_of_domain_cap,
        late_h=time.late_after_hours,
        late_wearable_h=time.late_wearable_after_hours,
        revise_h=24.0 * time.revise_days,
        revise_wearable_h=time.revise_wearable_hours,
        future_h=time.future_tolerance_minutes / 60.0,
        settled_h=time.settled_after_hours,
    )


def _drug_row(model: DrugModel) -> DrugRow:
    statuses = Counter(p.status for p in model.provenance.values())
    return DrugRow(
        drug=model.drug,
        model=model.model,
        default=model.default,
        population=model.population,
        source=model.source,
        routes=model.routes,
        compartments=model.compartments,
        analyte=model.analyte,
        covariates=tuple(model.covariates),
        signal=model.channel.signal if model.channel else "",
        thresholds=tuple(f"{t.metric} {t.crossed} {t.as_published} ({t.status})" for t in model.thresholds),
        statuses=dict(sorted(statuses.items())),
        notes=model.notes,
    )


def _signal_row(kind: str, row: Signal | Analyte, models: tuple[str, ...]) -> SignalRow:
    return SignalRow(
        kind=kind,
        slug=row.slug,
        title=row.title,
        loinc=row.loinc,
        unit=row.unit,
        read_units=tuple(row.units),
        reject=f"outside {row.reject.low:g} to {row.reject.high:g}",
        usual=f"{row.usual.low:g} to {row.usual.high:g}" if row.usual else "",
        models=models,
        statuses={part: p.status for part, p in row.provenance.items()},
    )
