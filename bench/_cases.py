"""Files of virtual patients with NONMEM's answers: their form, and what a file must hold to be read.

One JSON file is one case: a model in formulas and the patients fitted with it. `read_case` gives it checked, or says in
one sentence which file, key and value break which rule and what to write instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

MODEL_DURATION = -2.0  # a dose's duration: "the model parameter named in `duration`"
KINDS = ("proportional", "additive", "combined", "lognormal")


class CaseError(ValueError):
    """A file that cannot be read as a case; its text is one sentence a person can act on."""


class ResidualForm(msgspec.Struct):
    """Residual error of one observed compartment; variances, not standard deviations."""

    kind: str
    var_prop: float = 0.0
    var_add: float = 0.0
    var_log: float = 0.0


class ParameterForm(msgspec.Struct):
    """One individual parameter and its formula."""

    name: str
    expr: str


class ModelForm(msgspec.Struct):
    """The model of a case; compartments count from 1, 0 is out of the body."""

    omega: list[list[float]]
    etas: list[str]
    parameters: list[ParameterForm]
    observed: dict[str, str]
    residual: dict[str, ResidualForm]
    typical: dict[str, float] = {}
    compartments: list[str] = []
    flows: list[tuple[int, int, str | float]] | None = None
    odes: list[str] | None = None
    lag: dict[str, str | float] = {}
    bioavailability: dict[str, str | float] = {}
    duration: dict[str, str | float] = {}
    covariates: list[str] = []
    compare: list[str] = []
    compare_defs: dict[str, str] = {}


class ReferenceForm(msgspec.Struct):
    """What NONMEM says of one patient; all but the etas may be missing."""

    eta: list[float]
    ipred: list[float] | None = None
    pred: list[float] | None = None
    eta_cov_lower: list[float] | None = None


class PatientForm(msgspec.Struct):
    """One patient: [time, amount, compartment, duration], with the interval as fifth at steady state."""

    id: int | str
    obs: list[list[float]]
    reference: ReferenceForm
    doses: list[tuple[float, float, float, float]] = []
    ss_doses: list[tuple[float, float, float, float, float]] = []
    resets: list[float] = []
    covariates: dict[str, float] = {}
    covariate_rows: list[list[float]] = []


class CaseForm(msgspec.Struct):
    """A whole file; keys beside these say where it came from and are not read."""

    case: str
    model: ModelForm
    patients: list[PatientForm]
    description: str = ""


def find_cases(folder: Path, only: Sequence[str]) -> list[Path]:
    """The case files of a folder, in order of name.

    Args:
        folder: Where they lie.
        only: Beginnings of names, such as "c05"; none means all.

    Raises:
        CaseError: No such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise CaseError(f"{folder} is not a folder; name the one that holds the case files")
    files = sorted(path for path in folder.glob("*.json") if _has_model(path))
    if not files:
        raise CaseError(f'{folder} holds no case file (*.json with a "model" and "patients")')
    chosen = [path for path in files if not only or any(path.name.startswith(name) for name in only)]
    if not chosen:
        raise CaseError(
            f"--only {' '.join(only)} fits no case in {folder}; there are {', '.join(p.stem for p in files)}"
        )
    return chosen


def _has_model(path: Path) -> bool:
    """Whether this JSON file means to be a case: one that cannot be read does, so that it is not passed over."""
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, OSError):
        return True
    return isinstance(content, dict) and "model" in content and "patients" in content


def read_case(path: Path) -> CaseForm:
    """Read and check one file.

    Raises:
        CaseError: It breaks a rule of the format.
    """
    try:
        case = msgspec.json.decode(path.read_bytes(), type=CaseForm, strict=True)
    except msgspec.ValidationError as error:
        raise CaseError(f"{path}: {error}; see the case format for what stands there") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: is no JSON ({error}); write the file anew") from error
    except OSError as error:
        raise CaseError(f"{path}: cannot be opened ({error.strerror}); check name and rights") from error
    _check_model(path, case.model)
    for index, patient in enumerate(case.patients):
        _check_patient(f"{path}: patients[{index}] (id {patient.id})", case.model, patient)
    if not case.patients:
        raise CaseError(f"{path}: patients is empty; a case needs at least one patient")
    return case


def compartments(model: ModelForm) -> int:
    """How many compartments the model has."""
    if model.odes is not None:
        return len(model.odes)
    numbers = [number for flow in model.flows or [] for number in flow[:2]]
    return max([len(model.compartments), *numbers])


def _check_model(path: Path, model: ModelForm) -> None:
    if (model.flows is None) == (model.odes is None):
        raise CaseError(
            f"{path}: model has {'both' if model.flows else 'neither'} flows and odes; give one of them"
        )
    size = len(model.etas)
    if len(model.omega) != size or any(len(row) != size for row in model.omega):
        raise CaseError(
            f"{path}: model.omega is not {size} x {size}; give one row and column per name in etas"
        )
    for row in range(size):
        if not model.omega[row][row] >= 0.0:
            raise CaseError(
                f"{path}: model.omega[{row}][{row}] is {model.omega[row][row]}; a variance is not below 0 "
                "(0 fixes the eta)"
            )
        for column in range(row):
            if not math.isclose(model.omega[row][column], model.omega[column][row], abs_tol=1e-15):
                raise CaseError(
                    f"{path}: model.omega[{row}][{column}] is {model.omega[row][column]} but [{column}][{row}] is "
                    f"{model.omega[column][row]}; a covariance is symmetric"
                )
    count = compartments(model)
    for source, target, rate in model.flows or []:
        if not (1 <= source <= count and 0 <= target <= count and source != target):
            raise CaseError(
                f"{path}: model.flows has [{source}, {target}, {rate!r}]; a flow goes from one compartment (from 1) "
                "to another, or to 0, out of the body"
            )
    for table in ("lag", "bioavailability", "duration", "observed", "residual"):
        for key in getattr(model, table):
            if not key.isdigit() or not 1 <= int(key) <= count:
                raise CaseError(
                    f"{path}: model.{table} has the key {key!r}; keys are compartments, 1 to {count}"
                )
    for key in model.observed:
        form = model.residual.get(key)
        if form is None:
            raise CaseError(
                f"{path}: model.residual lacks compartment {key}, which model.observed has; give its error"
            )
        if form.kind not in KINDS:
            raise CaseError(
                f"{path}: model.residual.{key}.kind is {form.kind!r}; it is one of {', '.join(KINDS)}"
            )
        variance = form.var_log if form.kind == "lognormal" else form.var_prop + form.var_add
        if not (0.0 < variance < math.inf and form.var_prop >= 0.0 and form.var_add >= 0.0):
            needed = {"lognormal": "var_log", "proportional": "var_prop", "additive": "var_add"}
            raise CaseError(
                f"{path}: model.residual.{key} has no variance above 0; a {form.kind} error needs "
                f"{needed.get(form.kind, 'var_prop and var_add')}"
            )


def _check_patient(where: str, model: ModelForm, patient: PatientForm) -> None:
    count = compartments(model)
    for dose in [*patient.doses, *patient.ss_doses]:
        compartment, duration = dose[2], dose[3]
        if not (1 <= compartment <= count and compartment.is_integer()):
            raise CaseError(f"{where}: a dose enters compartment {compartment:g}; the model has 1 to {count}")
        if duration < 0.0 and duration != MODEL_DURATION:
            raise CaseError(
                f"{where}: a dose has the duration {duration:g}; it is 0 (bolus), hours above 0, or -2 (the model's)"
            )
        if duration == MODEL_DURATION and str(int(compartment)) not in model.duration:
            raise CaseError(
                f"{where}: a dose into compartment {compartment:g} takes the model's duration (-2); "
                f"model.duration lacks the key {compartment:g}"
            )
    for train in patient.ss_doses:
        if not train[4] > 0.0:
            raise CaseError(f"{where}: an ss_dose has the interval {train[4]}; it is above 0 h")
    trains = [train[0] for train in patient.ss_doses]
    if model.odes is not None and len(set(trains)) < len(trains):
        raise CaseError(
            f"{where}: two ss_doses at the same time do not add up in differential equations; write the model as flows"
        )
    for level in patient.obs:
        if len(level) not in (3, 4) or f"{level[1]:g}" not in model.observed:
            raise CaseError(
                f"{where}: obs has {level}; a level is [time, compartment, value] with a compartment of "
                "model.observed, and a 1 as fourth when below the limit"
            )
        if model.residual[str(int(level[1]))].kind == "lognormal" and not level[2] > 0.0:
            raise CaseError(f"{where}: obs has {level}; a level with log-normal error is above 0")
    for row in patient.covariate_rows:
        if len(row) != 1 + len(model.covariates):
            raise CaseError(
                f"{where}: covariate_rows has {row}; a row is the time and then {', '.join(model.covariates)}"
            )
    if not patient.covariate_rows:
        for name in model.covariates:
            if name not in patient.covariates:
                raise CaseError(f"{where}: covariates lacks {name}; give it there or in covariate_rows")
    lengths = {
        "eta": (len(patient.reference.eta), len(model.etas)),
        "ipred": (len(patient.reference.ipred or patient.obs), len(patient.obs)),
        "pred": (len(patient.reference.pred or patient.obs), len(patient.obs)),
    }
    for key, (found, wanted) in lengths.items():
        if found != wanted:
            raise CaseError(f"{where}: reference.{key} has {found} values; it needs {wanted}")
    lower = patient.reference.eta_cov_lower
    triangle = len(model.etas) * (len(model.etas) + 1) // 2
    if lower is not None and len(lower) != triangle:
        raise CaseError(
            f"{where}: reference.eta_cov_lower has {len(lower)} values; a lower triangle has {triangle}"
        )
