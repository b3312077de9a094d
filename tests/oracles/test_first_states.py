# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""First states of paths that depend on latent vectors.

Path and vector are independent under the guide. The best product of two parts of a
Gaussian has its means, and the bound is below the evidence by half of the log
determinants of the two diagonal blocks of the precision less that of the whole.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

pytestmark = [
    pytest.mark.x64,
    # NumPyro's scan looks at the shapes of parameters that are pytrees
    pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning"),
]

N, T, D = 2, 4, 2
RNG = np.random.default_rng(0)
Y, SEEN = RNG.standard_normal((N, T, D)), RNG.standard_normal((N, D))
MAP = np.array([[0.8, -0.5], [0.4, 1.2]])
MATRIX = np.array([[0.8, 0.2], [-0.1, 0.7]])
SHIFT, START, STEP, NOISE = 0.7, 0.4, 0.3, 0.5


def vector():
    return numpyro.sample("u", dist.MultivariateNormal(jnp.ones(D), jnp.eye(D)))


def first(u):
    return u @ MAP.T + SHIFT


def path(y, u):
    cov, noise = START * jnp.eye(D), STEP * jnp.eye(D)
    chain = ns.LinearGaussianChain(first(u), cov, MATRIX, noise, num_steps=T)
    x = numpyro.sample("x", chain)
    numpyro.sample("y", dist.Normal(x, NOISE).to_event(2), obs=y)


def one_site(y):
    with numpyro.plate("data", N):
        path(y, vector())


def seen_too(y):
    with numpyro.plate("data", N):
        u = vector()
        numpyro.sample("seen", dist.Normal(u, NOISE).to_event(1), obs=SEEN)
        path(y, u)


def scanned(y):
    def observe(name, x, y):
        numpyro.sample(name, dist.Normal(x, NOISE).to_event(1), obs=y)

    def step(x, y):
        with numpyro.plate("data", N):
            normal = dist.MultivariateNormal(x @ MATRIX.T, STEP * jnp.eye(D))
            x = numpyro.sample("x", normal)
            observe("y", x, y)
        return x, None

    with numpyro.plate("data", N):
        u = vector()
        start = dist.MultivariateNormal(first(u), START * jnp.eye(D))
        x = numpyro.sample("x0", start)
        observe("y0", x, y[:, 0])
    scan(step, x, jnp.moveaxis(y[:, 1:], 1, 0))


def shared(y):
    u = vector()
    with numpyro.plate("data", N):
        path(y, u)


def precision_of(paths, seen):
    """Of ``(u, paths)``, and the linear term and constant of the log joint density."""
    size = D * (1 + T * paths)
    rows, targets, variances = [], [], []

    def add(matrix, target, variance):
        rows.append(matrix)
        targets.append(target)
        variances.append(np.full(D, variance))

    def block(index):
        return np.eye(D, size, index * D)

    add(block(0), np.ones(D), 1.0)
    for n in range(paths):
        at = [block(1 + n * T + t) for t in range(T)]
        add(at[0] - MAP @ block(0), np.full(D, SHIFT), START)
        for before, after in pairwise(at):
            add(after - MATRIX @ before, np.zeros(D), STEP)
        for t in range(T):
            add(at[t], (n, t), NOISE**2)
    if seen:
        add(block(0), "seen", NOISE**2)
    return rows, targets, variances


def expected(y, paths, seen):
    """The bound of the best product, and the means of the joint posterior."""
    rows, targets, variances = precision_of(paths, seen)
    bound, means = 0.0, []
    for start in range(0, N, paths):
        own = y[start : start + paths]

        def value(target, own=own, start=start):
            if isinstance(target, str):
                return SEEN[start]
            return own[target] if isinstance(target, tuple) else target

        matrix, variance = np.concatenate(rows), np.concatenate(variances)
        target = np.concatenate([value(t) for t in targets])
        weighted = matrix / variance[:, None]
        precision, info = matrix.T @ weighted, weighted.T @ target
        mean = np.linalg.solve(precision, info)
        whole = np.linalg.slogdet(precision)[1]
        count = len(target) - len(info)
        fit = target - matrix @ mean
        evidence = -0.5 * (np.sum(np.log(variance)) + whole + fit @ (fit / variance))
        evidence -= 0.5 * count * np.log(2 * np.pi)
        parts = precision[:D, :D], precision[D:, D:]
        apart = sum(np.linalg.slogdet(part)[1] for part in parts)
        bound += evidence - 0.5 * (apart - whole)
        means.append(mean)
    return bound, np.array(means)


@pytest.mark.parametrize(
    ("model", "paths", "seen"),
    [
        (one_site, 1, False),
        (seen_too, 1, True),
        (scanned, 1, False),
        (shared, N, False),
    ],
    ids=["one-site", "seen-too", "scan", "shared"],
)
def test_the_best_product_of_a_vector_and_a_path_that_starts_at_it(model, paths, seen):
    guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(tolerance=1e-12))
    svi = make_svi(model, guide)
    state = svi.init(jax.random.PRNGKey(0), Y)
    bound, means = expected(Y, paths, seen)
    np.testing.assert_allclose(-svi.evaluate(state, Y), bound, rtol=1e-9)
    marginals = guide.posterior_local(svi.get_params(state), Y)
    found = np.asarray(marginals["u"].mean).reshape(-1, D)
    np.testing.assert_allclose(found, means[:, :D], atol=1e-8)
    found = np.asarray(marginals["x"].mean).reshape(means[:, D:].shape)
    np.testing.assert_allclose(found, means[:, D:], atol=1e-8)


def test_a_first_state_with_learnt_weights_is_in_the_textbook_form():
    """Statistics of the block are those of the first states on the vectors."""

    def model(y):
        prior = ns.MatrixNormalInverseWishart(
            jnp.zeros((D, D)), jnp.eye(D), 5.0, jnp.eye(D)
        )
        weight, cov = ns.sample("start", prior)
        with numpyro.plate("data", N):
            u, noise = vector(), STEP * jnp.eye(D)
            chain = ns.LinearGaussianChain(
                u @ weight.T, cov, MATRIX, noise, num_steps=T
            )
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(x, NOISE).to_event(2), obs=y)

    guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(tolerance=1e-12))
    svi = make_svi(model, guide)
    state = svi.init(jax.random.PRNGKey(0), Y)
    before = guide.posterior_local(svi.get_params(state), Y)
    state, _ = svi.update(state, Y)
    natural = next(iter(svi.get_params(state).values()))
    u, x = before["u"], before["x"]
    start = x.mean[:, 0]
    np.testing.assert_allclose(natural.vu, start.T @ u.mean, rtol=1e-7)
    spread = start.T @ start + x.covariance[:, 0].sum(0)
    np.testing.assert_allclose(natural.vv - jnp.eye(D), spread, rtol=1e-7)


def test_a_first_state_that_is_the_vector_is_refused():
    def model(y):
        with numpyro.plate("data", N):
            u, noise = vector(), STEP * jnp.eye(D)
            chain = ns.LinearGaussianChain(u, 0.0 * noise, MATRIX, noise, num_steps=T)
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(x, NOISE).to_event(2), obs=y)

    with pytest.raises(
        ValueError, match=r"'x' .*initial_loc that depends on latent 'u'"
    ):
        make_svi(model, ns.AutoSVAE(model)).init(jax.random.PRNGKey(0), Y)
