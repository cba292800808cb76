"""The most probable etas of one patient: the minimum of NONMEM's objective for posterior etas (`deviance.py`).

Written over a port, `predict(points) -> concentrations`, so that any structural model can be asked. The search
runs in prior standard deviations, from the prior's mean and from the best of fixed quasi-random points, by damped
Fisher scoring and then by Newton's method with the whole curvature. Lags and input durations put kinks into the
objective, where no gradient vanishes: what a ring of probes still improves is followed, and at last a simplex
settles it.

Same inputs, same etas: no start is random, and none comes from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.deviance import Measured, deviance_slopes, deviances
from twinstate.assimilation.points import normal_points
from twinstate.assimilation.simplex import descend

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]

# Eigenvalues of omega below this share of its largest diagonal entry are nought: such an eta is fixed.
NO_VARIANCE = 1e-14
# Half-widths of the central differences, in prior and in posterior standard deviations.
SLOPE_STEP = 1e-4
CURVATURE_STEP = 2e-3
KINKED_CURVATURE = 100.0
SCORING_STEPS = 40
NEWTON_STEPS = 8
# Turns of Newton's method and probes; after the first few a simplex follows the probes.
TURNS, PROBING_TURNS = 12, 5
# Searches from the prior's mean and from this many of the points tried first.
POINTS_TRIED = 192
OTHER_STARTS = 24
MEETING = 0.1  # prior standard deviations
PROBES_ACROSS = 12
# How much worse than the best, in units of the objective, a search may end and still be polished.
WORTH_POLISHING = 4.0
POLISHED = 2
# The search ends when a step is this short (posterior standard deviations) or promises this little.
SHORT_STEP = 1e-6
SMALL_GAIN = 1e-9
SCORED_GAIN = 1e-4  # the rest is Newton's
SETTLED_GAIN = 1e-6  # of a simplex on a kink
LINE = np.array([0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-4])
SIMPLEX_SPREADS = (0.3, 0.03, 0.003)
RINGS = np.array([1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4])

WIDE_RINGS = RINGS[:3]  # where the gradient vanishes nothing near can be better


class Status(Enum):
    """How the search ended."""

    SMOOTH = "the gradient vanishes at the mode"
    KINK = "no point near is better, though the gradient does not vanish: the mode lies on a kink"
    UNFINISHED = "better points were still being found when the search was stopped"
    IMPOSSIBLE = "the objective is finite nowhere it was tried, so there is no mode"


class Mode(NamedTuple):
    """Where the objective is least.

    Attributes:
        eta: (eta,); NaN when impossible.
        covariance: First-order posterior covariance, (prior precision + Fisher information)^-1 at the mode,
            (eta, eta); 0 in rows of etas without variance.
        objective: Its value; infinite when impossible.
        iterations: Steps taken, of all searches.
        status: How it ended.
    """

    eta: Floats
    covariance: Floats
    objective: float
    iterations: int
    status: Status


def find_mode(predict: Predict, measured: Measured, omega: Floats) -> Mode:
    """Find the etas of which prior and levels think best.

    Args:
        predict: Concentrations (n, levels) at etas (n, eta); not finite where they cannot be computed. Row by row:
            a row must not depend on the others.
        measured: The levels; with none of them the mode is the prior's mean.
        omega: Covariance of the etas, (eta, eta), positive semi-definite. An eta without variance stays 0, and etas
            that are one another's multiples stay so.

    Returns:
        The mode. Parameters agree to 1e-6 posterior standard deviations where the objective is smooth.

    References:
        Kang et al. (2012), J. Korean Med. Sci. 27:S133 (posterior etas under FOCE);
        Le Louedec et al. (2021), CPT Pharmacometrics Syst. Pharmacol. 10:1208-1220.
    """
    return _Search(predict, measured, omega).run()


def objective(predict: Predict, measured: Measured, omega: Floats, etas: Floats) -> Floats:
    """The objective at etas (n, eta): (n,); infinite where an eta without variance is not 0."""
    root = _root(omega)
    whitened = etas @ np.linalg.pinv(root).T
    prior = np.einsum("ij,ij->i", whitened, whitened)
    outside = np.abs(whitened @ root.T - etas).max(axis=1, initial=0.0) > 1e-8
    found: Floats = deviances(measured, _plain(predict(np.ascontiguousarray(etas)))) + prior
    found[outside] = np.inf
    return found


def _plain(values: Floats) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float64)


def _root(omega: Floats) -> Floats:
    """R (eta, rank) with R R' = omega: the Cholesky factor, or eigenvectors where omega has no inverse."""
    free = np.flatnonzero(np.diag(omega) > 0.0)
    root = np.zeros((len(omega), free.size))
    if free.size == 0:
        return root
    inner = omega[np.ix_(free, free)]
    values, vectors = np.linalg.eigh(inner)
    kept = values > NO_VARIANCE * np.diag(inner).max()
    if kept.all():
        root[free] = np.linalg.cholesky(inner)
        return root
    root = np.zeros((len(omega), int(kept.sum())))
    root[free] = vectors[:, kept] * np.sqrt(values[kept])
    return root


def _cloud(points: int, size: int) -> Floats:
    """Fixed standard normal points (points, size); further blocks of rows serve as columns the table lacks."""
    table = normal_points()[:, 1:]
    blocks = [table[block * points : (block + 1) * points] for block in range(-(-size // table.shape[1]))]
    return np.hstack(blocks)[:, :size]


class _Search:
    """One search, in coordinates z with eta = R z, whose prior is standard normal."""

    def __init__(self, predict: Predict, measured: Measured, omega: Floats) -> None:
        self.predict = predict
        self.measured = measured
        self.root = _root(omega)
        self.size = self.root.shape[1]
        self.iterations = 0

    def predicted(self, z: Floats) -> Floats:
        return _plain(self.predict(np.ascontiguousarray(z @ self.root.T)))

    def value(self, z: Floats) -> Floats:
        """Objective at z (n, size): (n,)."""
        found: Floats = deviances(self.measured, self.predicted(z)) + np.einsum("ij,ij->i", z, z)
        return found

    def run(self) -> Mode:
        if self.size == 0 or self.measured.value.size == 0:
            z = np.zeros(self.size)
            return self._told(z, float(self.value(z[None])[0]), Status.SMOOTH)
        ends = self._score_all(self._starts())
        if not ends:
            return self._told(np.full(self.size, np.nan), np.inf, Status.IMPOSSIBLE)
        worth: list[tuple[float, Floats]] = []
        for end in ends:
            near = any(np.abs(end[1] - other[1]).max() < 0.05 for other in worth)
            if end[0] < ends[0][0] + WORTH_POLISHING and not near and len(worth) < POLISHED:
                worth.append(end)
        polished = min((self._polish(*end) for end in worth), key=lambda end: end[0])
        return self._told(polished[1], polished[0], polished[2])

    def _starts(self) -> Floats:
        """Where searches begin: the prior's mean, and points of a fixed cloud from its best to its worse half.

        The best alone would lie in one valley: of two modes the other is often reached from far off.
        """
        axes = 1.5 * np.vstack([np.eye(self.size), -np.eye(self.size)])
        tried = np.vstack([axes, _cloud(POINTS_TRIED, self.size)])
        values = self.value(tried)
        ranked = tried[np.argsort(values, kind="stable")][: int(np.isfinite(values).sum())]
        spread = (np.linspace(0.0, 1.0, OTHER_STARTS) ** 2 * (0.6 * len(ranked))).astype(np.int64)
        return np.vstack([np.zeros(self.size), ranked[np.unique(spread)] if len(ranked) > 0 else ranked])

    def _slopes(self, z: Floats) -> tuple[Floats, Floats]:
        """Gradient of the whole objective at z (n, size), and the first-order information with the prior's."""
        count, size = z.shape
        moves = SLOPE_STEP * np.vstack([np.zeros(size), np.eye(size), -np.eye(size)])
        predicted = self.predicted((z[:, None] + moves).reshape(-1, size)).reshape(count, 2 * size + 1, -1)
        slopes = (predicted[:, 1 : size + 1] - predicted[:, size + 1 :]) / (2.0 * SLOPE_STEP)
        gradient, information = np.empty((count, size)), np.empty((count, size, size))
        for row in range(count):
            gradient[row], information[row] = deviance_slopes(
                self.measured, predicted[row, 0], np.ascontiguousarray(slopes[row])
            )
        return gradient + 2.0 * z, information + np.eye(size)

    def _score_all(self, z: Floats) -> list[tuple[float, Floats]]:
        """Damped Fisher scoring from every start at once, in one call of the port each time.

        Searches that meet go on as one. All ends, the best first.
        """
        values = self.value(z)
        z, values = z[np.isfinite(values)], values[np.isfinite(values)]
        ends: list[tuple[float, Floats]] = []
        for _ in range(SCORING_STEPS):
            if len(z) == 0:
                break
            self.iterations += len(z)
            gradient, information = self._slopes(z)
            steps = np.zeros_like(z)
            usable = np.isfinite(gradient).all(axis=1) & np.isfinite(information).all(axis=(1, 2))
            steps[usable] = -0.5 * np.linalg.solve(information[usable], gradient[usable][..., None])[..., 0]
            moved, found = self._along(z, steps, values)
            goes_on = values - found > SCORED_GAIN
            better = found < values
            z, values = np.where(better[:, None], moved, z), np.where(better, found, values)
            ends += [(float(values[row]), z[row]) for row in np.flatnonzero(~goes_on)]
            z, values = z[goes_on], values[goes_on]
            order = np.argsort(values, kind="stable")
            kept: list[int] = []
            for row in order:
                if all(np.linalg.norm(z[row] - z[other]) > MEETING for other in kept):
                    kept.append(int(row))
            z, values = z[kept], values[kept]
        ends += [(float(value), place) for value, place in zip(values, z, strict=True)]
        return sorted(ends, key=lambda end: end[0])

    def _along(self, z: Floats, steps: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Each search's whole step (n, size) where it helps, else the best of its parts; places and their values."""
        moved = z + steps
        found = self.value(moved)
        for row in np.flatnonzero(~(found < values)):
            tried = z[row] + LINE[:, None] * steps[row]
            parts = self.value(tried)
            least = int(np.argmin(parts))
            moved[row], found[row] = tried[least], parts[least]
        return moved, found

    def _polish(self, best: float, z: Floats) -> tuple[float, Floats, Status]:
        """Newton's method and probes by turns; a simplex where the objective has a kink."""
        for turn in range(TURNS):
            best, z, smooth = self._newton(best, z)
            value, nearby = self._probe(z, WIDE_RINGS if smooth else RINGS)
            if value < best - SMALL_GAIN:
                best, z = value, nearby
                if turn < PROBING_TURNS:
                    continue
            elif smooth:
                return best, z, Status.SMOOTH
            value, nearby = self._simplex(z)
            gain = best - value
            if gain > 0.0:
                best, z = value, nearby
            if gain < SETTLED_GAIN:
                return best, z, Status.KINK
        return best, z, Status.UNFINISHED

    def _scales(self, z: Floats) -> Floats:
        """Square root of the first-order posterior covariance at z, (size, size)."""
        information = self._slopes(z[None])[1][0]
        if not np.isfinite(information).all():
            return np.eye(self.size)
        values, vectors = np.linalg.eigh(information)
        return np.asarray(vectors / np.sqrt(np.maximum(values, 1.0)))

    def _newton(self, best: float, z: Floats) -> tuple[float, Floats, bool]:
        """Newton steps with all second derivatives; whether they ended short of `SHORT_STEP` and off a kink."""
        for _ in range(NEWTON_STEPS):
            scales = self._scales(z)
            gradient, curvature = self._curvature(z, scales, best)
            if not (np.isfinite(gradient).all() and np.isfinite(curvature).all()):
                return best, z, False
            self.iterations += 1
            values, vectors = np.linalg.eigh(curvature)
            # Where the curvature is not that of a minimum, the first-order one (2) stands in.
            steps = (vectors.T @ gradient) / np.where(values > 0.02, values, 2.0)
            step = -scales @ (vectors @ steps)
            length = float(np.linalg.norm(steps))
            # On a kink the difference of differences grows as the step shrinks; on a smooth mode it is 2.
            kinked = bool(values[-1] > KINKED_CURVATURE)
            moved, value = self._along(z[None], step[None], np.array([best]))
            if value[0] < best:
                best, z = float(value[0]), moved[0]
                if length < SHORT_STEP:
                    return best, z, not kinked
            else:
                # Rounding hides the gain of a step this short.
                return best, z, not kinked and length < 1e3 * SHORT_STEP
        return best, z, False

    def _curvature(self, z: Floats, scales: Floats, best: float) -> tuple[Floats, Floats]:
        """Gradient and Hessian of the objective by central differences along the columns of `scales`."""
        size = self.size
        rows, columns = np.triu_indices(size, 1)
        moves = CURVATURE_STEP * scales.T
        tried = np.vstack(
            [
                z + moves,
                z - moves,
                z + moves[rows] + moves[columns],
                z - moves[rows] - moves[columns],
            ]
        )
        values = self.value(tried)
        up, down = values[:size], values[size : 2 * size]
        both_up, both_down = np.split(values[2 * size :], 2)
        square = CURVATURE_STEP * CURVATURE_STEP
        with np.errstate(invalid="ignore"):
            gradient = (up - down) / (2.0 * CURVATURE_STEP)
            along = (up + down - 2.0 * best) / square
            curvature = np.diag(along)
            # f(x+a+b) + f(x-a-b) - 2 f(x) = a'Ha + b'Hb + 2 a'Hb
            mixed = 0.5 * ((both_up + both_down - 2.0 * best) / square - along[rows] - along[columns])
        curvature[rows, columns] = mixed
        curvature[columns, rows] = mixed
        return gradient, curvature

    def _probe(self, z: Floats, rings: Floats) -> tuple[float, Floats]:
        """The best of rings of points round z: along the axes of prior and posterior, and across."""
        scales = self._scales(z)
        own = np.diag(np.sqrt((scales**2).sum(axis=1)))
        directions = np.vstack([own, scales.T, _cloud(PROBES_ACROSS, self.size) @ scales.T])
        moves = np.vstack([directions, -directions])
        tried = z + (rings[:, None, None] * moves).reshape(-1, self.size)
        values = self.value(tried)
        least = int(np.argmin(values))
        return float(values[least]), tried[least]

    def _simplex(self, z: Floats) -> tuple[float, Floats]:
        """A simplex begun anew three times, ever smaller."""
        for spread in SIMPLEX_SPREADS:
            z, steps = descend(self.value, z, spread * self._scales(z))
            self.iterations += steps
        return float(self.value(z[None])[0]), z

    def _told(self, z: Floats, value: float, status: Status) -> Mode:
        if status is Status.IMPOSSIBLE:
            nothing = np.full((len(self.root), len(self.root)), np.nan)
            return Mode(np.full(len(self.root), np.nan), nothing, value, self.iterations, status)
        inner: Floats = np.eye(self.size)
        if self.size > 0 and self.measured.value.size > 0:
            information = self._slopes(z[None])[1][0]
            inner = np.asarray(np.linalg.inv(information)) if np.isfinite(information).all() else information
        return Mode(self.root @ z, self.root @ inner @ self.root.T, value, self.iterations, status)
