# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian weights of the logits of latent states, against the best Gaussian."""

import jax
from jax import random
from jax.nn import log_softmax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns
from tests.data import make_svi, steps

RNG = np.random.default_rng(0)
COUNT, STEPS = 20, 8
X = np.c_[RNG.standard_normal(COUNT), np.ones(COUNT)]
U = np.stack([RNG.standard_normal((3, STEPS)), np.ones((3, STEPS))], -1)
LOCS = jnp.array([-1.0, 1.5])
Y = np.asarray(LOCS)[np.asarray(X[:, 0] > 0.3, int)] + RNG.standard_normal(COUNT)
PATHS = np.asarray(LOCS)[RNG.integers(0, 2, (3, STEPS))] + RNG.standard_normal(
    (3, STEPS)
)
POINTS = 9


def proportions():
    """A logistic-normal prior of the weights of a mixture."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    with numpyro.plate("data", COUNT):
        z = numpyro.sample("z", dist.Categorical(logits=w))
        numpyro.sample("y", dist.Normal(LOCS[z], 1.0), obs=Y)


def experts():
    """Covariates say which component is likely."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.5).expand([2, 2]).to_event(2))
    with numpyro.plate("data", COUNT):
        z = numpyro.sample("z", dist.Categorical(logits=X @ w.T))
        numpyro.sample("y", dist.Normal(LOCS[z], 1.0), obs=Y)


def one_site():
    """Inputs say where a chain goes next; all sequences share the weights."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.5).expand([2, 2, 2]).to_event(3))
    logits = jnp.einsum("jki,nti->ntjk", w, U[:, 1:])
    with numpyro.plate("sequences", 3):
        steps = jax.nn.softmax(logits, -1)
        z = numpyro.sample("z", ns.DiscreteMarkovChain(jnp.ones(2) / 2, steps))
        fn = dist.Normal(LOCS[z], 1.0).to_event(1)
        numpyro.sample("y", fn, obs=PATHS)


def scanned():
    with numpyro.plate("states", 2):
        w = numpyro.sample("w", dist.Normal(0.0, 1.5).expand([2, 2]).to_event(2))

    def step(z, given):
        y, u = given
        with numpyro.plate("sequences", 3):
            logits = jnp.squeeze(w[z] @ u[..., None], -1)
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            numpyro.sample("y", dist.Normal(LOCS[z], 1.0), obs=y)
        return z, None

    with numpyro.plate("sequences", 3):
        z = numpyro.sample("z0", dist.Categorical(jnp.ones(2) / 2))
        numpyro.sample("y0", dist.Normal(LOCS[z], 1.0), obs=PATHS[:, 0])
    scan(step, z, (PATHS.T[1:], U.swapaxes(0, 1)[1:]))


def _of_labels(rows):
    return jnp.sum(jax.nn.logsumexp(rows + _seen(Y), -1))


def _seen(y):
    return dist.Normal(LOCS, 1.0).log_prob(y[..., None])


def _of_paths(rows):
    """The log of the sum over all paths of a chain; rows ``(3, T - 1, K, K)``."""
    seen, total = _seen(PATHS), 0.0
    for own, steps_of in zip(seen, rows):
        alpha = own[0] + jnp.log(0.5)
        for t in range(STEPS - 1):
            alpha = jax.nn.logsumexp(alpha[:, None] + steps_of[t], 0) + own[t + 1]
        total = total + jax.nn.logsumexp(alpha)
    return total


# each: the program, the shape of its weights, which of them are independent, the maps
# from weights to logits by position, and the sum over the states
EXPERTS = np.einsum("ki,nj->nkij", np.eye(2), X)
CHAINS = np.einsum("ja,kb,nti->ntjkabi", np.eye(2), np.eye(2), U[:, 1:])
CASES = {
    "proportions": (proportions, 1, np.eye(2), _of_labels),
    "experts": (experts, 1, EXPERTS.reshape(COUNT, 2, 4), _of_labels),
    "one site": (one_site, 1, CHAINS.reshape(3, STEPS - 1, 2, 2, 8), _of_paths),
    "scan": (scanned, 2, CHAINS.reshape(3, STEPS - 1, 2, 2, 8), _of_paths),
}


def best_gaussian(blocks, maps, total):
    """The mean, the covariances of independent blocks and the bound, by BFGS."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(POINTS)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    mass = np.outer(masses, masses).ravel() / np.sum(masses) ** 2
    size = maps.shape[-1]
    own = size // blocks
    rows, columns = np.tril_indices(own)

    def parts(flat):
        tril = (
            jnp.zeros((blocks, own, own))
            .at[:, rows, columns]
            .set(flat[size:].reshape(blocks, -1))
        )
        return flat[:size], tril

    def loss(flat):
        mean, tril = parts(flat)
        whole = jax.scipy.linalg.block_diag(*tril)
        spread = maps @ whole
        cov = spread @ jnp.swapaxes(spread, -1, -2)
        cov = cov + 1e-14 * jnp.eye(2)
        moves = jnp.einsum("...de,se->s...d", jnp.linalg.cholesky(cov), grid)
        logits = maps @ mean + moves
        rows_of = jnp.tensordot(mass, log_softmax(logits, -1), 1)
        half = 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(tril, axis1=-2, axis2=-1))))
        kl = 0.5 * (jnp.sum(whole**2) + mean @ mean) / 2.25 - 0.5 * size
        return kl + size * jnp.log(1.5) - 0.5 * half - total(rows_of)

    start = np.r_[np.zeros(size), np.tile(np.eye(own)[rows, columns], blocks)]
    both = jax.jit(jax.value_and_grad(loss))
    found = minimize(lambda p: both(p), start, jac=True, options={"gtol": 1e-8})
    mean, tril = parts(found.x)
    return mean, tril @ jnp.swapaxes(tril, -1, -2), found.fun


@pytest.mark.filterwarnings("ignore:shape requires:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_the_fixed_point_is_the_best_gaussian(name, x64):
    model, blocks, maps, total = CASES[name]
    guide = ns.AutoSVAE(model, cubature=ns.Cubature(num_points=POINTS), num_starts=1)
    params, losses = steps(make_svi(model, guide, natural=0.5), 60)
    assert "sends its gradient to 'w'" in str(guide.structure)
    mean, cov, loss = best_gaussian(blocks, maps, total)
    natural = params[guide._natural_name("w")]
    own = natural.moments()
    np.testing.assert_allclose(losses[-1], loss, rtol=1e-7)
    np.testing.assert_allclose(own.mean.ravel(), mean, atol=1e-5)
    np.testing.assert_allclose(own.covariance.reshape(cov.shape), cov, atol=1e-5)
    drawn = guide.sample_posterior(random.PRNGKey(0), params, sample_shape=(2,))
    assert drawn["w"].shape[1:] == jnp.shape(guide.median(params)["w"])


def _picked():
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    with numpyro.plate("data", COUNT):
        a = numpyro.sample("a", dist.Categorical(jnp.ones(2) / 2))
        z = numpyro.sample("z", dist.Categorical(logits=w[a]))
        numpyro.sample("y", dist.Normal(LOCS[z], 1.0), obs=Y)


def _shaped():
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    r = numpyro.sample("r", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", COUNT):
        fn = dist.NegativeBinomial2(jnp.exp(X @ w), r)
        numpyro.sample("y", fn, obs=np.arange(COUNT))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_picked, "'z'.*beside the weights 'w'.*in the place of 'a'"),
        (_shaped, "'y'.*'r' beside the weights 'w'.*exponential"),
    ],
)
def test_what_is_not_averaged_is_refused_by_name(model, message):
    with (
        pytest.raises(ValueError, match=f"(?s){message}"),
        handlers.seed(rng_seed=0),
    ):
        ns.AutoSVAE(model)()
