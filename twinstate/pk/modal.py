"""Exact steps of the linear kinetics: modal amounts, and one compartment that follows the central one.

Between two events every mode decays on its own under constant input, so a step is a closed form.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.schedule import COMPARTMENTS, Body
from twinstate.pk.steps import absorbed, held, held_under_absorption, held_under_infusion, passed_on

Floats = NDArray[np.float64]


@kernel
def advance(
    amounts: Floats,
    depot: float,
    rate_in: float,
    rates: Floats,
    into_modes: Floats,
    absorption: float,
    time: float,
) -> tuple[float, float]:
    """Move modal amounts ahead by `time` hours of constant input.

    Args:
        amounts: Modal amounts, mg, (modes,); changed in place.
        depot: Amount in the depot, mg.
        rate_in: Total rate of the infusions running, mg/h.
        rates: Decay rates, 1/h, (modes,).
        into_modes: Modal amount per compartment amount, (modes, compartments).
        absorption: Rate constant of the depot, 1/h.
        time: h.

    Returns:
        What is left in the depot, mg, and the area under the central amount, mg*h.
    """
    depot_decay = 1.0
    depot_held = time
    if depot != 0.0:
        depot_decay = math.exp(-absorption * time)
        depot_held = held(absorption, time, depot_decay)
    area = 0.0
    for mode in range(amounts.size):
        rate = rates[mode]
        decay = math.exp(-rate * time)
        unit_held = held(rate, time, decay)
        amount = amounts[mode] * decay
        area += amounts[mode] * unit_held
        if rate_in != 0.0:
            flow = into_modes[mode, 0] * rate_in
            amount += flow * unit_held
            area += flow * held_under_infusion(rate, time, unit_held)
        if depot != 0.0:
            flow = into_modes[mode, 0] * absorption * depot
            unit_absorbed = absorbed(rate, absorption, time, decay, depot_decay)
            amount += flow * unit_absorbed
            area += flow * held_under_absorption(rate, absorption, time, unit_held, depot_held, unit_absorbed)
        amounts[mode] = amount
    return depot * depot_decay, area


@kernel
def gathered(
    amounts: Floats,
    depot: float,
    rate_in: float,
    rates: Floats,
    into_modes: Floats,
    absorption: float,
    leaving: float,
    time: float,
) -> float:
    """What a compartment holds after `time` hours of inflow at the central amount a h, empty at first.

    Args:
        amounts: Modal amounts at the start, mg, (modes,).
        depot: Amount in the depot at the start, mg.
        rate_in: Total rate of the infusions running, mg/h.
        rates: Decay rates, 1/h, (modes,).
        into_modes: Modal amount per compartment amount, (modes, compartments).
        absorption: Rate constant of the depot, 1/h.
        leaving: Decay rate of the compartment, 1/h.
        time: h.

    Returns:
        mg*h.
    """
    left = math.exp(-leaving * time)
    left_held = held(leaving, time, left)
    total = 0.0
    for mode in range(amounts.size):
        rate = rates[mode]
        decay = math.exp(-rate * time)
        through = absorbed(leaving, rate, time, left, decay)
        total += amounts[mode] * through
        if rate_in != 0.0:
            flow = into_modes[mode, 0] * rate_in
            total += flow * held_under_absorption(
                leaving, rate, time, left_held, held(rate, time, decay), through
            )
        if depot != 0.0:
            flow = into_modes[mode, 0] * absorption * depot
            total += flow * passed_on(rate, absorption, leaving, time)
    return total


@kernel
def to_compartments(amounts: Floats, from_modes: Floats, compartments: Floats) -> None:
    """Fill what each compartment holds, mg, (compartments,), from modal amounts (modes,)."""
    for compartment in range(amounts.size):
        compartments[compartment] = 0.0
        for mode in range(amounts.size):
            compartments[compartment] += from_modes[compartment, mode] * amounts[mode]


@kernel
def to_modes(compartments: Floats, into_modes: Floats, amounts: Floats) -> None:
    """Fill modal amounts (modes,) from what each compartment holds, mg, (compartments,)."""
    for mode in range(amounts.size):
        amounts[mode] = 0.0
        for compartment in range(amounts.size):
            amounts[mode] += into_modes[mode, compartment] * compartments[compartment]


@kernel
def change_segment(body: Body, before: int, after: int) -> None:
    """Carry the compartments' amounts over into the modes of the next segment."""
    to_compartments(body.amounts, body.from_modes[before], body.modal[COMPARTMENTS])
    to_modes(body.modal[COMPARTMENTS], body.into_modes[after], body.amounts)
