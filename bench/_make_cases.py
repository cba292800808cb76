"""Virtual patients of our own in the format of `bench/nonmem.py`, with answers that SciPy gives: every feature once.

Nothing here uses the project's solver, formula reader or search: each model is written a second time in Python, its
amounts come from `scipy.linalg.expm` or `scipy.integrate.solve_ivp`, and the reference etas from
`scipy.optimize.minimize`. So a case tests the reading of formulas, covariates, doses and the search all at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import minimize
from scipy.stats import norm

Floats = NDArray[np.float64]
Values = dict[str, float]

SEED = 20260301
TRAIN_DOSES = 14  # of an endless train; what came before has left these bodies


class Case(NamedTuple):
    """One model, written as formulas for the file and as functions for SciPy.

    Attributes:
        name: Of the file.
        model: The file's model.
        individual: Parameters from etas and one row of covariates; `lag1`, `f1`, `duration1` belong to doses.
        slope: dA/dt without input from (t, A, parameters); linear in A unless `curved`.
        observed: Concentration by compartment from (A, parameters).
        patient: Draws doses, covariates and sampling times: a patient of the file whose levels have no value yet.
        curved: Whether the equations are not linear.
        kinked: Whether a lag or a duration with an eta makes the objective lack a gradient somewhere.
    """

    name: str
    model: dict[str, Any]
    individual: Callable[[Values, Values], Values]
    slope: Callable[[float, Floats, Values], list[float]]
    observed: dict[int, Callable[[Floats, Values], float]]
    patient: Callable[[np.random.Generator], dict[str, Any]]
    curved: bool = False
    kinked: bool = False


class _Course:
    """One patient under one eta vector: events in order, a step at a time."""

    def __init__(self, case: Case, patient: dict[str, Any], eta: Floats) -> None:
        self.case = case
        self.patient = patient
        self.etas = dict(zip(case.model["etas"], eta.tolist(), strict=True))
        self.size = len(case.model["compartments"])
        self.resets = patient.get("resets", [])
        self._steps: dict[tuple[float, ...], Floats] = {}

    def parameters(self, time: float, occasion: int, *, just_after: bool) -> Values:
        names = self.case.model.get("covariates", [])
        rows = [
            dict(zip(["time", *names], row, strict=True)) for row in self.patient.get("covariate_rows", [])
        ]
        if not rows:
            return self.case.individual(self.etas, self.patient.get("covariates", {}))
        own = [row for row in rows if sum(reset <= row["time"] for reset in self.resets) == occasion]
        for row in own:
            if row["time"] > time or (row["time"] == time and not just_after):
                return self.case.individual(self.etas, row)
        return self.case.individual(self.etas, own[-1])

    def step(self, start: float, end: float, state: Floats, flow: Floats, parameters: Values) -> Floats:
        if end <= start:
            return state
        if self.case.curved:
            run = solve_ivp(
                lambda t, y: np.array(self.case.slope(t, y, parameters)) + flow,
                (start, end), state, method="LSODA", rtol=1e-10, atol=1e-9,
            )  # fmt: skip
            return np.asarray(run.y[:, -1])
        key = (round(end - start, 9), *flow.tolist(), *parameters.values())
        if key in self._steps:
            return np.asarray((self._steps[key] @ np.append(state, 1.0))[: self.size])
        augmented = np.zeros((self.size + 1, self.size + 1))
        for k in range(self.size):
            augmented[: self.size, k] = self.case.slope(start, np.eye(self.size)[k], parameters)
        augmented[: self.size, self.size] = flow
        self._steps[key] = expm(augmented * (end - start))
        return np.asarray((self._steps[key] @ np.append(state, 1.0))[: self.size])

    def amounts(self, times: list[float]) -> list[Floats]:
        """Amounts just before what enters at each of the times."""
        entries: list[tuple[float, float, int, float, float]] = []  # start, end, compartment, amount, given
        trains = {dose[0] for dose in self.patient.get("ss_doses", [])}
        expanded = [(given, given, *dose) for given, *dose in self.patient.get("doses", [])]
        for given, amount, into, length, interval in self.patient.get("ss_doses", []):
            expanded += [(given - k * interval, given, amount, into, length) for k in range(TRAIN_DOSES)]
        for given, ruled, amount, into, length in expanded:
            occasion = sum(reset <= ruled for reset in self.resets)
            lag = self.parameters(ruled, occasion, just_after=False).get(f"lag{into}", 0.0)
            entering = self.parameters(ruled + lag, occasion, just_after=True)
            duration = entering[f"duration{into}"] if length == -2 else length
            entries.append(
                (given + lag, given + lag + duration, into, amount * entering.get(f"f{into}", 1.0), ruled)
            )
        emptied = sorted([*self.resets, *trains])
        rows = [row[0] for row in self.patient.get("covariate_rows", [])]
        found: dict[float, Floats] = {}
        # Emptied bodies remember nothing, so each stretch between is a run of its own.
        for since in [-math.inf, *emptied]:
            wanted = [at for at in times if since == self._since(at, emptied, trains)]
            until = min((at for at in emptied if at > since), default=math.inf)
            live = [entry for entry in entries if since <= entry[4] < until]
            cuts = {*wanted, *(entry[0] for entry in live), *(entry[1] for entry in live), *rows}
            points = sorted(cut for cut in cuts if cut <= max(wanted, default=-math.inf))
            state = np.zeros(self.size)
            for index, now in enumerate(points):
                if now in wanted:
                    found[now] = state
                if index + 1 == len(points):
                    break
                for start, end, into, amount, _ in live:
                    if start == now and end <= start:
                        state = state + amount * np.eye(self.size)[into - 1]
                flow = np.zeros(self.size)
                for start, end, into, amount, _ in live:
                    if end > start and start <= now < end:
                        flow[into - 1] += amount / (end - start)
                ruling = max(now, since)
                occasion = sum(reset <= ruling for reset in self.resets)
                parameters = self.parameters(ruling, occasion, just_after=True)
                state = self.step(now, points[index + 1], state, flow, parameters)
        return [found[at] for at in times]

    @staticmethod
    def _since(time: float, emptied: list[float], trains: set[float]) -> float:
        """When the body was emptied last; a train's steady state is there at its very time."""
        return max((at for at in emptied if at < time or (at == time and at in trains)), default=-math.inf)


def predict(case: Case, patient: dict[str, Any], eta: Floats) -> Floats:
    """Concentrations at a patient's levels, by SciPy."""
    course = _Course(case, patient, eta)
    times = sorted({level[0] for level in patient["obs"]})
    amounts = dict(zip(times, course.amounts(times), strict=True))
    found = []
    for level in patient["obs"]:
        occasion = sum(reset < level[0] for reset in course.resets)
        parameters = course.parameters(level[0], occasion, just_after=False)
        found.append(case.observed[level[1]](amounts[level[0]], parameters))
    return np.array(found)


def _variances(case: Case, patient: dict[str, Any], predicted: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    forms = [case.model["residual"][str(level[1])] for level in patient["obs"]]
    on_log = np.array([form["kind"] == "lognormal" for form in forms])
    variance = np.array(
        [
            form.get("var_log", 0.0) or form.get("var_prop", 0.0) * f * f + form.get("var_add", 0.0)
            for form, f in zip(forms, predicted, strict=True)
        ]
    )
    return variance, on_log


def _free(case: Case) -> NDArray[np.int64]:
    return np.flatnonzero(np.diag(np.array(case.model["omega"])) > 0)


def cost(case: Case, patient: dict[str, Any], free: Floats) -> float:
    """The objective at the etas that have a variance, written longhand."""
    omega = np.array(case.model["omega"])
    kept = _free(case)
    eta = np.zeros(len(omega))
    eta[kept] = free
    predicted = predict(case, patient, eta)
    variance, on_log = _variances(case, patient, predicted)
    total = free @ np.linalg.solve(omega[np.ix_(kept, kept)], free)
    for level, f, v, log_normal in zip(patient["obs"], predicted, variance, on_log, strict=True):
        if log_normal:
            total += (math.log(level[2]) - math.log(f)) ** 2 / v + math.log(v)
        elif len(level) > 3 and level[3] == 1:
            total += -2.0 * norm.logcdf((level[2] - f) / math.sqrt(v))
        else:
            total += (level[2] - f) ** 2 / v + math.log(v)
    return float(total)


def _best(case: Case, patient: dict[str, Any], true: Floats) -> Floats:
    """The mode as SciPy finds it from the true etas, which only a simulation knows."""
    kept = _free(case)
    spread = np.sqrt(np.diag(np.array(case.model["omega"]))[kept])
    found = minimize(lambda x: cost(case, patient, x * spread), true[kept] / spread, method="BFGS", tol=1e-6)
    best = found.x
    if case.kinked:
        # A simplex is not misled by the kinks of a lag.
        corners = best + 0.01 * np.vstack([np.zeros(kept.size), np.eye(kept.size)])
        options = {"xatol": 1e-6, "fatol": 1e-9, "initial_simplex": corners, "maxiter": 400}
        last = minimize(
            lambda x: cost(case, patient, x * spread), best, method="Nelder-Mead", options=options
        )
        best = last.x if last.fun < found.fun else best
    eta = np.zeros(len(case.model["etas"]))
    eta[kept] = best * spread
    return eta


def _covariance(case: Case, patient: dict[str, Any], eta: Floats) -> Floats:
    """(prior precision + Fisher information)^-1 of measured levels, by central differences."""
    omega, kept = np.array(case.model["omega"]), _free(case)
    information = np.linalg.inv(omega[np.ix_(kept, kept)])
    predicted = predict(case, patient, eta)
    variance, on_log = _variances(case, patient, predicted)
    columns = []
    for index in kept:
        move = 1e-4 * np.eye(len(omega))[index]
        up, down = predict(case, patient, eta + move), predict(case, patient, eta - move)
        slope = (np.log(up) - np.log(down) if on_log.any() else up - down) / 2e-4
        slope_v = (_variances(case, patient, up)[0] - _variances(case, patient, down)[0]) / 2e-4
        columns.append(np.concatenate([slope / np.sqrt(variance), slope_v / variance / math.sqrt(2.0)]))
    jacobian = np.array(columns)
    covariance = np.zeros_like(omega)
    covariance[np.ix_(kept, kept)] = np.linalg.inv(information + jacobian @ jacobian.T)
    return covariance


def _simulated(case: Case, random: np.random.Generator, number: int) -> dict[str, Any]:
    """One patient: etas drawn, levels measured with error, the reference found."""
    patient = {"id": number, **case.patient(random)}
    omega = np.array(case.model["omega"])
    kept = _free(case)
    true = np.zeros(len(omega))
    true[kept] = np.linalg.cholesky(omega[np.ix_(kept, kept)]) @ random.standard_normal(kept.size)
    predicted = predict(case, patient, true)
    variance, on_log = _variances(case, patient, predicted)
    noise = np.sqrt(variance) * random.standard_normal(variance.size)
    limit = case.model.get("lloq", -math.inf)
    for level, f, error, log_normal in zip(patient["obs"], predicted, noise, on_log, strict=True):
        value = f * math.exp(error) if log_normal else f + error
        level.append(float(f"{value:.6g}"))
        if math.isfinite(limit):
            level[2:] = [limit, 1] if value < limit else [level[2], 0]
    eta = _best(case, patient, true)
    covariance = _covariance(case, patient, eta)
    patient["reference"] = {
        "eta": eta.tolist(),
        "ipred": predict(case, patient, eta).tolist(),
        "pred": predict(case, patient, np.zeros_like(eta)).tolist(),
    }
    if not any(len(level) > 3 and level[3] == 1 for level in patient["obs"]):
        patient["reference"]["eta_cov_lower"] = covariance[np.tril_indices(len(eta))].tolist()
    return patient


def write_cases(folder: Path, patients: int, only: tuple[str, ...] = ()) -> None:
    """Write a file a case.

    Args:
        folder: Where.
        patients: A case.
        only: Names; none means all.
    """
    from bench._synthetic import CASES  # they are built with what stands above

    for index, case in enumerate(CASES):
        if only and case.name not in only:
            continue
        random = np.random.default_rng([SEED, index])
        content = {
            "case": case.name,
            "description": "Simulated; the reference is SciPy's.",
            "n_patients": patients,
            "model": case.model,
            "patients": [_simulated(case, random, number + 1) for number in range(patients)],
        }
        (folder / f"{case.name}.json").write_text(json.dumps(content))
