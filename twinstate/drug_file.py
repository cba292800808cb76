"""From a drug file's form to a `DrugModel`: units converted, meaning checked, the paper's own cases recomputed.

Nothing here opens a file; `library.py` hands over what it read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NoReturn

import numpy as np

from twinstate import forms, units
from twinstate.catalogue import Analyte, Bounds, Covariate, Provenance, Signal
from twinstate.drug import (
    Channel,
    Condition,
    CreatinineClearance,
    Domain,
    DrugModel,
    Effect,
    Exponential,
    Factor,
    Genotype,
    Instead,
    LinearCentred,
    LinearSum,
    Parameter,
    Piecewise,
    Power,
    Range,
    Residual,
    Rhythm,
    Threshold,
)
from twinstate.errors import LibraryError, TwinError, UnitError
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.covariates import DERIVED, typical_log_parameters
from twinstate.population.prior import log_sd_of_cv, prior_covariance

PARAMETER_UNITS: Mapping[str, Mapping[str, float]] = {
    "clearance": units.CLEARANCE,
    "central_volume": units.VOLUME,
    "elimination_rate": units.RATE,
    "intercompartmental_clearance": units.CLEARANCE,
    "peripheral_volume": units.VOLUME,
    "absorption_rate": units.RATE,
    "lag": units.DURATION,
    "bioavailability": units.FRACTION,
    "input_duration": units.DURATION,
}
METRIC_UNITS: Mapping[str, Mapping[str, float]] = {
    "concentration": units.CONCENTRATION,
    "auc24": units.EXPOSURE,
}
SHORTEST_KEEP_H = 720.0
HALF_LIVES_KEPT = 10.0
EFFECT_KINDS = (
    "factor", "typical", "power", "exponential", "linear_centred", "linear_sum", "piecewise", "diplotypes"
)  # fmt: skip
NUMERIC_KINDS = ("power", "exponential", "linear_centred", "linear_sum", "piecewise")


class DrugFile:
    """One drug file on its way to a model.

    Args:
        form: What the file holds, its form already checked.
        place: The file's name, for errors.
        model: The file's stem.
        digest: SHA-256 (hex) of its bytes.
        signals: Catalogue of wearable signals.
        analytes: Catalogue of laboratory tests.
        covariates: Catalogue of covariates.
    """

    def __init__(
        self,
        form: forms.DrugForm,
        place: str,
        model: str,
        digest: str,
        signals: Mapping[str, Signal],
        analytes: Mapping[str, Analyte],
        covariates: Mapping[str, Covariate],
    ) -> None:
        self._form = form
        self._place = place
        self._model = model
        self._digest = digest
        self._signals = signals
        self._analytes = analytes
        self._covariates = covariates
        self._needed: set[str] = set()
        self._provenance: dict[str, Provenance] = {}

    def build(self) -> DrugModel:
        """Build the model and check that it means something.

        Raises:
            LibraryError: Naming file, key, value, rule and way out.
        """
        form = self._form
        if form.analyte not in self._analytes:
            self._refuse(
                "analyte", form.analyte, "which config/signals.yaml does not list; add a row to its analytes"
            )
        self._check_structure()
        parameters = {name: self._parameter(name, row) for name, row in self._rows().items()}
        etas, omega, eta_index = self._variability()
        domain = self._domain()
        model = DrugModel(
            drug=form.drug,
            model=self._model,
            digest=self._digest,
            default=form.default,
            source=form.source,
            transcription=form.transcription,
            population=form.population,
            notes=tuple(form.notes),
            analyte=form.analyte,
            routes=tuple(form.routes),
            compartments=form.compartments,
            oral_kind=form.oral,
            parameters=parameters,
            etas=etas,
            omega=omega,
            eta_index=eta_index,
            residual=self._residual(),
            creatinine_clearance=self._creatinine_clearance(),
            defaults={name: self._default(name, row) for name, row in form.defaults.items()},
            covariates=self._rows_needed(),
            domain=domain,
            thresholds=tuple(self._threshold(name, row) for name, row in form.thresholds.items()),
            channel=self._channel(form.channel) if form.channel else None,
            keep_h=form.keep_hours.value,
            stale_after_h=form.stale_after_hours.value,
            provenance=self._provenance,
        )
        self._noted("keep_hours", form.keep_hours)
        self._noted("stale_after_hours", form.stale_after_hours)
        self._check_cases(model)
        return model

    def _refuse(self, key: str, value: object, rule: str) -> NoReturn:
        raise LibraryError(f"{self._place}: {key} is {value}, {rule}")

    def _noted(self, key: str, row: forms.Sourced) -> Provenance:
        self._provenance[key] = Provenance(row.status, row.source or self._form.source)
        return self._provenance[key]

    def _canonical(self, key: str, value: float, unit: str | None, allowed: Mapping[str, float]) -> float:
        if unit is None:
            self._refuse(key, f"{value:g} without a unit", f"and needs one of: {', '.join(allowed)}")
        try:
            return units.to_canonical(value, unit, allowed, key)
        except UnitError as wrong:
            raise LibraryError(f"{self._place}: {wrong}") from None

    def _covariate(self, key: str, slug: str | None, kind: str | None = None) -> Covariate:
        row = self._covariates.get(slug or "")
        if row is None:
            self._refuse(
                key, slug, "which config/signals.yaml does not list under covariates; add a row there"
            )
        if kind is not None and row.kind != kind:
            self._refuse(key, slug, f"which is a {row.kind}, where a {kind} is needed")
        if row.slug in DERIVED:
            self._needed.update(DERIVED[row.slug])
        if row.slug == "creatinine_clearance" and self._form.derived.creatinine_clearance is None:
            self._refuse(
                key,
                slug,
                "but derived.creatinine_clearance does not say how the paper computed it; add its method",
            )
        self._needed.add(row.slug)
        return row

    # Structure

    def _rows(self) -> dict[str, forms.ParameterForm]:
        found = ((name, getattr(self._form.parameters, name)) for name in forms.ParametersForm.model_fields)
        return {name: row for name, row in found if row is not None}

    def _check_structure(self) -> None:
        form, rows = self._form, self._rows()
        volumes = [name for name in ("central_volume", "elimination_rate") if name in rows]
        if len(volumes) != 1:
            self._refuse(
                "parameters",
                " and ".join(volumes) or "without a volume",
                "but exactly one of central_volume and elimination_rate belongs there",
            )
        wanted = {
            "intercompartmental_clearance": form.compartments == 2,
            "peripheral_volume": form.compartments == 2,
            "absorption_rate": form.oral == "first_order",
            "input_duration": form.oral == "zero_order",
        }
        for name, needed in wanted.items():
            if (name in rows) != needed:
                state = "missing" if needed else "there"
                self._refuse(
                    f"parameters.{name}",
                    state,
                    f"which does not fit compartments {form.compartments} and oral {form.oral}",
                )
        for name in ("lag", "bioavailability"):
            if name in rows and form.oral == "none":
                self._refuse(
                    f"parameters.{name}", "there", "which only an oral route has; remove it or set oral"
                )
        if ("oral" in form.routes) != (form.oral != "none"):
            self._refuse("oral", form.oral, f"which does not fit routes {', '.join(form.routes)}")
        if form.parameters.elimination_rate is not None and self._log_sd(form.parameters.elimination_rate):
            self._refuse(
                "parameters.elimination_rate",
                "given a variability",
                "which cannot be told from that of clearance; give central_volume instead",
            )

    # Parameters

    def _parameter(self, name: str, row: forms.ParameterForm) -> Parameter:
        key = f"parameters.{name}"
        allowed = PARAMETER_UNITS[name]
        factor = self._canonical(f"{key}.unit", 1.0, row.unit, allowed)
        if row.typical == 0 and name != "lag":
            self._refuse(f"{key}.typical", f"0 {row.unit}", "but only a lag may be 0")
        effects = tuple(
            self._effect(f"{key}.scales_with[{i}]", effect, factor)
            for i, effect in enumerate(row.scales_with)
        )
        canonical = next(iter(allowed))
        return Parameter(name, row.typical * factor, canonical, effects, self._noted(key, row))

    def _effect(self, key: str, row: forms.EffectForm, factor: float) -> Effect:
        kinds = [kind for kind in EFFECT_KINDS if getattr(row, kind) is not None]
        if len(kinds) != 1:
            self._refuse(
                key,
                " and ".join(kinds) or "without an effect",
                f"but needs exactly one of: {', '.join(EFFECT_KINDS)}",
            )
        kind = kinds[0]
        if row.diplotypes is not None:
            if row.gene is None or row.covariate is not None:
                self._refuse(key, "a table of diplotypes", "which needs a gene and no covariate")
            return Genotype(row.gene, dict(row.diplotypes))
        if row.factor is not None:
            return Factor(self._condition(key, row), row.factor)
        if row.typical is not None:
            return Instead(self._condition(key, row), row.typical * factor)
        covariate = self._covariate(f"{key}.covariate", row.covariate, "number")

        def canonical(value: float) -> float:
            return self._canonical(key, value, row.unit, covariate.units)

        per_unit = 1.0 / canonical(1.0)
        within = Bounds(
            canonical(row.floor) if row.floor is not None else -math.inf,
            canonical(row.cap) if row.cap is not None else math.inf,
        )
        if row.piecewise is not None:
            points = tuple((canonical(x), y) for x, y in row.piecewise)
            if any(b[0] <= a[0] for a, b in pairwise(points)):
                self._refuse(f"{key}.piecewise", [p[0] for p in points], "but the first numbers must ascend")
            return Piecewise(covariate.slug, points)
        if row.linear_sum is not None:
            return LinearSum(covariate.slug, row.linear_sum * per_unit * factor, within)
        if row.reference is None:
            self._refuse(
                key, f"{kind} without a reference", "but needs the paper's reference value of the covariate"
            )
        reference = canonical(row.reference)
        if row.power is not None:
            if reference <= 0:
                self._refuse(f"{key}.reference", reference, "but a power needs a reference above 0")
            return Power(covariate.slug, reference, row.power, within)
        if row.exponential is not None:
            return Exponential(covariate.slug, reference, row.exponential * per_unit, within)
        assert row.linear_centred is not None
        return LinearCentred(covariate.slug, reference, row.linear_centred * per_unit, within)

    def _condition(self, key: str, row: forms.EffectForm) -> Condition:
        covariate = self._covariate(f"{key}.covariate", row.covariate)
        if row.below is not None or row.at_least is not None:
            if (
                covariate.kind != "number"
                or row.when is not None
                or (row.below is not None and row.at_least is not None)
            ):
                self._refuse(key, "below or at_least", "but these need a number and stand alone")
            limits = (row.below, row.at_least)
            below, at_least = (
                None if x is None else self._canonical(key, x, row.unit, covariate.units) for x in limits
            )
            return Condition(covariate.slug, None, below, at_least)
        when = True if row.when is None and covariate.kind == "flag" else row.when
        self._check_word(f"{key}.when", covariate, when)
        return Condition(covariate.slug, when)

    def _check_word(self, key: str, covariate: Covariate, word: object) -> None:
        words: tuple[object, ...] = (True, False) if covariate.kind == "flag" else covariate.categories
        if not any(word is known or (isinstance(word, str) and word == known) for known in words):
            spelled = " or ".join(str(w).lower() for w in words) or "below or at_least and a number"
            self._refuse(key, word, f"but {covariate.slug} can be {spelled}")

    # Variability

    def _log_sd(self, row: forms.ParameterForm) -> float:
        given = ([log_sd_of_cv(row.between_subject_cv)] if row.between_subject_cv else []) + (
            [row.between_subject_sd] if row.between_subject_sd else []
        )
        given += [math.sqrt(row.between_subject_variance)] if row.between_subject_variance else []
        if len(given) > 1:
            self._refuse(
                "parameters",
                "given more than one between_subject_*",
                "but CV, SD and variance say the same; keep the paper's",
            )
        return given[0] if given else 0.0

    def _variability(self) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        rows = self._rows()
        order = [*STRUCTURAL_PARAMETERS, "elimination_rate"]
        etas = tuple(name for name in order if name in rows and self._log_sd(rows[name]) > 0)
        if not etas:
            self._refuse(
                "parameters", "without any between_subject_*", "so that no level could teach anything"
            )
        correlations = {}
        for i, row in enumerate(self._form.correlations):
            key = f"correlations[{i}]"
            first, second = row.between
            if first == second or first not in etas or second not in etas:
                self._refuse(
                    f"{key}.between", row.between, f"but two different ones of {', '.join(etas)} are needed"
                )
            correlations[(etas.index(first), etas.index(second))] = row.value
            self._noted(key, row)
        try:
            omega = prior_covariance([self._log_sd(rows[name]) for name in etas], correlations)
        except ValueError as wrong:
            raise LibraryError(f"{self._place}: correlations: {wrong}; check their signs and sizes") from None
        eta_index = np.array(
            [etas.index(n) if n in etas else -1 for n in STRUCTURAL_PARAMETERS], dtype=np.int64
        )
        if "elimination_rate" in rows:
            eta_index[STRUCTURAL_PARAMETERS.index("central_volume")] = eta_index[0]
        omega.setflags(write=False)
        eta_index.setflags(write=False)
        return etas, omega, eta_index

    def _residual(self) -> Residual:
        row = self._form.residual
        if row.proportional == 0 and row.additive == 0:
            self._refuse("residual", "0", "but no assay and no model is without error; give the paper's")
        additive = 0.0
        if row.additive:
            additive = self._canonical("residual.additive", row.additive, row.unit, units.CONCENTRATION)
        self._noted("residual", row)
        return Residual(row.proportional, additive)

    # Covariates and domain

    def _creatinine_clearance(self) -> CreatinineClearance | None:
        row = self._form.derived.creatinine_clearance
        if row is None:
            return None
        key = "derived.creatinine_clearance"
        self._noted(key, row)
        cap, floor, above_age = math.inf, 0.0, 0.0
        if row.cap is not None:
            cap = self._canonical(
                f"{key}.cap", row.cap.value, row.cap.unit, self._covariates["creatinine_clearance"].units
            )
        if row.creatinine_floor is not None:
            limit = row.creatinine_floor
            allowed = self._covariates["creatinine"].units
            floor = self._canonical(f"{key}.creatinine_floor", limit.value, limit.unit, allowed)
            above_age = limit.above_age
        return CreatinineClearance(row.method, cap, floor, above_age)

    def _default(self, name: str, row: forms.DefaultForm) -> float | str | bool:
        key = f"defaults.{name}"
        covariate = self._covariate(key, name)
        self._noted(key, row)
        if (
            covariate.kind == "number"
            and isinstance(row.value, float | int)
            and not isinstance(row.value, bool)
        ):
            return self._canonical(key, float(row.value), row.unit, covariate.units)
        self._check_word(f"{key}.value", covariate, row.value)
        return row.value

    def _domain(self) -> Domain:
        ranges = tuple(self._range(name, row) for name, row in self._form.domain.covariates.items())
        doses = self._form.domain.doses
        if doses is None:
            return Domain(ranges, (), "")
        self._noted("domain.doses", doses)
        studied = tuple(
            self._canonical("domain.doses", dose, doses.unit, units.AMOUNT) for dose in doses.one_of
        )
        return Domain(ranges, studied, doses.note)

    def _range(self, name: str, row: forms.RangeForm) -> Range:
        key = f"domain.covariates.{name}"
        covariate = self._covariate(key, name)
        provenance = self._noted(key, row)
        if covariate.kind != "number":
            if not row.one_of:
                self._refuse(
                    key, "without one_of", f"but a {covariate.kind} needs the words that were studied"
                )
            for word in row.one_of:
                self._check_word(f"{key}.one_of", covariate, word)
            return Range(name, None, tuple(row.one_of), provenance)
        if row.one_of or (row.low is None and row.high is None):
            self._refuse(
                key, "without low and high", "but a number needs at least one of them, and no one_of"
            )
        low = (
            -math.inf
            if row.low is None
            else self._canonical(f"{key}.low", row.low, row.unit, covariate.units)
        )
        high = (
            math.inf
            if row.high is None
            else self._canonical(f"{key}.high", row.high, row.unit, covariate.units)
        )
        if low >= high:
            self._refuse(key, f"{low:g} to {high:g} {covariate.unit}", "but low must be below high")
        return Range(name, Bounds(low, high), (), provenance)

    def _rows_needed(self) -> dict[str, Covariate]:
        return {name: self._covariates[name] for name in sorted(self._needed)}

    # Risk and channel

    def _threshold(self, name: str, row: forms.ThresholdForm) -> Threshold:
        key = f"thresholds.{name}"
        if row.metric == "effect_rise":
            if self._form.channel is None:
                self._refuse(
                    f"{key}.metric", "effect_rise", "but the file has no channel whose rise could be watched"
                )
            allowed = self._signal("channel.signal", self._form.channel.signal).units
        else:
            allowed = METRIC_UNITS[row.metric]
        limit = self._canonical(f"{key}.toxicity_alarm", row.toxicity_alarm, row.unit, allowed)
        unit = next(known for known, factor in allowed.items() if factor == 1)
        self._provenance[key] = Provenance(row.status, row.source)
        return Threshold(
            name=name,
            metric=row.metric,
            limit=limit,
            unit=unit,
            horizon_h=row.horizon_hours,
            harm=row.harm,
            severity_label=row.severity_label,
            status=row.status,
            source=row.source,
            version=row.version,
        )

    def _signal(self, key: str, slug: str) -> Signal:
        if slug not in self._signals:
            self._refuse(key, slug, "which config/signals.yaml does not list; add a row to its signals")
        return self._signals[slug]

    def _channel(self, form: forms.ChannelForm) -> Channel:
        signal = self._signal("channel.signal", form.signal)
        provenance: dict[str, Provenance] = {}

        def number(key: str, row: forms.ChannelNumber, allowed: Mapping[str, float] | None = None) -> float:
            if row.status == "A" and not row.reason:
                self._refuse(
                    f"channel.{key}", f"{row.value:g} with status A", "but an assumption needs its reason"
                )
            provenance[key] = self._noted(f"channel.{key}", row)
            return self._canonical(f"channel.{key}", row.value, row.unit, allowed) if allowed else row.value

        for i, row in enumerate(form.rhythms):
            if 24.0 % row.period_hours:
                self._refuse(
                    f"channel.rhythms[{i}].period_hours", f"{row.period_hours:g}", "but must divide 24"
                )
            provenance[f"rhythms[{i}]"] = self._noted(f"channel.rhythms[{i}]", row)
        provenance["clock_zero"] = self._noted("channel.clock_zero", form.clock_zero)
        return Channel(
            signal=signal.slug,
            unit=signal.unit,
            baseline_typical=number("baseline", form.baseline, signal.units),
            baseline_cv=number("baseline_between_subject_cv", form.baseline_between_subject_cv),
            rhythms=tuple(
                Rhythm(
                    r.period_hours,
                    r.amplitude,
                    (form.clock_zero.utc_hour + r.acrophase_hours) % r.period_hours,
                )
                for r in form.rhythms
            ),
            emax=number("emax", form.emax, signal.units),
            emax_cv=number("emax_between_subject_cv", form.emax_between_subject_cv),
            ec50_mg_L=number("ec50", form.ec50, units.CONCENTRATION),
            residual_cv=number("residual_cv", form.residual_cv),
            noise_time_constant_h=number("noise_time_constant", form.noise_time_constant, units.DURATION),
            baseline_drift_per_sqrt_h=number(
                "baseline_drift_per_sqrt_hour", form.baseline_drift_per_sqrt_hour, signal.units
            ),
            keep_h=signal.keep_h,
            provenance=provenance,
        )

    # The paper's own cases

    def _check_cases(self, model: DrugModel) -> None:
        longest = 0.0
        for i, case in enumerate(self._form.checks):
            key = f"checks[{i}]"
            try:
                typical = typical_log_parameters(model, case.given, case.genotype)
            except TwinError as wrong:
                raise LibraryError(f"{self._place}: {key}.given cannot be computed: {wrong}") from None
            values = dict(zip(STRUCTURAL_PARAMETERS, np.exp(typical.log_typical).tolist(), strict=True))
            values["terminal_half_life"] = terminal_half_life(model.compartments, values)
            longest = max(longest, values["terminal_half_life"])
            for name, expected in case.expect.items():
                if name not in values:
                    self._refuse(
                        f"{key}.expect", name, f"but only these can be expected: {', '.join(values)}"
                    )
                if abs(values[name] - expected) > case.tolerance * expected:
                    self._refuse(
                        f"{key}.expect.{name}",
                        f"{expected:g}",
                        f"but the file's parameters give {values[name]:.6g}; one of the two is mistyped, "
                        f"or a unit is wrong ({self._slip(name, expected, values[name])})",
                    )
        shortest = max(SHORTEST_KEEP_H, HALF_LIVES_KEPT * longest)
        if model.keep_h < shortest:
            self._refuse(
                "keep_hours.value",
                f"{model.keep_h:g} h",
                f"but must be at least {shortest:.0f} h: {HALF_LIVES_KEPT:g} of the longest terminal half-lives among the "
                "checks, and never under 30 days, so that what leaves matters no more",
            )

    @staticmethod
    def _slip(name: str, expected: float, found: float) -> str:
        allowed = PARAMETER_UNITS.get(name, {})
        for unit, factor in allowed.items():
            if factor != 1 and math.isclose(found * factor, expected, rel_tol=0.05):
                return (
                    f"if the paper gives {unit}, {found:g} {unit} is {found * factor:g} {next(iter(allowed))}"
                )
        return "compare both with the paper"


def terminal_half_life(compartments: int, values: Mapping[str, float]) -> float:
    """Half-life of the slowest exponential, h.

    Args:
        compartments: 1 or 2.
        values: Structural parameters by name, canonical units.
    """
    k10 = values["clearance"] / values["central_volume"]
    if compartments == 1:
        return math.log(2.0) / k10
    k12 = values["intercompartmental_clearance"] / values["central_volume"]
    k21 = values["intercompartmental_clearance"] / values["peripheral_volume"]
    total = k10 + k12 + k21
    return math.log(2.0) / (0.5 * (total - math.sqrt(total * total - 4.0 * k10 * k21)))
