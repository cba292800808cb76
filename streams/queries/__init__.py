"""What operators may ask of the stored twins: reads, never writes; knows neither HTTP nor Redis."""

from streams.queries.ask import Queries, TwinReader
from streams.queries.forecast import LONGEST_HORIZON_H, LONGEST_LOOK_BACK_H, Span
from streams.queries.listing import LARGEST_PAGE, Page
from streams.queries.views import AsOf, QuestionError, instant

__all__ = [
    "LARGEST_PAGE",
    "LONGEST_HORIZON_H",
    "LONGEST_LOOK_BACK_H",
    "AsOf",
    "Page",
    "Queries",
    "QuestionError",
    "Span",
    "TwinReader",
    "instant",
]
