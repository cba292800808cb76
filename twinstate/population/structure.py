"""The compartments of a drug's model and the routes of its doses, as the solver takes them."""

from __future__ import annotations

from collections.abc import Mapping

from twinstate.drug import DrugModel
from twinstate.pk import course
from twinstate.pk.course import Structure

ELIMINATIONS: Mapping[str, int] = {
    "linear": course.LINEAR,
    "saturable": course.SATURABLE,
    "mixed": course.MIXED,
}
SECONDS: Mapping[str, int] = {
    "": course.NOTHING,
    "metabolite": course.METABOLITE,
    "effect_site": course.EFFECT_SITE,
    "coagulation_product": course.COAGULATION_PRODUCT,
    "coagulation_mean": course.COAGULATION_MEAN,
    "myelosuppression": course.MYELOSUPPRESSION,
}
ORAL_ROUTES: Mapping[str, int] = {
    "first_order": course.INTO_DEPOT,
    "transit": course.INTO_DEPOT,
    "zero_order": course.ZERO_ORDER_ORAL,
    # Without an input duration a constant rate is a bolus.
    "at_once": course.ZERO_ORDER_ORAL,
    "parallel": course.PARALLEL_ORAL,
}


def structure_of(model: DrugModel) -> Structure:
    """Which compartments a model has and what joins them."""
    first, second = model.chains
    return Structure(
        compartments=model.compartments,
        elimination=ELIMINATIONS[model.elimination],
        transits=model.transits,
        second=SECONDS[model.second],
        first_chain=first,
        second_chain=second,
    )


def route_of(model: DrugModel, route: str) -> int:
    """The solver's code of a dose's route.

    Args:
        model: Of the drug given.
        route: `iv` or `oral`, one the model has.
    """
    return course.INTO_CENTRAL if route == "iv" else ORAL_ROUTES[model.oral_kind]
