"""Dosing scenarios: the form of the file (docs/dosing-scenarios.md), its checks, and the arrays the solver takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench._formula import FormulaError, compile_formula, run
from twinstate.pk.graph import Doses

Floats = NDArray[np.float64]

MOST_ADDITIONAL = 10_000


class ScenarioError(ValueError):
    """A file that is no scenario; its text is one sentence a person can act on."""


class DoseForm(msgspec.Struct, forbid_unknown_fields=True):
    """One dose; at most one of `rate` and `duration`, neither is a bolus."""

    time: float
    amount: float
    compartment: int
    rate: float | None = None
    duration: float | None = None
    ss: int = 0
    ii: float = 0.0
    addl: int = 0


class Scenario(msgspec.Struct, forbid_unknown_fields=True):
    """One scenario; compartments count from 1, 0 is out of the body. Numbers may be formulas of the parameters."""

    name: str
    parameters: dict[str, float]
    flows: list[tuple[int, int, str | float]]
    observed: dict[str, str]
    doses: list[DoseForm]
    times: list[float]
    concentrations: dict[str, list[float]]
    areas: dict[str, list[float]] = {}
    lag: dict[str, str | float] = {}
    bioavailability: dict[str, str | float] = {}
    resets: list[float] = []
    tolerance: float = 1e-6
    description: str = ""
    source: str = ""


class Arrays(NamedTuple):
    """A scenario as the solver takes it; compartments count from 0.

    Attributes:
        rates: (1, n, n), 1/h.
        doses: Expanded and with lag and bioavailability applied.
        time_h: (times,).
        per_amount: Concentration per amount of each observed compartment.
        concentrations: References by compartment, (times,).
        areas: References by compartment, (times,).
    """

    rates: Floats
    doses: Doses
    time_h: Floats
    per_amount: dict[int, float]
    concentrations: dict[int, Floats]
    areas: dict[int, Floats]


def read_scenarios(folder: Path, only: Sequence[str]) -> list[Scenario]:
    """All scenarios of a folder's JSON files, each an object or a list of them, in order of file and place.

    Raises:
        ScenarioError: A file or a scenario breaks a rule, or there is none.
    """
    if not folder.is_dir():
        raise ScenarioError(f"{folder} is not a folder; name the one that holds the scenarios")
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            told = msgspec.json.decode(path.read_bytes(), type=Scenario | list[Scenario])
        except msgspec.ValidationError as error:
            raise ScenarioError(f"{path}: {error}; docs/dosing-scenarios.md lists the keys") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{path}: is no JSON ({error}); write the file anew") from error
        except OSError as error:
            raise ScenarioError(
                f"{path}: cannot be opened ({error.strerror}); check name and rights"
            ) from error
        for scenario in told if isinstance(told, list) else [told]:
            _check(f"{path}: scenario {scenario.name!r}", scenario)
            found.append(scenario)
    chosen = [s for s in found if not only or any(s.name.startswith(name) for name in only)]
    if not chosen:
        known = ", ".join(s.name for s in found) or "no scenario at all"
        raise ScenarioError(f"{folder} holds nothing that fits; there is {known}")
    return chosen


def as_arrays(scenario: Scenario) -> Arrays:
    """Expand additional doses, apply lag and bioavailability, and put all into arrays.

    A dose given by rate keeps its rate, so bioavailability shortens or lengthens it; one given by duration keeps that.
    """
    value = _Evaluator(scenario.parameters)
    size = _compartments(scenario)
    rates = np.zeros((1, size, size))
    for source, target, rate in scenario.flows:
        constant = value(rate)
        rates[0, source - 1, source - 1] -= constant
        if target > 0:
            rates[0, target - 1, source - 1] += constant
    rows = []
    for dose in scenario.doses:
        key = str(dose.compartment)
        amount = dose.amount * value(scenario.bioavailability.get(key, 1.0))
        duration = amount / dose.rate if dose.rate is not None else dose.duration or 0.0
        lag = value(scenario.lag.get(key, 0.0))
        for back in range(dose.addl + 1):
            train = dose.ii if dose.ss == 1 and back == 0 else 0.0
            # A train stands before what is given at its time, which it must not forget.
            rows.append(
                (
                    dose.time + back * dose.ii,
                    0 if train else 1,
                    lag,
                    amount,
                    duration,
                    dose.compartment - 1,
                    train,
                )
            )
    rows.sort(key=lambda row: row[:2])
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 7).T
    doses = Doses(
        columns[0].copy(),
        columns[2].copy(),
        columns[3].copy(),
        columns[4].copy(),
        columns[5].astype(np.int64),
        columns[6].copy(),
        np.array(sorted(scenario.resets), dtype=np.float64),
    )
    amounts = {f"A{k + 1}": 0.0 for k in range(size)}
    per_amount = {}
    for key, text in scenario.observed.items():
        # Concentrations are proportional to their amount: at one unit of it the formula is the proportion.
        per_amount[int(key) - 1] = _Evaluator({**scenario.parameters, **amounts, f"A{key}": 1.0})(text)
    return Arrays(
        rates,
        doses,
        np.array(scenario.times, dtype=np.float64),
        per_amount,
        {int(key) - 1: np.array(told) for key, told in scenario.concentrations.items()},
        {int(key) - 1: np.array(told) for key, told in scenario.areas.items()},
    )


class _Evaluator:
    """Numbers and formulas of named numbers."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._names = {name: index for index, name in enumerate(values)}
        self._values = list(values.values())

    def __call__(self, told: str | float) -> float:
        if not isinstance(told, str):
            return float(told)
        found = float(run(compile_formula(told, self._names), self._values))
        if not math.isfinite(found):
            raise FormulaError(f"is {found}, not a finite number")
        return found


def _compartments(scenario: Scenario) -> int:
    numbers = [number for flow in scenario.flows for number in flow[:2]]
    return max([*numbers, *(dose.compartment for dose in scenario.doses), *map(int, scenario.observed)])


def _check(where: str, scenario: Scenario) -> None:
    """Refuse what has no meaning.

    Raises:
        ScenarioError: With the place, the value, the rule and the way out.
    """
    for table in ("observed", "concentrations", "areas", "lag", "bioavailability"):
        for key in getattr(scenario, table):
            if not key.isdigit() or int(key) < 1:
                raise ScenarioError(f"{where}: {table} has the key {key!r}; keys are compartments, from 1")
    for source, target, rate in scenario.flows:
        if source < 1 or target < 0 or source == target:
            raise ScenarioError(
                f"{where}: flows has [{source}, {target}, {rate!r}]; a flow goes from a compartment (from 1) to "
                "another or to 0, out of the body"
            )
    if any(later <= earlier for earlier, later in zip(scenario.times, scenario.times[1:], strict=False)):
        raise ScenarioError(f"{where}: times do not ascend; sort them and name each once")
    for index, dose in enumerate(scenario.doses):
        _check_dose(f"{where}: doses[{index}]", dose)
    for table in ("concentrations", "areas"):
        for key, told in getattr(scenario, table).items():
            if key not in scenario.observed:
                raise ScenarioError(
                    f"{where}: {table} tells compartment {key}, which observed lacks; add its formula"
                )
            if len(told) != len(scenario.times):
                raise ScenarioError(
                    f"{where}: {table}.{key} has {len(told)} values for {len(scenario.times)} times; give one a time"
                )
    if not scenario.concentrations:
        raise ScenarioError(f"{where}: concentrations is empty; give the reference of a compartment")
    try:
        as_arrays(scenario)
    except FormulaError as error:
        raise ScenarioError(
            f"{where}: a formula of flows, lag, bioavailability or observed {error}"
        ) from error


def _check_dose(where: str, dose: DoseForm) -> None:
    if dose.compartment < 1:
        raise ScenarioError(f"{where}.compartment is {dose.compartment}; compartments count from 1")
    if dose.rate is not None and dose.duration is not None:
        raise ScenarioError(f"{where} has rate {dose.rate} and duration {dose.duration}; give one of them")
    for key in ("rate", "duration"):
        told = getattr(dose, key)
        if told is not None and not told > 0.0:
            raise ScenarioError(
                f"{where}.{key} is {told}; it is above 0, and a bolus has neither rate nor duration"
            )
    if dose.ss not in (0, 1):
        raise ScenarioError(f"{where}.ss is {dose.ss}; 1 is at steady state, 0 is not")
    if (dose.ss == 1 or dose.addl > 0) and not dose.ii > 0.0:
        raise ScenarioError(f"{where}.ii is {dose.ii}; with ss or addl it is the interval in hours, above 0")
    if not 0 <= dose.addl <= MOST_ADDITIONAL:
        raise ScenarioError(f"{where}.addl is {dose.addl}; it is 0 to {MOST_ADDITIONAL} doses more")
