# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Smoothed means of long chains in float32, against float64 on the same numbers.

Errors are in units of the posterior standard deviations.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.blocks.hard_chains import PRECISIONS, hard_case, rotated, smoothed
from tests.blocks.test_gaussian_chain import TABLE

STEPS, ALLOWED = 20_000, 5e-4
pytestmark = [pytest.mark.x64, pytest.mark.slow]


def errors(case):
    """Of float32, with the answer and its deviations."""
    rounded = [np.asarray(x, np.float32) for x in case]
    exact, deviation = map(np.asarray, smoothed(*rounded, jnp.float64))
    single, _ = smoothed(*rounded, jnp.float32)
    assert single.dtype == jnp.float32
    return np.abs(np.asarray(single) - exact) / deviation, exact, deviation


@pytest.mark.parametrize("size", [4, 8, 24])  # the last is factored by a library
@pytest.mark.parametrize(("noise", "scale"), [row[:2] for row in TABLE])
def test_potentials_of_one_scale(size, noise, scale):
    found, *_ = errors(
        hard_case(STEPS, noise, lambda rng, shape: np.full(shape, scale**-2), size=size)
    )
    assert np.mean(found) < 0.1 * ALLOWED
    assert np.max(found) < ALLOWED


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("noise", [1e-5, 1e-6, 1e-8])
@pytest.mark.parametrize("kind", ["small", "mixed", "large"])
def test_nearly_deterministic_dynamics(size, noise, kind):
    """Potentials of 1e-6 to 1e6, by step and dimension.

    Single entries are further off than the mean, with the least noise by up to 0.02.
    To round what is given costs 3e-3 of that, and to round the answer, where a mean is
    thousands of its deviations, 5e-4; the rest is rounding that adds up (dynamax and
    cuthbert are off by 0.3 there).
    """
    found, *_ = errors(hard_case(STEPS, noise, PRECISIONS[kind], size=size))
    assert np.mean(found) < 0.1 * ALLOWED
    assert np.max(found) < (ALLOWED if kind == "small" else 80 * ALLOWED)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("noise", [1e-5, 1e-8])
def test_full_precisions_are_as_good_as_their_rounding(size, noise):
    """To round an entry of 1e6 is to change eigenvalues of 1e-6 by more than they are.

    No algorithm that is given the rounded matrix can know the answer better.
    """
    case = hard_case(STEPS, noise, rotated, size=size)
    found, exact, deviation = errors(case)
    unrounded, _ = smoothed(*case, jnp.float64)
    from_rounding = np.abs(np.asarray(unrounded) - exact) / deviation
    assert np.mean(found) < 3 * np.mean(from_rounding)
    assert np.mean(found) < 2 * ALLOWED
