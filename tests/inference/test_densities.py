# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Expected densities of Gaussian factors."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.inference.factors.densities import whitener_of
from numpyro_svae.inference.factors.messages import (
    expected_log_density,
    expected_response,
)
from numpyro_svae.inference.local.joint import _with_states
from numpyro_svae.potentials import GaussianPotential


def test_a_whitener_and_its_derivatives_are_those_of_the_inverse_factor(x64):
    wide = jax.random.normal(jax.random.PRNGKey(0), (2, 3, 6))
    covariance = wide @ jnp.swapaxes(wide, -1, -2)
    whitener, log_det = whitener_of(covariance)
    inverse = np.linalg.solve(np.linalg.cholesky(covariance), np.eye(3))
    np.testing.assert_allclose(whitener, inverse, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(covariance)[1], rtol=1e-12)

    def of_symmetric(x):
        return whitener_of(0.5 * (x + jnp.swapaxes(x, -1, -2)))

    check_grads(of_symmetric, (covariance,), order=2, rtol=1e-5)


def test_an_expected_density_has_one_whitener():
    """Two of one covariance have two derivatives, as XLA does not add them up first."""
    eye, one = jnp.eye(2), jnp.ones(2)
    regression = ExpectedRegression(eye, 2 * eye, eye, one[0])
    cases = {
        expected_response: (one, one, eye),
        expected_log_density: (one, one, eye, one, eye),
    }
    for density, given in cases.items():
        text = str(jax.make_jaxpr(density)(regression, *given))
        assert text.count("name=whitener_of") == 1


def test_diagonal_potentials_stay_so_for_each_state():
    """They condition without a factorisation."""
    diagonal = GaussianPotential(jnp.ones((5, 2)), jnp.arange(10.0).reshape(5, 2))
    full = GaussianPotential(diagonal.info_vector, diagonal.full_precision())
    assert _with_states(diagonal).is_diagonal
    mean, covariance = jnp.ones((5, 3, 2)), jnp.broadcast_to(jnp.eye(2), (5, 3, 2, 2))
    found, expected = (
        _with_states(potential).expected(mean, covariance)
        for potential in (diagonal, full)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
