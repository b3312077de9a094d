# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian weights of the logits of recurrent states, by quadrature over both."""

import jax
from jax.nn import log_sigmoid
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.recurrent import INPUTS, LOGITS, Y, own_bound, recurrent, with_one

WIDTH = 0.4
NODES, MASSES = np.polynomial.hermite_e.hermegauss(40)
MASSES = MASSES / MASSES.sum()


def bayesian(y):
    prior = dist.Normal(jnp.asarray(LOGITS), WIDTH).to_event(3)
    recurrent(y, numpyro.sample("weight", prior), INPUTS)


def expected_rows(mean, tril, x, u):
    """Of two states: all that counts is how far apart their logits are.

    :param mean: of the weights, which are in the order of the logits, ``(8,)``.
    """
    apart = jnp.einsum("jka,ka->jka", jnp.ones((2, 2, 2)), jnp.array([[-1.0], [1.0]]))
    maps = jnp.einsum("jl,lka,...a->...jlka", jnp.eye(2), apart, with_one(x))
    maps = maps.reshape(*maps.shape[:-4], 2, 8)
    spread = jnp.sqrt(jnp.sum((maps @ tril) ** 2, -1))
    gap = maps @ mean + jnp.asarray(u)[..., None]
    gap = gap[..., None] + spread[..., None] * NODES
    both = jnp.stack([log_sigmoid(-gap), log_sigmoid(gap)], -1)
    return jnp.einsum("s,...sk->...k", MASSES, both)


def kl(mean, tril):
    """From the prior."""
    far = (mean - LOGITS.ravel()) / WIDTH
    logs = 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(tril)))) - 16 * np.log(WIDTH)
    return 0.5 * (jnp.sum(far**2) + jnp.sum(tril**2) / WIDTH**2 - 8 - logs)


@pytest.mark.filterwarnings("ignore:shape requires:DeprecationWarning")
def test_nothing_near_the_posterior_is_better(x64):
    """The gradient of a bound of its own is zero in weights, path and states."""
    guide = ns.AutoSVAE(
        bayesian,
        cubature=ns.Cubature("hermite", 10),
        fixed_point=ns.FixedPoint(max_sweeps=300, tolerance=1e-11),
    )
    y = jnp.asarray(Y)
    params, losses = steps(make_svi(bayesian, guide, natural=0.8), 25, y)
    local = guide.posterior_local(params, y)
    found = params[guide._natural_name("weight")].moments()
    mean = found.mean.ravel()
    blocks = found.covariance.reshape(-1, *2 * found.covariance.shape[-1:])
    tril = jnp.linalg.cholesky(jax.scipy.linalg.block_diag(*blocks))

    def bound(mean, tril, info, precision, logits):
        said = ns.GaussianPotential(info, precision)
        path = local["x"].condition(said)[0]
        states = local["z"].condition(ns.CategoricalPotential(logits))[0]

        def rows(x, u):
            return expected_rows(mean, tril, x, u)

        return own_bound(states, path, rows) - kl(mean, tril)

    nothing = jnp.zeros((2, 4, 1)), jnp.zeros((2, 4, 1, 1)), jnp.zeros((2, 4, 2))
    value, gradients = jax.jit(jax.value_and_grad(bound, (0, 1, 2, 3, 4)))(
        mean, tril, *nothing
    )
    np.testing.assert_allclose(-losses[-1], value, rtol=1e-6)
    to_mean, to_tril, *others = gradients
    for gradient in (to_mean, jnp.tril(to_tril), *others):
        np.testing.assert_allclose(gradient, 0.0, atol=2e-5)
