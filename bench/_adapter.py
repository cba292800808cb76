"""From a case file to predictions: formulas become arrays, flows go to the product's graph, equations to `_odes.py`.

`Adapter` holds what all patients of a case share, `Patient` what one of them is: a port `predict(etas)` as the
estimator asks for, and the parameters to compare. Compartments count from 1 in the file and from 0 here.

Covariates follow NONMEM: row i rules on (t[i-1], t[i]], the last row for ever after; with resets only rows of the same
occasion count. A lag is taken from the dose's own row, bioavailability and duration from the row that rules just after
the dose has entered.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench._cases import MODEL_DURATION, CaseError, CaseForm, PatientForm, compartments
from bench._formula import FormulaError, Program, compile_formula, run
from bench._odes import join, solve_equations
from twinstate.assimilation.deviance import Measured
from twinstate.pk.graph import solve_graph_points

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Adapter:
    """The model of a case, its formulas compiled.

    Args:
        path: The file, for what is said about it.
        case: Its checked content.

    Raises:
        CaseError: A formula is refused, or a name to compare is neither a parameter nor defined.
    """

    def __init__(self, path: Path, case: CaseForm) -> None:
        model = case.model
        self.model = model
        self.size = compartments(model)
        self.omega = np.array(model.omega, dtype=np.float64).reshape(len(model.etas), len(model.etas))
        self._path = path
        names: dict[str, int] = {}
        for name in [*model.typical, *model.etas, *model.covariates]:
            names[name] = len(names)
        self.typical = list(model.typical.values())
        self._slots = len(names)
        self.parameters: list[Program] = []
        for parameter in model.parameters:
            key = f"parameters.{parameter.name}"
            self.parameters.append(self._compile(key, parameter.expr, names))
            names[parameter.name] = self._slots
            self._slots += 1
        amounts = {f"A{k + 1}": self._slots + k for k in range(self.size)}
        of_dose = {"lag": model.lag, "bioavailability": model.bioavailability, "duration": model.duration}
        self.of_dose = {
            table: {
                int(key) - 1: self._compile(f"{table}.{key}", text, names) for key, text in entries.items()
            }
            for table, entries in of_dose.items()
        }
        self.observed = {
            int(key) - 1: self._compile(f"observed.{key}", text, {**names, **amounts})
            for key, text in model.observed.items()
        }
        self.flows = [
            (source - 1, target - 1, self._compile(f"flows[{index}]", rate, names))
            for index, (source, target, rate) in enumerate(model.flows or [])
        ]
        state = {**names, **amounts, "t": self._slots + self.size, "T": self._slots + self.size}
        odes = [self._compile(f"odes[{k}]", text, state) for k, text in enumerate(model.odes or [])]
        self.equations = join(odes, self._slots) if odes else None
        self.compared: dict[str, Program] = {}
        for name in model.compare or [parameter.name for parameter in model.parameters]:
            text = model.compare_defs.get(name, name)
            if name not in model.compare_defs and name not in names:
                raise CaseError(
                    f"{path}: model.compare has {name}, which is no parameter; define it in model.compare_defs"
                )
            self.compared[name] = self._compile(f"compare_defs.{name}", text, names)

    def _compile(self, key: str, text: str | float, names: dict[str, int]) -> Program:
        try:
            return compile_formula(str(text), names)
        except FormulaError as error:
            raise CaseError(f"{self._path}: model.{key} is {text!r}: it {error}") from error

    def values(self, etas: Floats, covariates: Floats) -> list[Floats | float]:
        """Everything a formula may name.

        Args:
            etas: (points, etas).
            covariates: (rows, covariates).

        Returns:
            One number or array a name; arrays broadcast to (points, rows).
        """
        found: list[Floats | float] = [*self.typical, *etas.T[:, :, None], *covariates.T[:, None, :]]
        for program in self.parameters:
            found.append(run(program, found))
        return found


class Patient:
    """One patient under the model of a case.

    Attributes:
        id: As in the file.
        measured: The levels with their residual error, in the file's order.
        omega: Covariance of the etas.
        reference: NONMEM's answer, as in the file.
    """

    def __init__(self, adapter: Adapter, form: PatientForm) -> None:
        self.id = form.id
        self.reference = form.reference
        self.omega = adapter.omega
        self._adapter = adapter
        self._place_covariates(form)
        self._place_doses(form)
        self._place_levels(form)

    def _place_covariates(self, form: PatientForm) -> None:
        names = self._adapter.model.covariates
        self._resets = np.array(sorted(form.resets), dtype=np.float64)
        if form.covariate_rows:
            rows = sorted(form.covariate_rows, key=lambda row: row[0])
        else:
            rows = [[0.0, *(form.covariates[name] for name in names)]]
        self._row_h = np.array([row[0] for row in rows])
        self._covariates = np.array([row[1:] for row in rows], dtype=np.float64).reshape(
            len(rows), len(names)
        )
        occasion_of_row = np.searchsorted(self._resets, self._row_h, side="right")
        # Rows of each occasion; one without rows keeps the last before it, or the first of all.
        self._occasions: list[Integers] = []
        for occasion in range(self._resets.size + 1):
            own = np.flatnonzero(occasion_of_row == occasion)
            if own.size == 0:
                own = np.array([self._occasions[-1][-1] if self._occasions else 0])
            self._occasions.append(own)
        starts, self._segment_row = [-np.inf], [int(self._occasions[0][0])]
        for occasion, own in enumerate(self._occasions):
            if occasion > 0:
                starts.append(float(self._resets[occasion - 1]))
                self._segment_row.append(int(own[0]))
            for before, row in pairwise(own):
                starts.append(float(self._row_h[before]))
                self._segment_row.append(int(row))
        self._segment_h = np.array(starts)

    def _place_doses(self, form: PatientForm) -> None:
        trains = [(dose[0], 0, *dose[1:]) for dose in form.ss_doses]
        single = [(dose[0], 1, *dose[1:], 0.0) for dose in form.doses]
        # A train first: it forgets the doses before it, not those given with it.
        given = sorted([*trains, *single], key=lambda dose: dose[:2])
        self._dose_h = np.array([dose[0] for dose in given], dtype=np.float64)
        self._dose_amount = np.array([dose[2] for dose in given], dtype=np.float64)
        self._dose_into = np.array([dose[3] - 1 for dose in given], dtype=np.int64)
        self._dose_duration = np.array([dose[4] for dose in given], dtype=np.float64)
        self._dose_interval = np.array([dose[5] for dose in given], dtype=np.float64)
        self._dose_occasion = np.searchsorted(self._resets, self._dose_h, side="right")

    def _place_levels(self, form: PatientForm) -> None:
        times = np.array([level[0] for level in form.obs], dtype=np.float64)
        self._time_h, self._time_of_level = np.unique(times, return_inverse=True)
        self._level_of = np.array([int(level[1]) - 1 for level in form.obs], dtype=np.int64)
        self._level_row = np.empty(times.size, np.int64)
        for level, time in enumerate(times):
            # A level drawn when the body is emptied is drawn before it.
            own = self._occasions[int(np.searchsorted(self._resets, time, side="left"))]
            first = int(np.searchsorted(self._row_h[own], time, side="left"))
            self._level_row[level] = own[min(first, own.size - 1)]
        residual = [self._adapter.model.residual[str(k + 1)] for k in self._level_of]
        log_normal = [r.kind == "lognormal" for r in residual]
        self.log_normal = np.array(log_normal, dtype=bool)
        self.measured = Measured(
            np.array([level[2] for level in form.obs], dtype=np.float64),
            np.array([len(level) > 3 and level[3] == 1 for level in form.obs], dtype=np.int64),
            np.array([r.var_prop for r in residual], dtype=np.float64),
            np.array([r.var_add for r in residual], dtype=np.float64),
            np.array([r.var_log if r.kind == "lognormal" else 0.0 for r in residual], dtype=np.float64),
        )

    def predict(self, etas: Floats) -> Floats:
        """Concentrations (points, levels) at etas (points, etas), in the file's order of levels."""
        points = len(etas)
        adapter = self._adapter
        values = adapter.values(etas, self._covariates)
        lag, amount, duration = self._doses(values, points)
        shared = (self._dose_into, self._dose_interval, self._resets)
        if adapter.equations is None:
            rates = np.zeros((points, self._segment_h.size, adapter.size, adapter.size))
            for source, target, program in adapter.flows:
                rate = self._by_row(run(program, values), points)[:, self._segment_row]
                rates[:, :, source, source] -= rate
                if target >= 0:
                    rates[:, :, target, source] += rate
            amounts = solve_graph_points(
                self._segment_h, rates, self._time_h, self._dose_h, lag, amount, duration, *shared
            )
        else:
            named = np.stack([self._by_row(value, points)[:, self._segment_row] for value in values], axis=2)
            amounts = solve_equations(
                adapter.equations,
                self._segment_h,
                named,
                self._time_h,
                self._dose_h,
                lag,
                amount,
                duration,
                *shared,
            )
        at_level = amounts[:, self._time_of_level]
        at_row = [self._by_row(value, points)[:, self._level_row] for value in values]
        predicted = np.empty((points, self._level_of.size))
        for compartment, program in adapter.observed.items():
            own = self._level_of == compartment
            if own.any():
                named_values = [value[:, own] for value in at_row]
                predicted[:, own] = run(program, [*named_values, *np.moveaxis(at_level[:, own], 2, 0)])
        return predicted

    def _doses(self, values: list[Floats | float], points: int) -> tuple[Floats, Floats, Floats]:
        """Lag, amount entering and duration of every dose at every point, each (points, doses)."""
        tables = self._adapter.of_dose
        shape = (points, self._dose_h.size)
        lag = np.zeros(shape)
        amount = np.broadcast_to(self._dose_amount, shape).copy()
        duration = np.broadcast_to(np.maximum(self._dose_duration, 0.0), shape).copy()
        computed = {
            (table, into): self._by_row(run(program, values), points)
            for table, programs in tables.items()
            for into, program in programs.items()
        }
        every = np.arange(points)
        for dose, (time, into) in enumerate(zip(self._dose_h, self._dose_into.tolist(), strict=True)):
            own = self._occasions[self._dose_occasion[dose]]
            row_h = self._row_h[own]
            if ("lag", into) in computed:
                row = own[min(int(np.searchsorted(row_h, time, side="left")), own.size - 1)]
                lag[:, dose] = computed["lag", into][:, row]
            after = own[np.minimum(np.searchsorted(row_h, time + lag[:, dose], side="right"), own.size - 1)]
            if ("bioavailability", into) in computed:
                amount[:, dose] *= computed["bioavailability", into][every, after]
            if self._dose_duration[dose] == MODEL_DURATION:
                duration[:, dose] = computed["duration", into][every, after]
        return lag, amount, duration

    def _by_row(self, value: Floats | float, points: int) -> Floats:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (points, len(self._covariates)))

    def compared(self, eta: Floats) -> dict[str, Floats]:
        """Each parameter to compare at one eta vector, under every row of covariates, (rows,)."""
        values = self._adapter.values(eta[None], self._covariates)
        return {
            name: self._by_row(run(program, values), 1)[0] for name, program in self._adapter.compared.items()
        }
