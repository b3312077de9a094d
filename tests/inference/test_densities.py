# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Expected densities of Gaussian factors."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np

from numpyro_svae.inference.factors.densities import whitener_of


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
