# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Log likelihoods of old and new data under fitted models, against closed forms."""

from contextlib import nullcontext
from functools import partial
from itertools import product

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask, scale
import pytest
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_normal, nbinom, norm, poisson

import numpyro_svae as ns
from tests.data import clusters, make_svi, sequences, steps
from tests.forecasting.dense import dense
from tests.graphs_of_sites import LOADING, NOISE, hierarchy
from tests.models import known_mixture, linear_lds, mixture

KEY = random.PRNGKey(5)


def fitted(model, *args):
    guide = ns.AutoSVAE(model, num_starts=1)
    params, losses = steps(make_svi(model, guide, natural=0.7), 3, *args)
    return guide, params, losses


def assert_exact(found, expected, num_particles):
    """All weights are equal, so that the bound is the likelihood."""
    np.testing.assert_allclose(found.value, expected, rtol=1e-9)
    np.testing.assert_allclose(found.bound, expected, rtol=1e-9)
    sizes = np.full(np.shape(expected), num_particles)
    np.testing.assert_allclose(found.effective_sample_size, sizes, rtol=1e-9)


def test_new_sequences_of_a_linear_system_have_their_dense_gaussian(x64):
    y, actions = sequences(steps=4)
    guide, params, _ = fitted(linear_lds, y, actions)
    new, inputs = sequences(count=3, steps=4, seed=1)
    found = ns.log_likelihood(
        linear_lds, guide, params, KEY, new, inputs, global_sites="mean"
    )
    blocks = guide.get_posterior(params)
    first = ns.NormalInverseWishart.unpack(blocks["init"].mean)
    F, Q = ns.MatrixNormalInverseWishart.unpack(blocks["dynamics"].mean)
    C, R = ns.MatrixNormalInverseWishart.unpack(blocks["emission"].mean)
    expected = []
    for path, pushes in zip(new, inputs):
        whole = dense(first, pushes @ F[:, 2:].T, F[:, :2], Q, C[:, :2], C[:, 2], R)
        flat = np.asarray(path).ravel()
        expected.append(multivariate_normal.logpdf(flat, *whole.observations(range(4))))
    assert_exact(found, expected, 20)


def words(y):
    """A hidden Markov model of two states and three symbols."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("states", 2):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.array([2.0, 1.0])))
        symbols = numpyro.sample("symbols", dist.Dirichlet(jnp.array([1.0, 2.0, 1.5])))
    with numpyro.plate("sequences", len(y)):
        chain = ns.DiscreteMarkovChain(weights, rows, num_steps=y.shape[1])
        z = numpyro.sample("z", chain)
        numpyro.sample("y", dist.Categorical(symbols[z]).to_event(1), obs=y)


def test_labels_of_a_hidden_markov_model_are_summed_over_all_paths(x64):
    y = jnp.asarray(np.random.default_rng(0).integers(0, 3, (6, 5)))
    guide, params, _ = fitted(words, y[:4])
    found = ns.log_likelihood(
        words, guide, params, KEY, y[3:], global_sites="mean", num_particles=2
    )
    weights, rows, symbols = (
        np.asarray(guide.get_posterior(params)[name].mean)
        for name in ("weights", "rows", "symbols")
    )
    expected = np.zeros(3)
    for z in product(range(2), repeat=5):
        path = weights[z[0]] * np.prod(rows[z[:-1], z[1:]])
        expected += path * np.prod(symbols[z, y[3:]], -1)
    assert_exact(found, np.log(expected), 2)


def test_vectors_of_a_mixture_have_its_density(x64):
    y, _ = clusters(20)
    guide, params, _ = fitted(mixture, y)
    new = clusters(7, seed=1)[0]
    args = mixture, guide, params, KEY, new
    found = ns.log_likelihood(*args, global_sites="mean", num_particles=3)
    blocks = guide.get_posterior(params)
    loc, cov = ns.NormalInverseWishart.unpack(blocks["components"].mean)
    parts = [
        np.log(w) + multivariate_normal(m, S).logpdf(new)
        for w, m, S in zip(blocks["weights"].mean, loc, cov)
    ]
    assert_exact(found, logsumexp(parts, 0), 3)


@pytest.mark.parametrize("mean_field", [False, True], ids=["joint", "independent"])
def test_draws_of_an_approximate_posterior_are_weighed(mean_field, x64):
    """One draw of an exact posterior is enough; others are as many as are asked for."""
    y = jnp.array([[0.2, 0.1], [1.0, 0.4], [-0.6, 1.2]])
    model = partial(known_mixture, noise=0.1)
    guide = ns.AutoSVAE(model, mean_field=mean_field)
    make_svi(model, guide).init(KEY, y)
    found = ns.log_likelihood(model, guide, {}, KEY, y, num_particles=2000)
    parts = (
        (0.5, [0.0, 0.0], 0.5),
        (0.3, [1.5, 0.5], 1.0),
        (0.2, [-1.0, 2.0], 0.7),
    )
    logs = [
        np.log(weight) + multivariate_normal(loc, (scale + 0.1) * np.eye(2)).logpdf(y)
        for weight, loc, scale in parts
    ]
    expected = logsumexp(logs, 0)
    if not mean_field:
        return assert_exact(found, expected, 2000)
    np.testing.assert_allclose(found.value, expected, atol=0.05)
    assert np.all(found.bound < expected - 0.01)
    assert np.all(found.effective_sample_size < 1999)


@pytest.mark.parametrize("on", ["latent", "observed", "both", "mask"])
def test_draws_of_what_counts_otherwise_in_inference_are_weighed(on, x64):
    """The guide's posterior is tempered, and the weights are those of all data once."""
    y = jnp.array([0.2, 1.0, -1.6])

    def model(y, half, seen):
        apart = {"latent": "z", "observed": "y", "both": "zy", "mask": ""}[on]
        counts = {n: scale(scale=half) for n in apart}
        counts |= {"z": mask(mask=seen)} if on == "mask" else {}
        with numpyro.plate("data", len(y)):
            with counts.get("z", nullcontext()):
                z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
            with counts.get("y", nullcontext()):
                numpyro.sample("y", dist.Normal(jnp.array([0.0, 1.0])[z], 0.5), obs=y)

    guide = ns.AutoSVAE(model)
    args = y, jnp.array(0.5), jnp.array([True, False, True])
    make_svi(model, guide).init(KEY, *args)
    found = ns.log_likelihood(model, guide, {}, KEY, *args, num_particles=2000)
    expected = np.log(0.3 * norm(0, 0.5).pdf(y) + 0.7 * norm(1, 0.5).pdf(y))
    if on == "both":
        return assert_exact(found, expected, 2000)
    given = np.array([0, 2] if on == "mask" else [0, 1, 2])
    np.testing.assert_allclose(found.value[given], expected[given], atol=0.05)
    assert np.any(found.effective_sample_size < 1990)


def test_members_of_a_graph_have_the_density_of_their_group(x64):
    """Groups are apart from each other, and what is drawn of each has its density."""
    y = np.random.default_rng(2).standard_normal((2, 3, 3))  # members, groups
    guide, params, _ = fitted(hierarchy, y)
    found = ns.log_likelihood(hierarchy, guide, params, KEY, y, num_particles=2)
    of_group, own = LOADING @ LOADING.T, NOISE * np.eye(3)
    covariance = np.kron(np.ones((2, 2)), of_group)
    covariance += np.kron(np.eye(2), 0.5 * of_group + own)
    groups = np.moveaxis(y, 1, 0).reshape(3, 6)
    assert_exact(found, multivariate_normal(np.zeros(6), covariance).logpdf(groups), 2)


def test_vectors_of_a_group_share_the_label_that_picks_them(x64):
    """The label has no axis of members; the posterior of all is exact."""
    y = jnp.asarray(np.random.default_rng(4).standard_normal((4, 3, 2)))
    weights, scales = np.array([0.3, 0.7]), np.array([1.0, 0.5])
    locs = np.array([[0.0, 0.0], [1.0, -1.0]])

    def model(y):
        covs = jnp.asarray(scales)[:, None, None] * jnp.eye(2)
        groups = numpyro.plate("groups", 3)
        with groups:
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(weights)))
        with numpyro.plate("members", 4, dim=-2), groups:
            prior = dist.MultivariateNormal(jnp.asarray(locs)[z], covs[z])
            x = numpyro.sample("x", prior)
            noise = 0.1 * jnp.eye(2)
            numpyro.sample("y", dist.MultivariateNormal(x, noise), obs=y)

    guide = ns.AutoSVAE(model)
    make_svi(model, guide).init(KEY, y)
    found = ns.log_likelihood(model, guide, {}, KEY, y, num_particles=2)
    logs = [
        np.log(w) + multivariate_normal(loc, (s + 0.1) * np.eye(2)).logpdf(y).sum(0)
        for w, loc, s in zip(weights, locs, scales)
    ]
    assert_exact(found, logsumexp(logs, 0), 2)


def movements(y):
    """An autoregressive hidden Markov model with known parameters."""
    matrices = jnp.array([[[0.9]], [[-0.5]]])
    noise = jnp.array([[[0.1]], [[0.4]]])
    with numpyro.plate("sequences", len(y)):
        steps = y.shape[1] - 1
        chain = ns.DiscreteMarkovChain(
            jnp.array([0.6, 0.4]), jnp.array([[0.8, 0.2], [0.3, 0.7]]), num_steps=steps
        )
        z = numpyro.sample("z", chain)
        start = jnp.zeros(1), jnp.eye(1)
        path = ns.LinearGaussianChain(*start, matrices[z], noise[z])
        numpyro.sample("y", path, obs=y)


def test_the_future_of_an_autoregressive_model_is_a_difference(x64):
    y = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 1)))
    guide = ns.AutoSVAE(movements)
    whole, past = (
        ns.log_likelihood(movements, guide, {}, KEY, part, num_particles=2)
        for part in (y, y[:, :3])
    )
    first, rows = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
    joint = np.zeros((2, 2))  # after three values and after five
    for z in product(range(2), repeat=4):
        terms = np.array([0.9, -0.5])[list(z)] * y[:, :-1, 0]
        scale = np.sqrt(np.array([0.1, 0.4])[list(z)])
        density = np.cumprod(norm(terms, scale).pdf(y[:, 1:, 0]), -1)
        path = first[z[0]] * np.prod(rows[z[:-1], z[1:]])
        joint[0] += path * density[:, 1]
        joint[1] += path * density[:, 3]
    found = whole.value - past.value
    np.testing.assert_allclose(found, np.log(joint[1] / joint[0]), rtol=1e-9)


def rates(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def test_draws_of_a_rate_give_the_predictive_density_and_the_bound(x64):
    """The predictive is negative binomial, and the bound is the evidence or less."""
    y = jnp.asarray(np.random.default_rng(0).poisson(3.0, 12))
    guide, params, losses = fitted(rates, y)
    (natural,) = params.values()
    args = rates, guide, params, KEY, y
    found = ns.log_likelihood(*args, num_samples=4000, num_particles=1)
    rate = float(natural.rate)
    predictive = nbinom(float(natural.concentration), rate / (rate + 1))
    np.testing.assert_allclose(found.value, predictive.logpmf(y), atol=0.02)
    bound = float(found.bound.sum() - found.divergence)
    np.testing.assert_allclose(bound, -losses[-1], atol=0.1)
    evidence = gammaln(2 + y.sum()) + 2 * np.log(1.5) - gammaln(y + 1).sum()
    evidence -= gammaln(2) + (2 + y.sum()) * np.log(1.5 + len(y))
    assert bound < evidence + 0.1
    assert np.all(found.value > found.bound)


def counts(y, seen):
    """A vector of one dimension that is seen through two Poisson counts."""
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)))
        fn = dist.Poisson(jnp.exp(x @ jnp.array([[1.0, -0.5]]) + 0.7))
        numpyro.sample("y", fn.mask(seen).to_event(1), obs=y)


def test_counts_are_weighed_to_what_quadrature_says(x64):
    """So are those of a hidden output given the other one, as a difference."""
    y = jnp.array([[0.0, 3.0], [2.0, 2.0], [9.0, 1.0]])
    guide, params, losses = fitted(counts, y, jnp.array([True, True]))

    def score(first, second):
        seen = jnp.array([first, second])
        args = counts, guide, params, KEY, y, seen
        return ns.log_likelihood(*args, num_particles=2000)

    both, other = score(True, True), score(False, True)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    rate = np.exp(nodes[:, None] * np.array([1.0, -0.5]) + 0.7)
    terms = poisson(rate[:, None]).logpmf(y)
    prior = np.log(weights / weights.sum())[:, None]
    whole = logsumexp(terms.sum(-1) + prior, 0)
    rest = logsumexp(terms[..., 1] + prior, 0)
    np.testing.assert_allclose(both.value, whole, atol=0.01)
    np.testing.assert_allclose(both.value - other.value, whole - rest, atol=0.02)
    np.testing.assert_allclose(both.bound.sum(), -losses[-1], atol=0.05)
    assert np.all(both.bound < both.value) and both.divergence == 0
    assert np.all(both.effective_sample_size > 1500)
    assert np.all(both.effective_sample_size < 1999)
    nothing = score(False, False)
    np.testing.assert_allclose(nothing.value, 0.0, atol=1e-6)


def test_what_is_not_accepted_is_named():
    y = jnp.array([1.0, 2.0])
    guide, params, _ = fitted(rates, y)
    args = rates, guide, params, KEY, y
    with pytest.raises(ValueError, match="global_sites: found 'median'"):
        ns.log_likelihood(*args, global_sites="median")
    with pytest.raises(ValueError, match="num_particles: found 0"):
        ns.log_likelihood(*args, num_particles=0)


def wide(y):
    """A covariance whose posterior of one datum has no mean."""
    prior = ns.NormalInverseWishart(jnp.zeros(2), 1.0, 1.5, jnp.eye(2))
    loc, cov = ns.sample("component", prior)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(loc, cov), obs=y)


def test_a_posterior_without_a_mean_is_refused_by_its_name():
    y = jnp.ones((1, 2))
    guide, params, _ = fitted(wide, y)
    with pytest.raises(ValueError, match=r"Site 'component.*no mean"):
        ns.log_likelihood(wide, guide, params, KEY, y, global_sites="mean")
    assert np.isfinite(ns.log_likelihood(wide, guide, params, KEY, y).value).all()
