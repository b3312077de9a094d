# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Standard parameters in float32, and naturals that have no digits left for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.families import RegressionNatural
from numpyro_svae.families.compensated import residual
from numpyro_svae.program.priors.digits import check_digits

RNG = np.random.default_rng(0)


def naturals(v, u, least=1e-3):
    """Sums of what was seen, with a weak prior, in single precision."""
    dim, columns = v.shape[-1], u.shape[-1]
    leaves = (
        v.T @ v + least * np.eye(dim),
        v.T @ u,
        u.T @ u + least * np.eye(columns),
        len(v) + dim + 1.0,
    )
    return RegressionNatural(*(jnp.asarray(x, jnp.float32) for x in leaves))


def test_a_residual_has_all_digits():
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in [(6, 9), (9, 4)])
    exact = a.astype(np.float64) @ b
    c = exact.astype(np.float32)
    found = jax.jit(residual)(c, a, b)
    np.testing.assert_allclose(found, c - exact, atol=1e-12)
    slopes = jax.grad(lambda *x: jnp.sum(residual(*x) * c), (0, 1, 2))(c, a, b)
    for slope, expected in zip(slopes, (c, -c @ b.T, -a.T @ c)):
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4)


def test_standard_parameters_of_a_condition_of_a_million():
    turn = np.linalg.qr(RNG.standard_normal((5, 5)))[0]
    u = RNG.standard_normal((400, 5)) * 10.0 ** np.linspace(-1.5, 1.5, 5) @ turn
    v = u @ RNG.standard_normal((5, 3)) + 0.05 * RNG.standard_normal((400, 3))
    natural = naturals(v, u)
    weight, covariance, _, _ = jax.jit(RegressionNatural.moments)(natural)
    vv, vu, uu = (np.asarray(x, float) for x in (natural.vv, natural.vu, natural.uu))
    assert np.linalg.cond(uu) > 5e5
    exact = np.linalg.solve(uu, vu.T).T
    np.testing.assert_allclose(weight, exact, rtol=1e-5, atol=1e-6)
    scale = vv - exact @ vu.T
    scale = (scale + scale.T) / 2 / float(natural.df)
    np.testing.assert_allclose(covariance, scale, rtol=1e-4, atol=1e-5 * scale.max())


def test_data_far_from_zero_are_named():
    y = RNG.standard_normal((80, 2)) - 3e4
    with pytest.raises(ValueError, match=r"'a': it has data .* All .* about \[-[23]"):
        check_digits("a", naturals(y, np.ones((80, 1))))


def test_an_outlier_is_named():
    groups = RNG.standard_normal((40, 2)), np.full((1, 2), 2e4)
    members = [naturals(y, np.ones((len(y), 1))) for y in groups]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    with pytest.raises(ValueError, match=r"member \(1,\) .* outlier there"):
        check_digits("a", both)


def test_groups_that_are_far_from_zero_together_are_no_outliers():
    groups = (RNG.standard_normal((n, 2)) + 2e4 + 3 * n for n in (12, 13))
    members = [naturals(y, np.ones((len(y), 1))) for y in groups]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    with pytest.raises(ValueError, match=r"All .* are far from zero"):
        check_digits("a", both)


def test_responses_that_are_large_beside_their_noise_are_named():
    u = RNG.standard_normal((80, 2))
    v = 1e5 * u + RNG.standard_normal((80, 2))
    with pytest.raises(ValueError, match="Accepted: data less an offset"):
        check_digits("a", naturals(v, u, 1e-9))
    check_digits("a", naturals(1e2 * u + RNG.standard_normal((80, 2)), u))
