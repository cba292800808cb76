"""Covariates computed from others: kidney function and body size."""

from __future__ import annotations

import math

UMOL_L_PER_MG_DL = 88.4  # creatinine


def cockcroft_gault(age_a: float, weight_kg: float, female: bool, creatinine_mg_dl: float) -> float:
    """Creatinine clearance, mL/min.

    References:
        Cockcroft, Gault (1976), Nephron 16:31-41.
    """
    clearance = (140.0 - age_a) * weight_kg / (72.0 * creatinine_mg_dl)
    return 0.85 * clearance if female else clearance


def dettli(age_a: float, weight_kg: float, female: bool, creatinine_mg_dl: float) -> float:
    """Creatinine clearance, mL/min: (150 - age) weight / creatinine[umol/L], 10 % more in men, 10 % less in women.

    References:
        Dettli (1983), as used by Fattinger et al. (1991), p. 281.
    """
    clearance = (150.0 - age_a) * weight_kg / (creatinine_mg_dl * UMOL_L_PER_MG_DL)
    return clearance * (0.9 if female else 1.1)


def fat_free_mass(weight_kg: float, height_cm: float, female: bool) -> float:
    """Fat-free mass, kg.

    References:
        Janmahasatian et al. (2005), Clin Pharmacokinet 44:1051-1065.
    """
    bmi = weight_kg / (height_cm / 100.0) ** 2
    return 9270.0 * weight_kg / ((8780.0 + 244.0 * bmi) if female else (6680.0 + 216.0 * bmi))


def body_surface(weight_kg: float, height_cm: float) -> float:
    """Body surface, m^2.

    References:
        Mosteller (1987), N Engl J Med 317:1098.
    """
    return math.sqrt(weight_kg * height_cm / 3600.0)


def lean_body_mass(weight_kg: float, height_cm: float, female: bool) -> float:
    """Lean body mass, kg. It falls again in the very heavy, beyond a body mass index of about 40 kg/m^2.

    References:
        James (1976), Research on Obesity, HMSO; as used by Minto et al. (1997), Anesthesiology 86:10-23.
    """
    ratio = weight_kg / height_cm
    if female:
        return 1.07 * weight_kg - 148.0 * ratio * ratio
    return 1.1 * weight_kg - 128.0 * ratio * ratio
