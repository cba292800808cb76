"""One drug of one patient, as of one moment: the fit to its levels and the exposure simulated ahead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel import ChannelState, assimilate_windows
from twinstate.assimilation.posterior import Posterior, assimilate, carry_forward
from twinstate.assimilation.readings import DeviceWindow
from twinstate.assimilation.refine import Cloud
from twinstate.catalogue import Signal
from twinstate.drug import DrugModel
from twinstate.errors import MathsError
from twinstate.pk.course import EFFECT_SITE, INTO_CENTRAL, STRUCTURAL_PARAMETERS, ZERO_ORDER_ORAL, Course
from twinstate.pk.propagate import solve_points
from twinstate.therapy import Therapy, before_last_level, content_key, with_planned
from twinstate.types import NS_PER_HOUR, Times, Trajectories, hours

T = TypeVar("T")

STEP_H = 0.5
LOOK_BACK_H = 24.0
# Fewer effective points than these cannot carry a 90 % interval.
LEAST_EFFECTIVE_SIZE = 20.0
# Read a peak just after the dose: a level at the very time of a dose is the one before it.
JUST_AFTER_H = 1e-6
INPUT_DURATION = STRUCTURAL_PARAMETERS.index("input_duration")
LAG = STRUCTURAL_PARAMETERS.index("lag")
EFFECT_RATE = STRUCTURAL_PARAMETERS.index("effect_rate")
# After the end of a dose the effect site's peak is looked for so many of its time constants later.
SITE_TIME_CONSTANTS = (0.25, 0.5, 1.0, 2.0)


class Memo:
    """A bounded cache keyed by content: sharing it, or dropping it at any time, changes no result.

    That nothing can be computed from some content is remembered too: every further record asks again for each point of
    a patient whose levels nothing explains, and finding that out is the dearest computation there is.
    """

    def __init__(self, size: int = 256) -> None:
        self._kept: OrderedDict[bytes, object] = OrderedDict()
        self._size = size

    def recall(self, key: bytes, compute: Callable[[], T]) -> T:
        """The remembered result of `compute` for this key, computing it once.

        Raises:
            MathsError: `compute` raised it, now or then.
        """
        if key not in self._kept:
            try:
                self._kept[key] = compute()
            except MathsError as failure:
                self._kept[key] = failure
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        result = self._kept[key]
        if isinstance(result, MathsError):
            raise MathsError(*result.args)
        return result  # type: ignore[return-value]  # one key, one kind of result


class Heard(NamedTuple):
    """What was heard on the channel that a model explains.

    Attributes:
        windows: Those that count, one for each index and device.
        signal: The channel's signal; None when the model explains none.
    """

    windows: Sequence[DeviceWindow]
    signal: Signal | None


class Outlook(NamedTuple):
    """Exposure around `as_of`.

    Attributes:
        therapy: What was known.
        fit: What the levels say.
        cloud: The points that were simulated: the fit's, with what its parameters may be by now.
        course: The doses given and planned, with the occasions that the cloud's points speak of.
        times_h: Hours since 1970, ascending, shape (times,), from 24 h before to `horizon_h` after.
        grid: Positions in `times_h` of the half-hourly grid, shape (48 + 2 * horizon_h + 1,); entry 48 is now.
        concentration: mg/L, shape (points, times).
        auc: mg*h/L since the first dose, shape (points, times).
        channel: State of the channel that the model explains; None when it explains none.
        second: The model's second output, in its unit, shape (points, times).
    """

    therapy: Therapy
    fit: Posterior
    cloud: Cloud
    course: Course
    times_h: Times
    grid: NDArray[np.int64]
    concentration: Trajectories
    auc: Trajectories
    channel: ChannelState | None
    second: Trajectories

    @property
    def driving(self) -> Trajectories:
        """What the channel's effect follows, level or effect site, shape (points, times).

        Raises:
            MathsError: The model explains no signal.
        """
        channel = self.therapy.model.channel
        if channel is None:
            raise MathsError(f"{self.therapy.model.model} explains no signal")
        return self.second if channel.follows == "second" else self.concentration

    @property
    def now(self) -> int:
        """Position of `as_of` in `times_h`."""
        return int(self.grid[round(LOOK_BACK_H / STEP_H)])


def levels_disagree(outlook: Outlook) -> bool:
    """Whether the levels contradict the model, or one another, so much that hardly any point explains them.

    The interval of such a posterior is far too narrow: a level may be wrong (drawn from the line, at another time, of
    another patient), or the model may not fit this patient.
    """
    return len(outlook.therapy.lab_entries) > 0 and outlook.cloud.effective_size < LEAST_EFFECTIVE_SIZE


def fit_levels(therapy: Therapy, levels: int, memo: Memo) -> Posterior:
    """Fit the first `levels` levels of a therapy, always from the prior.

    Raises:
        MathsError: The fit is not finite.
    """
    model = therapy.model
    course, labs = before_last_level(therapy, levels)

    def compute() -> Posterior:
        posterior = assimilate(course, labs, model.omega, model.variation)
        cloud = posterior.cloud
        if not (
            np.isfinite(cloud.mean).all() and np.isfinite(cloud.covariance).all() and cloud.effective_size > 0
        ):
            raise MathsError(f"the fit of {levels} levels to {model.model} is not finite")
        return posterior

    if levels == 0:  # the prior itself: no course, no level enters
        return memo.recall(f"prior {model.digest}".encode(), compute)
    return memo.recall(content_key(model, course, *labs), compute)


def look_ahead(therapy: Therapy, memo: Memo, horizon_h: float, heard: Heard) -> Outlook:
    """Simulate what was given and what is planned, 24 h back and `horizon_h` ahead.

    Args:
        therapy: What is known as of now.
        memo: Cache by content.
        horizon_h: h.
        heard: Windows of the channel the model explains; not read when it explains none.

    Raises:
        MathsError: A trajectory is not finite.
    """
    fit = fit_levels(therapy, len(therapy.labs.time_h), memo)
    now = hours(therapy.as_of)
    planned = with_planned(therapy, therapy.as_of + int(horizon_h * NS_PER_HOUR))
    course, cloud = carry_forward(fit, planned, therapy.model.variation, now)
    steps = np.arange(-round(LOOK_BACK_H / STEP_H), round(horizon_h / STEP_H) + 1)
    grid_h = now + STEP_H * steps
    peaks = peaks_of_doses(course)
    peaks = peaks[(peaks > now) & (peaks < grid_h[-1])]
    asked = _asked(therapy.model, course, now, float(grid_h[-1]))
    times_h = np.unique(np.concatenate([grid_h, peaks, asked]))
    concentration, auc, second = solve_points(course, cloud.points, times_h)
    if not (np.isfinite(concentration).all() and np.isfinite(auc).all() and np.isfinite(second).all()):
        raise MathsError(f"the simulated exposure of {therapy.model.model} is not finite")
    channel = _follow_channel(therapy, fit, heard)
    grid = np.searchsorted(times_h, grid_h)
    return Outlook(therapy, fit, cloud, course, times_h, grid, concentration, auc, channel, second)


def dose_starts(course: Course, after_h: float, until_h: float) -> Times:
    """When doses are given from `after_h` to `until_h` (hours since 1970), both included."""
    starts = course.dose_time_h
    return np.asarray(starts[(starts >= after_h) & (starts <= until_h)], dtype=np.float64)


def followed(course: Course, delay_h: float, now_h: float, until_h: float) -> Times:
    """From when on each dose has been followed for `delay_h`, in the time from now on; none once the next is given.

    Args:
        course: Doses given and planned.
        delay_h: After the start of a dose, h.
        now_h: Hours since 1970.
        until_h: Hours since 1970.
    """
    starts = course.dose_time_h
    begins = np.maximum(starts + delay_h, now_h)
    ends = np.minimum(np.append(starts[1:], np.inf), until_h)
    return np.asarray(begins[begins <= ends], dtype=np.float64)


def _asked(model: DrugModel, course: Course, now_h: float, until_h: float) -> Times:
    """Instants at which the model's thresholds want a level."""
    asked: list[Times] = []
    for threshold in model.thresholds:
        if threshold.metric == "trough":
            asked.append(dose_starts(course, now_h, until_h))
        elif threshold.metric == "level_after":
            asked.append(followed(course, threshold.after_h, now_h, until_h))
    return np.concatenate(asked) if asked else np.empty(0)


def _follow_channel(therapy: Therapy, fit: Posterior, heard: Heard) -> ChannelState | None:
    """The channel after the windows, under the uncertainty that the levels leave."""
    channel = therapy.model.channel
    if channel is None or heard.signal is None:
        return None
    now = hours(therapy.as_of)
    course, cloud = carry_forward(fit, therapy.given, therapy.model.variation, now)
    (state,) = assimilate_windows(
        heard.windows,
        heard.signal,
        channel,
        course,
        cloud.mean,
        cloud.covariance,
        np.array([now], dtype=np.float64),
    )
    return state


def peaks_of_doses(course: Course) -> Times:
    """Where the concentration of a parenteral or zero-order dose peaks, just after its end; then its effect site's.

    An effect site follows within minutes what half-hourly instants would miss.
    """
    typical = np.exp(course.log_typical[-1])
    length = np.where(course.dose_route == INTO_CENTRAL, course.dose_duration_h, 0.0)
    length = np.where(course.dose_route == ZERO_ORDER_ORAL, typical[LAG] + typical[INPUT_DURATION], length)
    ends = np.asarray(course.dose_time_h + length + JUST_AFTER_H, dtype=np.float64)
    if course.structure.second != EFFECT_SITE:
        return ends
    delays = np.array(SITE_TIME_CONSTANTS) / typical[EFFECT_RATE]
    return np.concatenate([ends, *(ends + delay for delay in delays)])
