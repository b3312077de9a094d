# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""BayesPy's own examples of independent priors: the same fixed points and bounds.

BayesPy updates one node after the other, and steps here move all blocks at once, so
the paths differ and what they end in is compared.
"""

from functools import partial
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from tests.data import clusters, make_svi, steps
from tests.independent import (
    linear_regression,
    mean_and_precision,
    mixture,
    principal_components,
    relevant_dynamics,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bayespy.inference import VB
    from bayespy.nodes import (
        Add,
        Categorical,
        Dirichlet,
        Gamma,
        Gaussian,
        GaussianARD,
        GaussianMarkovChain,
        Mixture,
        SumMultiply,
        Wishart,
    )

pytestmark = pytest.mark.filterwarnings("ignore")


def learnt(model, *args, count=100):
    """The posterior, the bound and the guide, after steps of one half."""
    guide = ns.AutoSVAE(model)
    svi = make_svi(model, guide, natural=0.5)
    params, losses = steps(svi, count, *(jnp.asarray(a) for a in args))
    return guide.get_posterior(params), -float(losses[-1])


def converged(count, *nodes):
    """The bound after sweeps over nodes."""
    inference = VB(*nodes)
    inference.update(repeat=count, tol=0, verbose=False)
    return inference.L[inference.iter - 1]


def assert_gamma(found, node):
    np.testing.assert_allclose(found.concentration, node.phi[1], rtol=1e-6)
    np.testing.assert_allclose(found.rate, -node.phi[0], rtol=1e-6)


def test_normal_mean_and_gamma_precision(x64):
    y = 1.0 + np.random.default_rng(0).standard_normal(9)
    mu, tau = GaussianARD(0.5, 1 / 9), Gamma(2.0, 1.5)
    node = GaussianARD(mu, tau, plates=(9,))
    node.observe(y)
    bound = converged(60, node, mu, tau)
    posterior, found = learnt(mean_and_precision, y)
    np.testing.assert_allclose(found, bound, rtol=1e-9)
    np.testing.assert_allclose(posterior["mu"].mean, mu.u[0], rtol=1e-7)
    assert_gamma(posterior["tau"], tau)


def test_linear_regression(x64):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 2))
    y = x @ [1.0, -2.0] + 0.4 * rng.standard_normal(12)
    w = GaussianARD(0.0, 1 / 4, shape=(2,))
    b, tau = GaussianARD(0.3, 1 / 25, shape=(1,)), Gamma(2.0, 1.5)
    mean = Add(SumMultiply("i,i", w, x), SumMultiply("i,i", b, np.ones(1)))
    node = GaussianARD(mean, tau)
    node.observe(y)
    bound = converged(200, node, w, b, tau)
    posterior, found = learnt(linear_regression, y, x)
    np.testing.assert_allclose(found, bound, rtol=1e-9)
    np.testing.assert_allclose(posterior["w"].mean, w.u[0], rtol=1e-6)
    np.testing.assert_allclose(posterior["b"].mean, b.u[0][0], rtol=1e-6)
    assert_gamma(posterior["noise"], tau)


def test_mixture_of_independent_means_and_precisions(x64):
    y, labels = (np.asarray(a) for a in clusters(18))
    alpha = Dirichlet(np.ones(3))
    z = Categorical(alpha, plates=(len(y),))
    mu = Gaussian(np.zeros(2), np.eye(2) / 16, plates=(3,))
    precision = Wishart(4.0, np.eye(2), plates=(3,))
    node = Mixture(z, Gaussian, mu, precision)
    node.observe(y)
    z.initialize_from_value(labels)
    bound = converged(100, node, mu, precision, alpha, z)
    posterior, found = learnt(partial(mixture, noise="matrix"), y)
    np.testing.assert_allclose(found, bound, rtol=1e-8)
    ours, theirs = posterior["mu"].mean, mu.u[0]
    order, expected = np.argsort(ours[:, 0]), np.argsort(theirs[:, 0])
    np.testing.assert_allclose(ours[order], theirs[expected], rtol=1e-5)
    cov = posterior["cov"]
    df = np.asarray(cov.base_dist.concentration)[order]
    np.testing.assert_allclose(df, 2 * precision.phi[1][expected] * 1.0, rtol=1e-5)


def test_dynamics_with_relevance(x64):
    """The transition of a chain, which has no conjugate noise."""
    time = 0.5 * np.arange(12)
    y = 2 * np.stack([np.sin(time), np.cos(time)], -1)
    y = y + 0.3 * np.random.default_rng(3).standard_normal((12, 2))
    posterior, found = learnt(relevant_dynamics, y, count=150)
    alpha = Gamma(2.0, 1.0, plates=(2,))
    a = GaussianARD(0, alpha, shape=(2,), plates=(2,))
    x = GaussianMarkovChain(np.zeros(2), np.eye(2), a, np.ones(2), n=12)
    node = GaussianARD(SumMultiply("i,i", np.eye(2)[:, None], x), 4.0)
    node.observe(y.T)
    a.initialize_from_value(np.asarray(posterior["a"].mean))
    bound = converged(150, node, x, a, alpha)
    np.testing.assert_allclose(found, bound, rtol=1e-8)
    np.testing.assert_allclose(posterior["a"].mean, a.u[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(posterior["alpha"].mean, alpha.u[0], rtol=1e-5)


def test_principal_components_with_relevance(x64):
    """BayesPy's example: a precision for each column of the loadings."""
    rng = np.random.default_rng(2)
    y = rng.standard_normal((16, 1)) * [2.0, -1.0, 0.5] + 0.2 * rng.standard_normal(
        (16, 3)
    )
    model = partial(principal_components, dim=2, mean=False)
    posterior, found = learnt(model, y, count=600)
    x = GaussianARD(0, 1, plates=(1, 16), shape=(2,))
    alpha = Gamma(1e-3, 1e-3, plates=(2,))
    w = GaussianARD(0, alpha, plates=(3, 1), shape=(2,))
    tau = Gamma(1e-3, 1e-3)
    node = GaussianARD(SumMultiply("i,i", w, x), tau)
    node.observe(y.T)
    w.initialize_from_value(np.asarray(posterior["w"].mean)[:, None])
    bound = converged(600, node, x, w, alpha, tau)
    np.testing.assert_allclose(found, bound, rtol=1e-6)
    np.testing.assert_allclose(posterior["w"].mean, w.u[0][:, 0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(posterior["alpha"].mean, alpha.u[0], rtol=1e-3)
    np.testing.assert_allclose(posterior["tau"].mean, tau.u[0], rtol=1e-4)
