# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Regressions that latent states pick the weights of, against the best Gaussian."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns
from tests.data import make_svi, steps

RNG = np.random.default_rng(0)
STATES, SIZE, SEQUENCES, STEPS, POINTS = 2, 2, 3, 12, 9
X = np.stack([RNG.standard_normal((SEQUENCES, STEPS)), np.ones((SEQUENCES, STEPS))], -1)
TRUE = np.array([[3.0, 0.0], [-2.0, 1.0]])
Z = np.repeat(RNG.integers(0, STATES, (SEQUENCES, STEPS // 4)), 4, -1)
ETA = np.sum(TRUE[Z] * X, -1)
HEADS = np.asarray(RNG.random(ETA.shape) < 1 / (1 + np.exp(-ETA)), int)
COUNTS = RNG.poisson(np.exp(0.5 * ETA))
ROWS = np.array([[0.8, 0.2], [0.3, 0.7]])
FIRST = np.array([0.6, 0.4])

pytestmark = pytest.mark.filterwarnings("ignore:shape requires:DeprecationWarning")


def weights():
    with numpyro.plate("states", STATES):
        fn = dist.Normal(0.0, 1.5).expand([SIZE]).to_event(1)
        return numpyro.sample("w", fn)


def predictor(w, z, x):
    return jnp.sum(w[z] * x, -1)


def mixture():
    """Counts of one of two regressions."""
    w = weights()
    with numpyro.plate("steps", STEPS), numpyro.plate("sequences", SEQUENCES, dim=-2):
        z = numpyro.sample("z", dist.Categorical(FIRST))
        numpyro.sample("y", dist.Poisson(jnp.exp(predictor(w, z, X))), obs=COUNTS)


def one_site():
    """Choices by inputs, in states that last; one block of weights."""
    fn = dist.Normal(0.0, 1.5).expand([STATES, SIZE]).to_event(2)
    w = numpyro.sample("w", fn)
    with numpyro.plate("sequences", SEQUENCES):
        chain = ns.DiscreteMarkovChain(FIRST, ROWS, STEPS)
        eta = predictor(w, numpyro.sample("z", chain), X)
        numpyro.sample("y", dist.Bernoulli(logits=eta).to_event(1), obs=HEADS)


def scanned(w=None):
    """The same, as a scan whose first choice is a site of its own."""
    w = weights() if w is None else w

    def see(name, z, x, y):
        fn = dist.Bernoulli(logits=predictor(w, z, x))
        numpyro.sample(name, fn, obs=y)

    def step(z, given):
        with numpyro.plate("sequences", SEQUENCES):
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[z]))
            see("y", z, *given)
        return z, None

    with numpyro.plate("sequences", SEQUENCES):
        z = numpyro.sample("z0", dist.Categorical(FIRST))
        see("y0", z, X[:, 0], HEADS[:, 0])
    scan(step, z, (X.swapaxes(0, 1)[1:], HEADS.T[1:]))


def of_labels(table):
    return jnp.sum(jax.nn.logsumexp(jnp.log(FIRST) + table, -1))


def of_paths(table):
    """The log of the sum over all paths; the table is ``(sequences, steps, K)``."""
    alpha = jnp.log(FIRST) + table[:, 0]
    for t in range(1, STEPS):
        moved = alpha[..., None] + jnp.log(ROWS)
        alpha = jax.nn.logsumexp(moved, -2) + table[:, t]
    return jnp.sum(jax.nn.logsumexp(alpha, -1))


def count_terms(eta):
    return dist.Poisson(jnp.exp(eta)).log_prob(COUNTS[..., None])


def head_terms(eta):
    return dist.Bernoulli(logits=eta).log_prob(HEADS[..., None])


# the program, how many independent blocks its weights have, the log density of the
# data by predictor, and the sum over the states
CASES = {
    "mixture": (mixture, STATES, count_terms, of_labels),
    "one site": (one_site, 1, head_terms, of_paths),
    "scan": (scanned, STATES, head_terms, of_paths),
}


def best_gaussian(start, blocks, terms, total):
    """The mean, covariances and bound of the best Gaussian near a start, by BFGS."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(POINTS)
    masses = masses / np.sum(masses)
    size = STATES * SIZE
    own = size // blocks
    lower = np.tril_indices(own)

    def parts(flat):
        zeros = jnp.zeros((blocks, own, own))
        rest = flat[size:].reshape(blocks, -1)
        return flat[:size], zeros.at[:, lower[0], lower[1]].set(rest)

    def loss(flat):
        mean, tril = parts(flat)
        whole = jax.scipy.linalg.block_diag(*tril)
        maps = jnp.einsum("ka,nti->ntkai", jnp.eye(STATES), X)
        maps = maps.reshape(SEQUENCES, STEPS, STATES, size)
        sd = jnp.sqrt(jnp.sum((maps @ whole) ** 2, -1))
        values = jnp.stack([terms(maps @ mean + sd * node) for node in nodes])
        half = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(tril, axis1=-2, axis2=-1))))
        kl = 0.5 * (jnp.sum(whole**2) + mean @ mean) / 2.25 - 0.5 * size
        kl = kl + size * jnp.log(1.5) - half
        return kl - total(jnp.tensordot(masses, values, 1))

    tril = np.tile(0.5 * np.eye(own)[lower], blocks)
    both = jax.jit(jax.value_and_grad(loss))
    begin = np.r_[np.ravel(start) + 0.05, tril]
    found = minimize(lambda p: both(p), begin, jac=True, options={"gtol": 1e-8})
    mean, tril = parts(found.x)
    return mean, tril @ jnp.swapaxes(tril, -1, -2), found.fun


@pytest.mark.parametrize("name", CASES)
def test_the_fixed_point_is_the_best_gaussian(name, x64):
    model, blocks, terms, total = CASES[name]
    guide = ns.AutoSVAE(model, cubature=ns.Cubature(num_points=POINTS))
    params, losses = steps(make_svi(model, guide, natural=0.5), 100)
    assert "sends its gradient to 'w'" in str(guide.structure)
    own = params[guide._natural_name("w")].moments()
    mean, cov, loss = best_gaussian(own.mean, blocks, terms, total)
    np.testing.assert_allclose(losses[-1], loss, rtol=1e-7)
    np.testing.assert_allclose(own.mean.ravel(), mean, atol=1e-5)
    np.testing.assert_allclose(own.covariance.reshape(cov.shape), cov, atol=1e-5)
    drawn = guide.sample_posterior(random.PRNGKey(0), params, sample_shape=(2,))
    assert drawn["w"].shape[1:] == (STATES, SIZE)


def test_densities_of_the_first_state_of_a_scan_are_exact(x64):
    """Known weights: the loss is that of the sum over all paths."""

    def model():
        scanned(jnp.asarray(TRUE))

    guide = ns.AutoSVAE(model)
    _, losses = steps(make_svi(model, guide), 1)
    eta = np.einsum("ki,nti->ntk", TRUE, X)
    np.testing.assert_allclose(-losses[-1], of_paths(head_terms(eta)), rtol=1e-10)
