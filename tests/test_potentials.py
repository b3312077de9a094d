# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian potentials: values, algebra, masks, transformations, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from numpyro_svae.potentials import GaussianPotential

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3, 2))
LOC = RNG.normal(size=(4, 3, 2))
SCALE = np.exp(RNG.normal(size=(4, 3, 2)))
TRIL = np.tril(RNG.normal(size=(4, 3, 2, 2)), -1) + 0.5 * np.eye(2)


def diagonal():
    return GaussianPotential.from_loc_scale(LOC, SCALE)


def full():
    return GaussianPotential.from_loc_scale_tril(LOC, TRIL)


@pytest.mark.x64
@pytest.mark.parametrize(
    ("potential", "density"),
    [
        (diagonal, lambda: dist.Normal(LOC, SCALE).to_event(1)),
        (full, lambda: dist.MultivariateNormal(LOC, scale_tril=TRIL)),
    ],
)
def test_potentials_of_densities(potential, density):
    """A potential is the log density but for a constant."""
    psi, p = potential(), density()
    np.testing.assert_allclose(
        psi(X) - psi(LOC), p.log_prob(X) - p.log_prob(LOC), rtol=1e-9
    )
    assert psi.batch_shape == (4, 3) and psi.dim == 2
    same = GaussianPotential(psi.info_vector, psi.full_precision())
    assert not same.is_diagonal
    np.testing.assert_allclose(same(X), psi(X))


@pytest.mark.x64
@pytest.mark.parametrize("potential", [diagonal, full])
def test_expected_value(potential):
    """A quadratic has the expectation of its value over sigma points."""
    psi, root = potential(), TRIL[::-1]
    points = LOC[..., None] + np.sqrt(2) * np.concatenate([root, -root], -1)
    expected = np.mean([psi(points[..., i]) for i in range(4)], 0)
    covariance = root @ np.swapaxes(root, -1, -2)
    np.testing.assert_allclose(psi.expected(LOC, covariance), expected, rtol=1e-9)


@pytest.mark.x64
@pytest.mark.parametrize("first", [diagonal, full])
@pytest.mark.parametrize("second", [diagonal, full])
def test_sums(first, second):
    a, b = first(), second()
    np.testing.assert_allclose((a + b)(X), a(X) + b(X))
    shared = jax.tree.map(lambda x: x[0, 0], b)
    np.testing.assert_allclose((a + shared)(X), a(X) + shared(X))
    np.testing.assert_allclose((shared + a)(X), a(X) + shared(X))
    assert (a + b).is_diagonal == (a.is_diagonal and b.is_diagonal)


@pytest.mark.parametrize("potential", [diagonal, full])
def test_masked_positions_are_exactly_zero_whatever_they_hold(potential):
    keep = np.array([True, False, True])

    def value(loc, scale):
        if potential is diagonal:
            psi = GaussianPotential.from_loc_scale(loc, scale)
        else:
            psi = GaussianPotential(loc, scale)
        return jnp.sum(psi.mask(keep)(X)), psi.mask(keep)

    loc = np.where(keep[:, None], LOC, np.nan)
    scale = SCALE if potential is diagonal else TRIL
    wide = keep[:, None] if potential is diagonal else keep[:, None, None]
    scale = np.where(wide, scale, np.inf)
    grads, psi = jax.grad(value, (0, 1), has_aux=True)(loc, scale)
    assert not jnp.any(psi.info_vector[:, 1]) and not jnp.any(psi.precision[:, 1])
    if potential is full:  # the gradient of a stored number does not see it
        assert all(jnp.all(jnp.isfinite(g)) for g in grads)
    np.testing.assert_array_equal(psi.info_vector[:, 0] != 0, True)


def test_masks_broadcast():
    psi = jax.tree.map(lambda x: x[0, 0], diagonal())
    assert psi.mask(np.ones((5, 3), bool)).batch_shape == (5, 3)
    assert psi.mask(True).batch_shape == ()


@pytest.mark.parametrize("potential", [diagonal, full])
def test_transformations(potential):
    psi = potential()
    mapped = jax.vmap(jax.vmap(lambda p, x: p(x)))(psi, X)
    np.testing.assert_allclose(mapped, jax.jit(lambda p: p(X))(psi), rtol=1e-5)
    axes = jax.tree.map(lambda _: 0, psi)
    assert jax.vmap(lambda p: p.precision, in_axes=(axes,))(psi).shape[0] == 4
    leaves, structure = jax.tree.flatten(psi)
    assert len(leaves) == 2
    assert jax.tree.unflatten(structure, leaves).is_diagonal == psi.is_diagonal


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianPotential(1.0, 1.0), r"info_vector: found a scalar"),
        (
            lambda: GaussianPotential(np.ones((5, 3)), np.ones((5, 2))),
            r"precision: found shape \(5, 2\).*\(5, 3\) or full matrices \(5, 3, 3\)",
        ),
        (
            lambda: GaussianPotential(np.ones((5, 3)), np.ones((4, 3, 3))),
            r"precision: found shape \(4, 3, 3\)",
        ),
        (
            lambda: GaussianPotential.from_loc_scale(np.ones(3), np.ones(2)),
            r"scale: found shape \(2,\)",
        ),
        (
            lambda: GaussianPotential.from_loc_scale(np.ones(2), np.array([1.0, -0.5])),
            r"scale: found -0\.5; .*softplus",
        ),
        (
            lambda: GaussianPotential.from_loc_scale_tril(np.ones(3), np.ones(3)),
            r"scale_tril: found shape \(3,\).*\(..., 3, 3\)",
        ),
        (lambda: diagonal().mask(np.ones(7, bool)), r"mask: found shape \(7,\)"),
        (
            lambda: diagonal() + GaussianPotential(np.ones(3), np.ones(3)),
            r"other: found a potential over 3 dimensions",
        ),
    ],
)
def test_errors_say_what_was_found_and_what_is_accepted(make, message):
    with pytest.raises(ValueError, match=message):
        make()
