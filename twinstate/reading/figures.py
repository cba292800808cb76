"""Figures that follow from a model's parameters in closed form: half-lives, exposure of a dose, steady state.

What a paper tells of its model can be compared with them, without simulating anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from twinstate.drug import DrugModel

LN_2 = math.log(2.0)


class Regimen(NamedTuple):
    """One dose, again and again.

    Attributes:
        amount_mg: Of one dose.
        every_h: Between doses.
        without_pause: Infused without end at amount / every_h, so not diminished by bioavailability.
    """

    amount_mg: float
    every_h: float
    without_pause: bool = False


def half_lives(model: DrugModel, values: Mapping[str, float]) -> list[float]:
    """Half-lives of disposition, h, ascending; one a compartment.

    Args:
        model: Which compartments there are.
        values: Structural parameters by name, canonical units. Saturable elimination counts as it is at levels far
            below the Michaelis constant.
    """
    central = values["central_volume"]
    out = 0.0
    if model.elimination != "saturable":
        out += values["clearance"] / central
    if model.elimination != "linear":
        out += values["maximum_elimination_rate"] / values["michaelis_constant"] / central
    rates = np.zeros((model.compartments, model.compartments))
    rates[0, 0] = out
    for i, prefix in enumerate(("", "second_")[: model.compartments - 1], start=1):
        exchange = values[f"{prefix}intercompartmental_clearance"]
        volume = values[f"{prefix}peripheral_volume"]
        rates[0, 0] += exchange / central
        rates[i, 0] = -exchange / central
        rates[i, i] = exchange / volume
        rates[0, i] = -exchange / volume
    return sorted(LN_2 / rate for rate in np.linalg.eigvals(rates).real.tolist())


def slowest_half_life(model: DrugModel, values: Mapping[str, float]) -> float:
    """The longest of disposition, absorption, effect site and response, h: what is older than ten of them is gone."""
    slow = [half_lives(model, values)[-1]]
    slow += [LN_2 / values[rate] for rate in ("absorption_rate", "effect_rate") if values.get(rate, 0.0) > 0]
    slow += [LN_2 * values.get(time, 0.0) for time in ("response_time", "second_response_time")]
    return max(slow)


def figures(model: DrugModel, values: Mapping[str, float], regimen: Regimen | None) -> dict[str, float]:
    """Everything a check may expect.

    Args:
        model: Structure.
        values: Structural parameters of one patient by name, canonical units.
        regimen: What is given; the figures that depend on it are left out without one.

    Returns:
        The parameters; `terminal_half_life`, `first_half_life`, `absorption_half_life` (h); `auc` of one dose, `auc24`
        (mg*h/L), `mean_concentration`, `trough` (mg/L) and `second` at steady state.
    """
    found = dict(values)
    lives = half_lives(model, values)
    found |= {"first_half_life": lives[0], "terminal_half_life": lives[-1]}
    if values.get("absorption_rate", 0.0) > 0:
        found["absorption_half_life"] = LN_2 / values["absorption_rate"]
    if regimen is None:
        return found
    available = 1.0 if model.oral_kind == "none" or regimen.without_pause else values["bioavailability"]
    entering = available * regimen.amount_mg
    mean = mean_concentration(model, values, entering / regimen.every_h)
    found |= {"mean_concentration": mean, "auc24": 24.0 * mean}
    if model.elimination == "linear":
        found["auc"] = entering / values["clearance"]
    if model.compartments == 1 and model.elimination == "linear" and model.oral_kind == "first_order":
        found["trough"] = _trough(values, entering, regimen.every_h)
    second = steady_second(model, values, mean)
    if second is not None:
        found["second"] = second
    return found


def mean_concentration(model: DrugModel, values: Mapping[str, float], rate_mg_h: float) -> float:
    """Concentration at which as much leaves as enters, mg/L; infinite where saturated elimination cannot keep up.

    Args:
        model: How the drug leaves.
        values: Structural parameters by name, canonical units.
        rate_mg_h: What enters, mg/h.
    """
    clearance = values["clearance"] if model.elimination != "saturable" else 0.0
    if model.elimination == "linear":
        return rate_mg_h / clearance
    fastest, half = values["maximum_elimination_rate"], values["michaelis_constant"]
    if model.elimination == "saturable":
        return rate_mg_h * half / (fastest - rate_mg_h) if rate_mg_h < fastest else math.inf
    # clearance c + fastest c / (half + c) = rate, the positive root.
    b = clearance * half + fastest - rate_mg_h
    return (math.sqrt(b * b + 4.0 * clearance * rate_mg_h * half) - b) / (2.0 * clearance)


def steady_second(model: DrugModel, values: Mapping[str, float], concentration: float) -> float | None:
    """The second output at a constant concentration (mg/L), in its unit; None where there is no closed form."""
    if model.second == "effect_site":
        return concentration
    if model.second == "metabolite":
        formed = values["metabolite_fraction"] * values["clearance"] * concentration
        return formed / values["metabolite_clearance"]
    if model.second not in ("coagulation_product", "coagulation_mean"):
        return None
    relative = math.pow(concentration / values["half_effect_concentration"], values["hill"])
    left = 1.0 / (1.0 + relative)
    factors = left * left if model.second == "coagulation_product" else left
    risen = values["response_scale"] * math.pow(1.0 - factors, values["response_exponent"])
    return values["response_baseline"] + risen


def _trough(values: Mapping[str, float], entering_mg: float, every_h: float) -> float:
    """Just before a dose, one compartment with a depot; the lag is shorter than what matters at steady state."""
    out = values["clearance"] / values["central_volume"]
    into = values["absorption_rate"]
    since = every_h - values.get("lag", 0.0)
    left = math.exp(-out * since) / -math.expm1(-out * every_h)
    coming = math.exp(-into * since) / -math.expm1(-into * every_h)
    return entering_mg * into / (values["central_volume"] * (into - out)) * (left - coming)
