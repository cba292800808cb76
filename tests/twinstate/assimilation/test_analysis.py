"""One Kalman step against filterpy."""

from __future__ import annotations

import numpy as np
import pytest
from filterpy.kalman import update

from twinstate.assimilation.analysis import analyse


def problem(states: int, channels: int, seed: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    root = random.normal(size=(states, states))
    noise_root = random.normal(size=(channels, channels))
    return (
        random.normal(size=states),
        root @ root.T + 0.1 * np.eye(states),
        random.normal(size=channels),
        random.normal(size=(channels, states)),
        noise_root @ noise_root.T + 0.1 * np.eye(channels),
    )


@pytest.mark.parametrize(("states", "channels"), [(1, 1), (2, 1), (2, 4), (5, 3), (7, 20)])
def test_analysis_agrees_with_filterpy(states: int, channels: int) -> None:
    mean, covariance, observed, operator, noise = problem(states, channels, 10 * states + channels)
    found = analyse(mean, covariance, observed, operator, noise)
    expected_mean, expected_covariance, innovation, gain, spread, _ = update(
        mean, covariance, observed, noise, operator, return_all=True
    )
    np.testing.assert_allclose(found.mean, expected_mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.covariance, expected_covariance, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.innovation, innovation, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.gain, gain, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.innovation_covariance, spread, rtol=0, atol=1e-10)


def test_considered_states_keep_mean_and_variance_but_widen_the_others() -> None:
    mean, covariance, observed, operator, noise = problem(4, 2, 3)
    found = analyse(mean, covariance, observed, operator, noise, 2)
    np.testing.assert_array_equal(found.mean[:2], mean[:2])
    np.testing.assert_allclose(found.covariance[:2, :2], covariance[:2, :2], rtol=1e-12)
    best = analyse(mean, covariance, observed, operator, noise)
    assert (np.diag(found.covariance) >= np.diag(best.covariance) - 1e-12).all()


def test_observation_that_is_not_a_number_gives_nan_not_an_exception() -> None:
    mean, covariance, observed, operator, noise = problem(2, 2, 1)
    observed[0] = np.nan
    assert np.isnan(analyse(mean, covariance, observed, operator, noise).mean).all()
