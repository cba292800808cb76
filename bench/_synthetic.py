"""The models of `_make_cases.py`: each feature of the case format, as formulas and a second time in Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._make_cases import Case

Floats = NDArray[np.float64]


def _model(**parts: Any) -> dict[str, Any]:
    parameters = [{"name": name, "expr": text} for name, text in parts.pop("parameters").items()]
    etas = parts["etas"]
    variances = parts.pop("variances", None)
    if variances is not None:
        parts["omega"] = np.diag(variances).tolist()
    return {"parameters": parameters, "compare": [p["name"] for p in parameters], **parts, "etas": etas}


def _levels(times: list[float], *compartments: int) -> list[list[float]]:
    return [[time, compartment] for time in times for compartment in compartments]


# First and zero order absorption side by side, the duration and the lag estimated, bioavailability shared out.
PARALLEL = Case(
    "parallel",
    _model(
        compartments=["depot", "central"],
        typical={"TVCL": 4.0, "TVV": 50.0, "TVKA": 0.8, "TVD": 3.0, "TVLAG": 0.6, "FR": 0.6},
        etas=["E_CL", "E_V", "E_KA", "E_D", "E_LAG"],
        variances=[0.09, 0.06, 0.15, 0.1, 0.05],
        parameters={
            "CL": "TVCL*exp(E_CL)", "V": "TVV*exp(E_V)", "KA": "TVKA*exp(E_KA)",
            "D2": "TVD*exp(E_D)", "LAG": "TVLAG*exp(E_LAG)",
        },
        flows=[[1, 2, "KA"], [2, 0, "CL/V"]],
        lag={"1": "LAG"}, bioavailability={"1": "FR", "2": "1-FR"}, duration={"2": "D2"},
        observed={"2": "A2/V"},
        residual={"2": {"kind": "proportional", "var_prop": 0.02, "var_add": 0.0}},
    ),
    lambda e, _: {
        "cl": 4.0 * math.exp(e["E_CL"]), "v": 50.0 * math.exp(e["E_V"]), "ka": 0.8 * math.exp(e["E_KA"]),
        "duration2": 3.0 * math.exp(e["E_D"]), "lag1": 0.6 * math.exp(e["E_LAG"]), "f1": 0.6, "f2": 0.4,
    },
    lambda _, a, p: [-p["ka"] * a[0], p["ka"] * a[0] - p["cl"] / p["v"] * a[1]],
    {2: lambda a, p: a[1] / p["v"]},
    lambda random: {
        "doses": [dose for day in (0, 24) for dose in ([day, 1000, 1, 0], [day, 1000, 2, -2])],
        "obs": _levels([1.3, 2.1 + random.uniform(0, 0.3), 5.2, 9.0, 25.1, 33.0], 2),
    },
    kinked=True,
)  # fmt: skip

# Additive error, very large variability, and an eta without variance.
ADDITIVE = Case(
    "additive",
    _model(
        compartments=["depot", "central", "peripheral"],
        typical={"TVCL": 4.0, "V": 60.0, "Q": 3.0, "VP": 40.0, "TVKA": 1.1},
        etas=["E_CL", "E_FIXED", "E_KA"],
        variances=[1.6, 0.0, 0.9],
        parameters={"CL": "TVCL*exp(E_CL+E_FIXED)", "KA": "TVKA*exp(E_KA)"},
        flows=[[1, 2, "KA"], [2, 0, "CL/V"], [2, 3, "Q/V"], [3, 2, "Q/VP"]],
        observed={"2": "A2/V"},
        residual={"2": {"kind": "additive", "var_prop": 0.0, "var_add": 1.5}},
    ),
    lambda e, _: {"cl": 4.0 * math.exp(e["E_CL"]), "ka": 1.1 * math.exp(e["E_KA"])},
    lambda _, a, p: [
        -p["ka"] * a[0],
        p["ka"] * a[0] - (p["cl"] + 3.0) / 60.0 * a[1] + 3.0 / 40.0 * a[2],
        3.0 / 60.0 * a[1] - 3.0 / 40.0 * a[2],
    ],
    {2: lambda a, _: a[1] / 60.0},
    lambda random: {
        "doses": [[0, 1500, 1, 0], [12, 1500, 1, 0]],
        "obs": _levels([0.5, 2.0, 6.0 + random.uniform(0, 1), 15.0, 30.0], 2),
    },
)

# Differential equations: Michaelis-Menten beside linear loss, falling with time; logit bioavailability; log-normal
# error.
NON_LINEAR = Case(
    "non-linear",
    _model(
        compartments=["depot", "central"],
        typical={"TVVM": 40.0, "KM": 2.5, "TVCL": 2.0, "TVV": 80.0, "KA": 0.9, "LF": 0.7},
        etas=["E_VM", "E_CL", "E_V", "E_F"],
        variances=[0.12, 0.1, 0.06, 0.4],
        parameters={
            "VM": "TVVM*exp(E_VM)", "CL": "TVCL*exp(E_CL)", "V": "TVV*exp(E_V)",
            "FI": "exp(LF+E_F)/(1+exp(LF+E_F))",
        },
        odes=["-KA*A1", "KA*A1-VM*(1-(0.3*t/(t+20) if t > 1 else 0.3/21*t))*A2/V/(KM+A2/V)-CL*A2/V"],
        bioavailability={"1": "FI"},
        observed={"2": "A2/V"},
        residual={"2": {"kind": "lognormal", "var_log": 0.04}},
    ),
    lambda e, _: {
        "vm": 40.0 * math.exp(e["E_VM"]), "cl": 2.0 * math.exp(e["E_CL"]), "v": 80.0 * math.exp(e["E_V"]),
        "f1": 1.0 / (1.0 + math.exp(-0.7 - e["E_F"])),
    },
    lambda t, a, p: [
        -0.9 * a[0],
        0.9 * a[0]
        - p["vm"] * (1.0 - (0.3 * t / (t + 20.0) if t > 1.0 else 0.3 / 21.0 * t)) * a[1] / (2.5 * p["v"] + a[1])
        - p["cl"] * a[1] / p["v"],
    ],
    {2: lambda a, p: a[1] / p["v"]},
    lambda random: {
        "doses": [[0, 400, 2, 2.0], [12, 400, 1, 0], [24, 400, 1, 0]],
        "obs": _levels([1.9, 11.5, 14.0, 23.0 + random.uniform(0, 1), 27.0], 2),
    },
    curved=True,
)  # fmt: skip

# Two occasions at steady state, each with its own eta; correlated etas; a metabolite; a lag and two routes at once.
STEADY = Case(
    "steady",
    _model(
        compartments=["depot", "parent", "metabolite"],
        typical={"TVCL": 20.0, "TVV": 60.0, "KA": 0.9, "CLM": 25.0, "VM": 50.0, "FM": 0.4, "LAG": 0.5},
        etas=["E_CL", "E_V", "E_CLM", "IOV1", "IOV2"],
        omega=[
            [0.10, 0.05, 0.02, 0, 0], [0.05, 0.09, 0, 0, 0], [0.02, 0, 0.08, 0, 0],
            [0, 0, 0, 0.04, 0], [0, 0, 0, 0, 0.04],
        ],
        parameters={
            "CL": "TVCL*exp(E_CL+IOV1*(OCC==1)+IOV2*(OCC==2))", "V": "TVV*exp(E_V)", "CLMI": "CLM*exp(E_CLM)",
        },
        flows=[[1, 2, "KA"], [2, 3, "FM*CL/V"], [2, 0, "(1-FM)*CL/V"], [3, 0, "CLMI/VM"]],
        lag={"1": "LAG"}, bioavailability={"1": "0.8"},
        observed={"2": "A2/V", "3": "A3/VM"},
        residual={
            "2": {"kind": "proportional", "var_prop": 0.03, "var_add": 0.0},
            "3": {"kind": "combined", "var_prop": 0.02, "var_add": 0.0004},
        },
        covariates=["OCC"],
        compare=["CL1", "CL2", "V", "CLMI"],
        compare_defs={"CL1": "TVCL*exp(E_CL+IOV1)", "CL2": "TVCL*exp(E_CL+IOV2)"},
    ),
    lambda e, c: {
        "cl": 20.0 * math.exp(e["E_CL"] + (e["IOV1"] if c["OCC"] == 1 else e["IOV2"])),
        "v": 60.0 * math.exp(e["E_V"]), "clm": 25.0 * math.exp(e["E_CLM"]), "lag1": 0.5, "f1": 0.8,
    },
    lambda _, a, p: [
        -0.9 * a[0],
        0.9 * a[0] - p["cl"] / p["v"] * a[1],
        0.4 * p["cl"] / p["v"] * a[1] - p["clm"] / 50.0 * a[2],
    ],
    {2: lambda a, p: a[1] / p["v"], 3: lambda a, _: a[2] / 50.0},
    lambda random: {
        "ss_doses": [[0, 500, 1, 0, 24], [0, 100, 2, 30.0, 24], [240, 500, 1, 0, 24]],
        "doses": [[24, 500, 1, 0], [264, 250, 1, 0]],
        "covariate_rows": [[0, 1], [24, 1], [31, 1], [240, 2], [264, 2], [270, 2]],
        "obs": _levels([0, 1.5, 4.0 + random.uniform(0, 1), 31.0, 240, 241.5, 247.0, 270.0], 2, 3),
    },
)  # fmt: skip

# Bioavailability that moves with dose and time by covariates of each row (the dose takes the next row's), two depots.
MOVING = Case(
    "moving",
    _model(
        compartments=["fast", "slow", "central"],
        typical={"TVCL": 1.0, "TVV": 12.0, "KA": 1.2, "KS": 0.15},
        etas=["E_CL", "E_V", "E_F"],
        variances=[0.1, 0.05, 0.15],
        parameters={
            "CL": "TVCL*exp(E_CL)*(WT/70)**0.75", "V": "TVV*exp(E_V)*(WT/70)",
            "FT": "exp(E_F)*(1-0.2*(DOSE>=800))*(1+0.1*log(1+DAY))", "ALAG": "0.3+0.1*(DAY>0)",
        },
        flows=[[1, 3, "KA"], [2, 3, "KS"], [3, 0, "CL/V"]],
        lag={"1": "ALAG", "2": "ALAG*2"}, bioavailability={"1": "0.5*FT", "2": "0.5*FT"},
        observed={"3": "A3/V"},
        residual={"3": {"kind": "combined", "var_prop": 0.02, "var_add": 1.0}},
        covariates=["WT", "DOSE", "DAY"],
        compare=["CL", "V", "FT"],
    ),
    lambda e, c: {
        "cl": math.exp(e["E_CL"]) * (c["WT"] / 70) ** 0.75, "v": 12.0 * math.exp(e["E_V"]) * c["WT"] / 70,
        **dict.fromkeys(
            ("f1", "f2"),
            0.5 * math.exp(e["E_F"]) * (0.8 if c["DOSE"] >= 800 else 1.0) * (1 + 0.1 * math.log(1 + c["DAY"])),
        ),
        "lag1": 0.4 if c["DAY"] > 0 else 0.3, "lag2": 0.8 if c["DAY"] > 0 else 0.6,
    },
    lambda _, a, p: [-1.2 * a[0], -0.15 * a[1], 1.2 * a[0] + 0.15 * a[1] - p["cl"] / p["v"] * a[2]],
    {3: lambda a, p: a[2] / p["v"]},
    lambda random: {
        "doses": [[at, amount, into, 0] for at, amount in ((0, 400), (24, 800), (48, 800)) for into in (1, 2)],
        "covariate_rows": [
            [0, 70, 400, 0], [3, 70, 400, 0], [24, 64, 800, 1], [24.2, 61, 800, 1], [30, 66, 800, 1], [48, 60, 800, 2],
            [50, 61, 800, 2],
        ],
        "obs": _levels([3.0, 10.0, 24.0, 30.0 + random.uniform(0, 1), 50.0, 60.0], 3),
    },
)  # fmt: skip

# Levels below the limit of quantification.
CENSORED = Case(
    "censored",
    _model(
        compartments=["central"],
        typical={"TVCL": 6.0, "TVV": 30.0},
        etas=["E_CL", "E_V"],
        variances=[0.15, 0.08],
        parameters={"CL": "TVCL*exp(E_CL)", "V": "TVV*exp(E_V)"},
        flows=[[1, 0, "CL/V"]],
        observed={"1": "A1/V"},
        residual={"1": {"kind": "combined", "var_prop": 0.03, "var_add": 0.01}},
        lloq=1.0,
    ),
    lambda e, _: {"cl": 6.0 * math.exp(e["E_CL"]), "v": 30.0 * math.exp(e["E_V"])},
    lambda _, a, p: [-p["cl"] / p["v"] * a[0]],
    {1: lambda a, p: a[0] / p["v"]},
    lambda random: {
        "doses": [[0, 300, 1, 0.5]],
        "obs": _levels([1.0, 8.0, 12.0, 16.0 + random.uniform(0, 2), 24.0], 1),
    },
)

# Two cycles with the body emptied between, weight changing at every row, infusions longer than their interval.
CYCLES = Case(
    "cycles",
    _model(
        compartments=["central", "peripheral"],
        typical={"TVCL": 7.0, "TVV": 25.0, "Q": 2.0, "VP": 12.0},
        etas=["E_CL", "E_V", "IOV1", "IOV2"],
        omega=[[0.2, 0.03, 0, 0], [0.03, 0.1, 0, 0], [0, 0, 0.03, 0], [0, 0, 0, 0.03]],
        parameters={
            "CL": "TVCL*exp(E_CL+IOV1*(CYCLE==1)+IOV2*(CYCLE!=1))*(SCR/67)**(-0.43)", "V": "TVV*exp(E_V)",
        },
        flows=[[1, 0, "CL/V"], [1, 2, "Q/V"], [2, 1, "Q/VP"]],
        observed={"1": "2.2*A1/V"},
        residual={"1": {"kind": "combined", "var_prop": 0.05, "var_add": 4.0}},
        covariates=["SCR", "CYCLE"],
    ),
    lambda e, c: {
        "cl": 7.0 * math.exp(e["E_CL"] + (e["IOV1"] if c["CYCLE"] == 1 else e["IOV2"])) * (c["SCR"] / 67) ** -0.43,
        "v": 25.0 * math.exp(e["E_V"]),
    },
    lambda _, a, p: [
        -(p["cl"] + 2.0) / p["v"] * a[0] + 2.0 / 12.0 * a[1],
        2.0 / p["v"] * a[0] - 2.0 / 12.0 * a[1],
    ],
    {1: lambda a, p: 2.2 * a[0] / p["v"]},
    lambda random: {
        "doses": [[0, 2000, 1, 10.0], [6, 2000, 1, 10.0], [30, 500, 1, 20.0], [40, 2000, 1, 10.0]],
        "resets": [40],
        "covariate_rows": [[0, 60, 1], [9, 75, 1], [24, 90, 1], [40, 70, 2], [52, 66, 2], [64, 80, 2]],
        "obs": _levels([9.0, 24.0, 39.0, 52.0, 57.0 + random.uniform(0, 2), 64.0], 1),
    },
)  # fmt: skip

CASES = (PARALLEL, ADDITIVE, NON_LINEAR, STEADY, MOVING, CENSORED, CYCLES)
