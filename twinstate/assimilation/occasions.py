"""A parameter that changes within a patient: from occasion to occasion, or as a random walk.

Further etas are laid over the course, one an occasion. An occasion ends with the last of some levels drawn within a
day; it begins where the one before it ended. So that the number of etas does not grow with the months, only the latest
few occasions have one of their own, and those of a random walk grow longer the further back they lie. A level that
lies a day or more before the end of its occasion is trusted less, by as much as the parameter may change until then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.observation import Labs
from twinstate.pk.course import Course

Floats = NDArray[np.float64]

DAY_H = 24.0
MOST_OCCASIONS = 6


class Occasions(NamedTuple):
    """The occasions of one lab record.

    Attributes:
        end_h: When each ends (its last level), hours since 1970, ascending, (occasions,).
        own: Whether the first occasion has an eta too: it does between occasions; a random walk starts there.
        covariance: Prior covariance of their etas, (etas, etas).
    """

    end_h: Floats
    own: bool
    covariance: Floats


def occasion_ends(labs: Labs) -> Floats:
    """When the occasions of a record end, hours since 1970, ascending: at most `MOST_OCCASIONS`."""
    ends: list[float] = []
    for time in labs.time_h[::-1].tolist():
        if len(ends) == MOST_OCCASIONS:
            break
        if not ends or time <= ends[-1] - DAY_H:
            ends.append(time)
    return np.array(ends[::-1])


def walk_ends(labs: Labs) -> Floats:
    """When the occasions of a random walk end, hours since 1970, ascending: at most `MOST_OCCASIONS`.

    With more days of levels than that, an occasion reaches back 1, 2, 4, 8 and 16 days from the last level: recent
    ones say what the parameter is now, all of them together how fast it walks.
    """
    ends: list[float] = []
    youngest_h = 0.0  # an occasion ends at least so long before the last level
    for time in labs.time_h[::-1].tolist():
        if not ends or time <= ends[0] - youngest_h:
            ends.append(time)
            youngest_h = max(DAY_H, 2.0 * youngest_h)
    return np.array(ends[:MOST_OCCASIONS][::-1])


def drifting(end_h: Floats, sd_per_sqrt_day: float) -> Occasions:
    """A random walk that starts at nought with the first occasion."""
    days = (end_h[1:] - end_h[0]) / DAY_H
    return Occasions(end_h, False, sd_per_sqrt_day**2 * np.minimum.outer(days, days))


def independent(end_h: Floats, sd: float) -> Occasions:
    """One draw an occasion."""
    return Occasions(end_h, True, sd * sd * np.eye(len(end_h)))


def lay_over(course: Course, occasions: Occasions, parameter: int, first: int, now: int) -> Course:
    """The course with an eta for every occasion, and one for what follows the last.

    Args:
        course: Without occasions.
        occasions: Of the lab record.
        parameter: Position of the structural parameter that varies.
        first: Position in eta of the first occasion's.
        now: Position in eta of what follows the last occasion; -1 for none.
    """
    starts = np.unique(np.concatenate([course.segment_start_h, occasions.end_h]))
    # The first row also rules before its start.
    row = np.maximum(np.searchsorted(course.segment_start_h, starts, side="right") - 1, 0)
    occasion = np.searchsorted(occasions.end_h, starts, side="right")
    if (
        occasion[0] > 0
    ):  # an occasion that ended before the first row begins needs a segment for the time before
        starts = np.concatenate([[occasions.end_h[0] - DAY_H], starts])
        row = np.concatenate([[0], row])
        occasion = np.concatenate([[0], occasion])
    index = occasion + first - (0 if occasions.own else 1)
    index[occasion == len(occasions.end_h)] = now
    if not occasions.own:
        index[occasion == 0] = -1
    occasion_index = course.occasion_index[row]
    occasion_index[:, parameter] = index
    return course._replace(
        segment_start_h=starts, log_typical=course.log_typical[row], occasion_index=occasion_index
    )


def trust_less(labs: Labs, end_h: Floats, variance_per_day: float, variance_at_once: float) -> Labs:
    """Levels well before the end of their occasion, with a spread that grows by what may change until then.

    Args:
        labs: The record.
        end_h: Ends of the occasions, hours since 1970, (occasions,).
        variance_per_day: Of the logarithm, by a random walk.
        variance_at_once: Of the logarithm, between occasions.
    """
    before_h = end_h[np.searchsorted(end_h, labs.time_h)] - labs.time_h
    extra = np.where(before_h >= DAY_H, variance_per_day * before_h / DAY_H + variance_at_once, 0.0)
    return labs._replace(proportional=np.sqrt(labs.proportional**2 + extra))
