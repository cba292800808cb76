"""What a lab record says of a patient: every hypothesis about it fitted, weighed, and joined in one cloud.

Hypotheses are of two kinds. *One level is wrong altogether*: considered when the record itself makes a level
surprising, all levels but it being the judges. *The parameter drifts this fast*: one fit for every value held possible.
The weights are those of the evidence, so that a record that needs no such explanation is hardly touched by it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.linear import root, solve_lower, solve_lower_transposed, times_transposed
from twinstate.assimilation.observation import Labs
from twinstate.assimilation.occasions import (
    DAY_H,
    Occasions,
    drifting,
    independent,
    lay_over,
    occasion_ends,
    trust_less,
    walk_ends,
)
from twinstate.assimilation.points import normal_points
from twinstate.assimilation.record import NOT_FINITE, STATUS, Fit, fit_finite, fit_record
from twinstate.assimilation.refine import (
    WRONG_LOG_SD,
    WRONG_SHARE,
    Cloud,
    Proposal,
    moments,
    refine,
)
from twinstate.drug import Variation
from twinstate.errors import MathsError
from twinstate.pk.course import Course
from twinstate.pk.propagate import solve_points
from twinstate.pk.steady_state import may_have_none

Floats = NDArray[np.float64]

# A level this many standard deviations from what all others and the prior expect may be wrong altogether.
SURPRISING_SD = 2.0
MOST_SUSPECTS = 4
# One or two levels cannot tell a wrong level from an unusual patient. There a doubt is told, but the estimate believes
# the levels until the doubt reaches this.
TELLING_LEVELS = 3
BEYOND_BELIEF = 0.9
# A hypothesis with less weight than this is dropped; one that is kept gets at least this share of the points.
NEGLIGIBLE = 1e-3
# A steady state that less of the parameters' weight has is none: the declaration or the model is wrong.
LEAST_POSSIBLE = 0.01
LEAST_SHARE = 0.05


class Posterior(NamedTuple):
    """Posterior of one drug's etas, the occasions' after the patient's own.

    Attributes:
        cloud: Weighted points.
        status: How the fit of the most credible hypothesis ended: "prior", or a word of `record.STATUS`.
        etas: How many of the cloud's columns are the patient's own.
        occasions: Those the further columns stand for; None where nothing varies within the patient.
        drift_sd: The drift that each point belongs to, per square root of a day, (points,).
        row: Which row of the table each point was made of, (points,).
    """

    cloud: Cloud
    status: str
    etas: int
    occasions: Occasions | None
    drift_sd: Floats
    row: NDArray[np.int64]


def assimilate(course: Course, labs: Labs, omega: Floats, variation: Variation | None = None) -> Posterior:
    """The posterior of a whole lab record, always from the prior.

    Args:
        course: The patient's course, without occasions.
        labs: Levels in order of (time drawn, id), (levels,); none leaves the prior.
        omega: Between-subject covariance of eta, (eta, eta).
        variation: What changes within the patient; None for nothing.

    Raises:
        MathsError: The arithmetic met a number that is not finite, or nothing can explain the levels.
    """
    etas = len(omega)
    if variation is None or len(labs.time_h) == 0:
        cloud, status = _fit(course, labs, omega)
        return _plain(cloud, status, etas, None)
    if variation.occasion_sd > 0.0:
        end_h = occasion_ends(labs)
        occasions = independent(end_h, variation.occasion_sd)
        trusted = trust_less(labs, end_h, 0.0, variation.occasion_sd**2)
        laid = lay_over(course, occasions, variation.parameter, etas, -1)
        cloud, status = _fit(laid, trusted, _joined(omega, occasions.covariance))
        return _plain(cloud, status, etas, occasions)
    end_h = walk_ends(labs)
    found: list[tuple[float, Cloud, str]] = []
    for sd in variation.drift_sd:
        occasions = drifting(end_h, sd)
        trusted = trust_less(labs, end_h, sd * sd, 0.0)
        if sd == 0.0 or len(end_h) == 1:
            cloud, status = _fit(course, trusted, omega)
        else:
            laid = lay_over(course, occasions, variation.parameter, etas, -1)
            cloud, status = _fit(laid, trusted, _joined(omega, occasions.covariance))
        found.append((sd, cloud, status))
    return _join(found, etas, drifting(end_h, max(variation.drift_sd)))


def carry_forward(
    posterior: Posterior, course: Course, variation: Variation | None, at_h: float
) -> tuple[Course, Cloud]:
    """The course with its occasions, and the cloud with what the parameter may be by `at_h`.

    A random walk goes on from the last level; between occasions a new one begins a day after it. Parameters under
    which a steady state that was declared cannot be have no weight.

    Args:
        posterior: What the record says.
        course: Doses given, with or without those planned; without occasions.
        variation: As in `assimilate`.
        at_h: Hours since 1970, not before the last level.

    Raises:
        MathsError: Hardly any parameters have the steady state that was declared.
    """
    if variation is None:
        return course, _possible(course, posterior.cloud)
    laid, cloud = _with_occasion(posterior, course, variation, at_h)
    return laid, _possible(laid, cloud)


def _with_occasion(
    posterior: Posterior, course: Course, variation: Variation, at_h: float
) -> tuple[Course, Cloud]:
    """The course and the cloud with what the parameter that varies may be by `at_h`."""
    cloud = posterior.cloud
    count, columns = cloud.points.shape
    fresh = normal_points()[posterior.row, 1 + columns]
    if posterior.occasions is None:
        if variation.occasion_sd == 0.0:  # no level yet: the prior holds for any time
            return course, cloud
        occasions = Occasions(np.array([-np.inf]), True, np.zeros((0, 0)))
        now = variation.occasion_sd * fresh
        laid = course._replace(occasion_index=course.occasion_index.copy())
        laid.occasion_index[:, variation.parameter] = columns
    else:
        occasions = posterior.occasions
        since_h = max(at_h - float(occasions.end_h[-1]), 0.0)
        last = cloud.points[:, -1] if columns > posterior.etas else np.zeros(count)
        if occasions.own:
            now = variation.occasion_sd * fresh if since_h >= DAY_H else last
        else:
            now = last + posterior.drift_sd * math.sqrt(since_h / DAY_H) * fresh
        laid = lay_over(course, occasions, variation.parameter, posterior.etas, columns)
    points = np.column_stack([cloud.points, now])
    mean, covariance, _ = moments(points, cloud.weights)
    return laid, cloud._replace(points=points, mean=mean, covariance=_positive(covariance))


def _possible(course: Course, cloud: Cloud) -> Cloud:
    """The cloud without the points that have no such steady state as was declared: the heaviest takes their place."""
    if not may_have_none(course):
        return cloud
    declared = course.dose_time_h[course.dose_interval_h > 0.0]
    concentration, _, second = solve_points(course, cloud.points, declared)
    possible = (np.isfinite(concentration) & np.isfinite(second)).all(axis=1)
    if possible.all():
        return cloud
    left = np.where(possible, cloud.weights, 0.0)
    share = math.fsum(left)
    if share < LEAST_POSSIBLE:
        raise MathsError(
            f"only {100 * share:.1g} % of the parameters held possible have a steady state of the doses declared so: "
            "they outrun what the body can eliminate or replace. Correct amount or interval, or send the doses one "
            "by one."
        )
    points = cloud.points.copy()
    points[~possible] = points[int(np.argmax(left))]
    mean, covariance, effective = moments(points, left / share)
    return cloud._replace(
        points=points,
        weights=left / share,
        effective_size=effective,
        mean=mean,
        covariance=_positive(covariance),
    )


def _fit(course: Course, labs: Labs, prior: Floats) -> tuple[Cloud, str]:
    """One hypothesis about what varies: the record's Gaussian, those of its suspects, and the cloud under all."""
    if len(labs.time_h) == 0:
        nothing = Proposal(np.zeros((0, len(prior))), np.zeros((0, *prior.shape)), np.zeros(0))
        return refine(course, labs, prior, nothing), "prior"
    if may_have_none(course):
        fit = fit_record(course, labs, prior.copy())
        if fit.status == NOT_FINITE:
            # The typical patient himself has no such state: the points are looked for where the prior has them.
            anywhere = Proposal(np.zeros((1, len(prior))), prior[np.newaxis].copy(), np.ones(1))
            return refine(course, labs, prior, anywhere), "prior"
    else:
        fit = fit_finite(course, labs, prior)
    suspects = _suspects(fit, labs, prior)
    fits, log_weights = [fit], [fit.log_evidence]
    for level in suspects:
        doubted = labs._replace(proportional=labs.proportional.copy(), logarithmic=labs.logarithmic.copy())
        doubted.proportional[level] = WRONG_LOG_SD
        doubted.logarithmic[level] = 1
        other = fit_record(course, doubted, prior.copy())
        if math.isfinite(other.log_evidence) and np.isfinite(other.covariance).all():
            fits.append(other)
            log_weights.append(other.log_evidence + math.log(WRONG_SHARE / (1.0 - WRONG_SHARE)))
    weights = _normalised(np.array(log_weights))
    kept = weights > NEGLIGIBLE
    kept[0] = True
    shares = np.maximum(weights[kept], LEAST_SHARE)
    chosen = [one for one, keep in zip(fits, kept, strict=True) if keep]
    proposal = Proposal(
        np.array([one.mean for one in chosen]),
        np.array([one.covariance for one in chosen]),
        shares / math.fsum(shares),
    )
    cloud = refine(course, labs, prior, proposal, doubting=len(suspects) > 0)
    if suspects and len(labs.time_h) < TELLING_LEVELS and math.fsum(cloud.doubt) < BEYOND_BELIEF:
        cloud = refine(course, labs, prior, proposal)._replace(doubt=cloud.doubt)
    return cloud, STATUS[fit.status]


def _suspects(fit: Fit, labs: Labs, prior: Floats) -> list[int]:
    """Levels that all others and the prior did not expect, the most surprising first.

    References:
        Rasmussen, Williams (2006), Gaussian Processes for Machine Learning, eq. 5.12 (forecast without one level).
    """
    spread = times_transposed(fit.operator, times_transposed(fit.operator, prior.copy())) + fit.noise
    factor = root(spread)
    scaled = fit.observed.copy()
    solve_lower(factor, scaled)
    solve_lower_transposed(factor, scaled)
    surprise = np.zeros(len(scaled))
    for level in range(len(scaled)):
        if labs.censored[level] == 0:
            unit = np.zeros(len(scaled))
            unit[level] = 1.0
            solve_lower(factor, unit)
            surprise[level] = abs(scaled[level]) / math.sqrt(math.fsum(unit * unit))
    order = sorted(range(len(scaled)), key=lambda level: (-surprise[level], level))
    return [level for level in order[:MOST_SUSPECTS] if surprise[level] > SURPRISING_SD]


def _plain(cloud: Cloud, status: str, etas: int, occasions: Occasions | None) -> Posterior:
    count = len(cloud.weights)
    return Posterior(cloud, status, etas, occasions, np.zeros(count), np.arange(count, dtype=np.int64))


def _join(found: list[tuple[float, Cloud, str]], etas: int, occasions: Occasions) -> Posterior:
    """One cloud of all hypotheses, each with the weight of its evidence."""
    weights = _normalised(np.array([cloud.log_evidence for _, cloud, _ in found]))
    best = int(np.argmax(weights))
    kept = [
        (sd, cloud, weight)
        for (sd, cloud, _), weight in zip(found, weights.tolist(), strict=True)
        if weight > NEGLIGIBLE
    ]
    total = math.fsum(weight for _, _, weight in kept)
    columns = etas + len(occasions.covariance)
    points = np.concatenate(
        [np.pad(cloud.points, ((0, 0), (0, columns - cloud.points.shape[1]))) for _, cloud, _ in kept]
    )
    shares = np.concatenate([cloud.weights * (weight / total) for _, cloud, weight in kept])
    mean, covariance, effective = moments(points, shares)
    doubt = np.array(
        [
            math.fsum(cloud.doubt[level] * weight / total for _, cloud, weight in kept)
            for level in range(len(kept[0][1].doubt))
        ]
    )
    joined = Cloud(points, shares, effective, mean, _positive(covariance), doubt, kept[0][1].log_evidence)
    return Posterior(
        joined,
        found[best][2],
        etas,
        occasions,
        np.concatenate([np.full(len(cloud.weights), sd) for sd, cloud, _ in kept]),
        np.concatenate([np.arange(len(cloud.weights), dtype=np.int64) for _, cloud, _ in kept]),
    )


def _positive(covariance: Floats) -> Floats:
    factor = root(np.ascontiguousarray(covariance))
    if not np.isfinite(factor).all():
        raise MathsError(
            "the points of the posterior have no finite covariance; correct or cancel the record"
        )
    product = np.zeros(covariance.shape)
    for k in range(len(factor)):
        product += np.multiply.outer(factor[:, k], factor[:, k])
    return product


def _joined(omega: Floats, further: Floats) -> Floats:
    """Block-diagonal covariance of the patient's own etas and the occasions'."""
    own, more = len(omega), len(further)
    whole = np.zeros((own + more, own + more))
    whole[:own, :own] = omega
    whole[own:, own:] = further
    return whole


def _normalised(log_weights: Floats) -> Floats:
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / math.fsum(weights))
