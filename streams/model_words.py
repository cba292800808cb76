"""A drug model in words: structure, effects, variability, domain."""

from __future__ import annotations

import math

from twinstate.catalogue import Bounds
from twinstate.drug import (
    AlleleSum,
    Condition,
    DrugModel,
    Effect,
    Exponential,
    Factor,
    Genotype,
    Instead,
    LinearCentred,
    LinearSum,
    Piecewise,
    Power,
    Range,
    Residual,
)

STATUS_WORDS = {"V": "verified", "C": "computed", "R": "unverified", "A": "assumed", "U": "unknown"}
NUMBERS = ("no", "one", "two", "three")
ORAL_WORDS = {
    "first_order": "oral doses through a depot",
    "zero_order": "oral doses at a constant rate",
    "parallel": "oral doses partly through a depot, the rest at a constant rate",
    "transit": "oral doses through a chain",
    "at_once": "oral doses enter at once (absorption unknown)",
}
ELIMINATION_WORDS = {
    "linear": "linear elimination",
    "saturable": "saturable elimination (Michaelis-Menten)",
    "mixed": "linear and saturable elimination side by side",
}
SECOND_WORDS = {
    "metabolite": "concentration of the metabolite",
    "effect_site": "concentration at the effect site",
    "coagulation_product": "INR from two chains of clotting factors, their product",
    "coagulation_mean": "INR from two chains of clotting factors, their mean",
    "myelosuppression": "circulating cells, from dividing ones through a chain, with feedback",
}


def patient_in_words(model: DrugModel) -> str:
    """The usual dose and whom it is given, in words."""
    p = model.typical_patient
    told = [_told(name, value, model) for name, value in p.covariates.items()]
    told += [f"{gene} {diplotype}" for gene, diplotype in p.genotype.items()]
    amount = f"{p.amount_mg:g} mg" if p.amount_mg >= 0.1 else f"{1000 * p.amount_mg:g} ug"
    how = f"over {p.duration_h:g} h" if p.duration_h else ("as a bolus" if p.route == "iv" else "by mouth")
    times = f"every {p.every_h:g} h, {p.doses} times" if p.doses > 1 else "once"
    return f"{amount} {how} {times}; {', '.join(told) or 'no covariates'}"


def _told(name: str, value: float | str | bool, model: DrugModel) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if isinstance(value, str):
        return f"{words} {value}"
    unit = model.covariates[name].unit if name in model.covariates else ""
    return f"{words} {value:.4g} {'years' if unit == 'a' else unit}".rstrip()


def structure_in_words(model: DrugModel) -> str:
    """Compartments, elimination, routes and second output."""
    parts = [f"{NUMBERS[model.compartments]} compartment{'s' if model.compartments > 1 else ''}"]
    parts.append(ELIMINATION_WORDS[model.elimination])
    if "iv" in model.routes:
        parts.append("bolus or infusion")
    if "oral" in model.routes:
        oral = ORAL_WORDS[model.oral_kind]
        if model.transits:
            oral += f", {model.transits} transit compartments"
        parts.append(oral + (" after a lag" if "lag" in model.parameters else ""))
    text = ", ".join(parts)
    if model.second:
        chains = [str(n) for n in model.chains if n]
        long = f" ({' and '.join(chains)} compartments)" if chains else ""
        text += f"; second output: {SECOND_WORDS[model.second]}{long}, {model.second_unit}"
    return text


def residual_in_words(residual: Residual, unit: str) -> str:
    """Residual error of a test in this unit."""
    if residual.logarithmic:
        return f"SD of its logarithm {residual.proportional:.3g}"
    parts = []
    if residual.proportional:
        parts.append(f"({residual.proportional:g} x level)^2")
    if residual.additive:
        parts.append(f"({residual.additive:g} {unit})^2")
    return "SD^2 = " + " + ".join(parts)


def cv_of(variance: float) -> float:
    """Coefficient of variation of a log-normal with this variance of the logarithm."""
    return math.sqrt(math.expm1(variance))


def effect_in_words(effect: Effect, model: DrugModel, unit: str) -> str:
    """One effect as a line of a formula a person can read.

    Args:
        effect: Of the model.
        model: Tells the covariates' units.
        unit: Of the parameter.
    """
    match effect:
        case Instead(condition, typical):
            return f"{typical:g} {unit} if {_condition(condition, model)}"
        case Factor(condition, factor):
            return f"x {factor:g} if {_condition(condition, model)}"
        case Power(covariate, reference, power, within):
            base = f"({covariate} / {reference:.5g} {_unit(covariate, model)})"
            exponent = "" if power == 1 else f"^{power:g}"
            return f"x {base}{exponent}{_within(within, covariate, model)}"
        case Exponential(covariate, reference, slope, within):
            return f"x exp({slope:.4g} {_centred(covariate, reference)}){_within(within, covariate, model)}"
        case LinearCentred(covariate, reference, slope, within):
            return (
                f"x (1 {_signed(slope)} {_centred(covariate, reference)}){_within(within, covariate, model)}"
            )
        case LinearSum(covariate, slope, within, reference):
            return (
                f"{_signed(slope)} {_centred(covariate, reference)} {unit}{_within(within, covariate, model)}"
            )
        case Piecewise(covariate, points):
            steps = ", ".join(f"{factor:g} at {x:g}" for x, factor in points)
            return f"x {steps} {_unit(covariate, model)} {covariate}, straight between"
        case Genotype(gene, factors, not_told):
            groups: dict[float, list[str]] = {}
            for diplotype, factor in factors.items():
                groups.setdefault(factor, []).append(diplotype)
            table = "; ".join(f"x {f:g} {' '.join(names)}" for f, names in groups.items())
            return f"{gene}: {table}" + (f"; x {not_told:g} untold" if not_told is not None else "")
        case AlleleSum(gene, alleles):
            return f"{gene}: sum over both alleles of " + ", ".join(
                f"{v:g} ({a})" for a, v in alleles.items()
            )


def _condition(condition: Condition, model: DrugModel) -> str:
    unit = _unit(condition.covariate, model)
    if condition.below is not None:
        return f"{condition.covariate} below {condition.below:g} {unit}"
    if condition.at_least is not None:
        return f"{condition.covariate} {condition.at_least:g} {unit} or more"
    if isinstance(condition.is_value, bool):
        return condition.covariate if condition.is_value else f"not {condition.covariate}"
    return str(condition.is_value)


def _unit(covariate: str, model: DrugModel) -> str:
    return model.covariates[covariate].unit


def _centred(covariate: str, reference: float) -> str:
    return covariate if reference == 0 else f"({covariate} - {reference:.5g})"


def _signed(slope: float) -> str:
    return f"{'-' if slope < 0 else '+'} {abs(slope):.4g}"


def _within(within: Bounds, covariate: str, model: DrugModel) -> str:
    parts = []
    if math.isfinite(within.low):
        parts.append(f"at least {within.low:.4g}")
    if math.isfinite(within.high):
        parts.append(f"at most {within.high:.4g}")
    return f", {covariate} {' and '.join(parts)} {_unit(covariate, model)}" if parts else ""


def variation_in_words(model: DrugModel) -> str:
    """What changes within a patient."""
    variation = model.variation
    if variation is None:
        return "nothing changes within a patient but covariates"
    if variation.drift_sd:
        speeds = ", ".join(f"{sd:g}" for sd in variation.drift_sd)
        return f"clearance drifts: SD of its logarithm after one day one of {speeds}, weighed by the levels"
    return f"clearance varies between occasions, CV {100 * cv_of(variation.occasion_sd**2):.3g} %"


def range_in_words(row: Range, model: DrugModel) -> str:
    """One covariate of the domain."""
    if row.within is None:
        text = f"{row.covariate} {' or '.join(_word(word) for word in row.one_of)}"
    else:
        unit = _unit(row.covariate, model)
        low, high = row.within.low, row.within.high
        if not math.isfinite(low):
            text = f"{row.covariate} up to {high:g} {unit}"
        elif not math.isfinite(high):
            text = f"{row.covariate} from {low:g} {unit}"
        else:
            text = f"{row.covariate} {low:g} to {high:g} {unit}"
    status = row.provenance.status
    return text if status == "V" else f"{text} ({STATUS_WORDS[status]})"


def doses_in_words(model: DrugModel) -> tuple[str, ...]:
    """Doses that were studied; empty where any is fine."""
    doses = model.domain.doses_mg
    return (f"doses of {' or '.join(f'{dose:g}' for dose in doses)} mg",) if doses else ()


def channel_in_words(model: DrugModel) -> str:
    """The wearable signal the model explains; empty without one."""
    channel = model.channel
    if channel is None:
        return ""
    periods = " and ".join(f"{rhythm.period_h:g}" for rhythm in channel.rhythms)
    rhythms = f"rhythms of {periods} h, " if periods else ""
    if channel.open_amplitude:
        rhythms += f"a day's rhythm of about {100 * channel.open_amplitude:g} %, "
    if channel.hill == 1:
        occupied = f"C / ({channel.ec50_mg_L:.4g} mg/L + C)"
    else:
        power = f"^{channel.hill:g}"
        occupied = f"C{power} / (({channel.ec50_mg_L:.4g} mg/L){power} + C{power})"
    if channel.exponent != 1:
        occupied = f"({occupied})^{channel.exponent:g}"
    size = f"{channel.emax:g} of it" if channel.relative else f"{channel.emax:g} {channel.unit}"
    site = ", C at the effect site" if channel.follows == "second" else ""
    low, high = channel.part
    part = "" if (low, high) == (1, 1) else f"; {low:g} to {high:g} of this effect, how much nobody published"
    return (
        f"{channel.signal}: {channel.baseline_typical:g} {channel.unit} (CV {100 * channel.baseline_cv:.3g} %), "
        f"{rhythms}{'less' if channel.falls else 'plus'} {size} {occupied}{site}{part}"
    )


def _word(value: object) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else (f"{value:g}" if isinstance(value, float) else str(value))
    )
