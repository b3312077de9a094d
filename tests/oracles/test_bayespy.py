# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The same bound and the same posterior as BayesPy, step by step from the same start.

BayesPy writes a Gaussian-Wishart prior as a ``GaussianGamma`` node where the data have
one dimension; ``GaussianWishart`` itself cannot be used in version 0.6.6, where a name
that it needs is not defined. A NormalInverseWishart is then a Gamma on the precision,
with shape ``df / 2`` and rate ``scale / 2``.
"""

import warnings

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi
from tests.models import KAPPA, known_lds, mixture

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bayespy.inference import VB
    from bayespy.nodes import (
        Categorical,
        Dirichlet,
        Gaussian,
        GaussianARD,
        GaussianGamma,
        GaussianMarkovChain,
        Mixture,
        SumMultiply,
    )

SWEEPS = 12


def points():
    rng = np.random.default_rng(0)
    parts = [(-2.0, 0.5, 10), (1.0, 0.7, 12), (3.0, 0.4, 8)]
    y = np.concatenate([rng.normal(m, s, n) for m, s, n in parts])[:, None]
    return y, np.arange(len(y)) % 3


@pytest.mark.filterwarnings("ignore")
def test_mixture(x64):
    y, labels = points()
    bounds, components, weights = bayespy_mixture(y, labels)
    guide = ns.AutoSVAE(mixture, init=labelled_start(y, labels))
    y = jnp.asarray(y)
    svi = make_svi(mixture, guide)
    state = svi.init(random.PRNGKey(0), y)

    def update(state, _):
        return svi.update(state, y)

    state, losses = jax.jit(lambda s: jax.lax.scan(update, s, length=SWEEPS))(state)
    np.testing.assert_allclose(-losses, bounds, rtol=1e-6)
    found = guide.get_posterior(svi.get_params(state))
    np.testing.assert_allclose(found["weights"].concentration, weights, rtol=1e-6)
    # the statistics of a GaussianGamma: tau x, tau x x', tau, log tau
    loc, df = found["components"].loc[:, 0], found["components"].df
    precision = df / found["components"].scale_matrix[:, 0, 0]
    tau_x, tau_xx, tau, _ = components
    np.testing.assert_allclose(tau, precision, rtol=1e-6)
    np.testing.assert_allclose(tau_x[:, 0], precision * loc, rtol=1e-6)
    expected = precision * loc**2 + 1.0 / found["components"].concentration
    np.testing.assert_allclose(tau_xx[:, 0, 0], expected, rtol=1e-6)


def bayespy_mixture(y, labels):
    """Bounds before each update of the globals, and what the last one gave."""
    alpha = Dirichlet(0.7 * np.ones(3))
    z = Categorical(alpha, plates=(len(y),))
    shape, rate = 3.0 / 2, 1.0 / 2  # df = dim + 2, scale = 1
    theta = GaussianGamma(np.zeros(1), KAPPA * np.eye(1), shape, rate, plates=(3,))
    node = Mixture(z, Gaussian, theta, np.eye(1))
    node.observe(y)
    inference = VB(node, theta, z, alpha)
    z.initialize_from_value(labels)
    theta.update()
    alpha.update()
    bounds = []
    for _ in range(SWEEPS):
        inference.update(z, verbose=False)
        bounds.append(inference.L[inference.iter - 1])
        theta.update()
        alpha.update()
    concentration = alpha.phi[0]
    return bounds, [np.array(u) for u in theta.u], concentration


def labelled_start(y, labels):
    """The posterior given hard labels."""
    counts = np.bincount(labels, minlength=3)
    sums = np.array([y[labels == k].sum() for k in range(3)])
    squares = np.array([(y[labels == k] ** 2).sum() for k in range(3)])
    kappa = KAPPA + counts
    scale = 1.0 + squares - sums**2 / kappa
    components = ns.NormalInverseWishart(
        jnp.asarray(sums / kappa)[:, None],
        jnp.asarray(kappa),
        3.0 + counts,
        jnp.asarray(scale)[:, None, None],
    )
    return {"components": components, "weights": dist.Dirichlet(0.7 + counts)}


@pytest.mark.filterwarnings("ignore")
def test_gaussian_chain(x64):
    """BayesPy's chain has diagonal noise; the one here is given in its eigenbasis."""
    rng = np.random.default_rng(1)
    y = rng.standard_normal((1, 6, 3))
    noise = np.array([[0.3, 0.1], [0.1, 0.2]])
    variances, basis = np.linalg.eigh(noise)
    transition = np.array([[0.9, -0.2], [0.3, 0.8]])
    emission = np.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.2]])
    chain = GaussianMarkovChain(
        basis.T @ np.array([0.5, -0.5]),
        np.eye(2) / 1.5,
        basis.T @ transition @ basis,
        1.0 / variances,
        n=6,
    )
    mean = SumMultiply("i,i", (emission @ basis)[:, None, :], chain)
    node = GaussianARD(mean, 1.0 / 0.4)
    node.observe(y[0].T - 0.1)
    inference = VB(chain, node)
    inference.update(chain, verbose=False)
    guide = ns.AutoSVAE(known_lds)
    loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, known_lds, guide, y)
    np.testing.assert_allclose(-loss, inference.L[inference.iter - 1], rtol=1e-6)
    first, second = chain.get_moments()[:2]
    smoothed = guide.posterior_local({}, jnp.asarray(y))["x"]
    np.testing.assert_allclose(smoothed.mean[0], first @ basis.T, rtol=1e-6)
    covariance = second - first[:, :, None] * first[:, None, :]
    covariance = basis @ covariance @ basis.T
    np.testing.assert_allclose(smoothed.covariance[0], covariance, rtol=1e-6)
