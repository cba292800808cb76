"""Compartment graphs in few words, and SciPy's answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from twinstate.pk.graph import Doses

Floats = NDArray[np.float64]
Flow = tuple[int, int, float]  # from, to (-1: out of the body), 1/h


class Into(NamedTuple):
    """One dose, time in h; above 0 `interval` makes it the newest of an endless train."""

    time: float
    amount: float
    compartment: int = 0
    duration: float = 0.0
    lag: float = 0.0
    interval: float = 0.0


def rate_matrix(compartments: int, flows: Sequence[Flow]) -> Floats:
    rates = np.zeros((compartments, compartments))
    for source, target, rate in flows:
        rates[source, source] -= rate
        if target >= 0:
            rates[target, source] += rate
    return rates


def doses_of(given: Sequence[Into], resets: Sequence[float] = ()) -> Doses:
    def column(name: str) -> Floats:
        return np.array([getattr(dose, name) for dose in given], dtype=np.float64)

    return Doses(
        column("time"),
        column("lag"),
        column("amount"),
        column("duration"),
        np.array([dose.compartment for dose in given], dtype=np.int64),
        column("interval"),
        np.array(resets, dtype=np.float64),
    )


def integrate_graph(
    starts: Sequence[float],
    matrices: Sequence[Floats],
    given: Sequence[Into],
    times: Floats,
    resets: Sequence[float] = (),
) -> tuple[Floats, Floats]:
    """Amounts and integrals by DOP853, restarted at every jump. No steady states."""
    size = len(matrices[0])
    entering = []
    for dose in given:
        start = dose.time + dose.lag
        wiped = [at for at in resets if dose.time < at]
        if not wiped or min(wiped) > start:
            end = min([start + dose.duration, *wiped])
            entering.append((start, end, dose))
    jumps = sorted(
        {*starts, *resets, *(start for start, _, _ in entering), *(end for _, end, _ in entering), *times}
    )
    state = np.zeros(2 * size)
    amounts, areas = np.zeros((len(times), size)), np.zeros((len(times), size))
    for index, now in enumerate(jumps):
        for row in np.flatnonzero(times == now):
            amounts[row], areas[row] = (
                (np.zeros(size), state[size:]) if now in resets else (state[:size], state[size:])
            )
        if now in resets:
            state[:size] = 0.0
        for start, _, dose in entering:
            if start == now and dose.duration == 0.0:
                state[dose.compartment] += dose.amount
        if index + 1 == len(jumps):
            break
        inflow = np.zeros(size)
        for start, end, dose in entering:
            if dose.duration > 0 and start <= now < end:
                inflow[dose.compartment] += dose.amount / dose.duration
        rates = matrices[max(0, int(np.searchsorted(starts, now, side="right")) - 1)]

        def slope(_: float, y: Floats, rates: Floats = rates, inflow: Floats = inflow) -> Floats:
            return np.concatenate([rates @ y[:size] + inflow, y[:size]])

        run = solve_ivp(slope, (now, jumps[index + 1]), state, method="DOP853", rtol=1e-12, atol=1e-13)
        state = run.y[:, -1]
    return amounts, areas


def trains_by_hand(rates: Floats, trains: Sequence[Into], times: Floats, doses_before: int) -> Floats:
    """Amounts at times (from the newest doses on) of trains that began `doses_before` doses ago, by scipy's expm."""
    size = len(rates)
    amounts = np.zeros((len(times), size))
    for train in trains:
        for back in range(doses_before + 1):
            start = train.time + train.lag - back * train.interval
            # A dose given at the very time of an output has not entered yet.
            for row, at in enumerate(times):
                if at <= start:
                    continue
                augmented = np.zeros((size + 1, size + 1))
                augmented[:size, :size] = rates
                if train.duration > 0:
                    augmented[train.compartment, size] = train.amount / train.duration
                    fed = expm(augmented * min(train.duration, at - start))[:size, size]
                else:
                    fed = np.zeros(size)
                    fed[train.compartment] = train.amount
                amounts[row] += expm(rates * max(0.0, at - start - train.duration)) @ fed
    return amounts
