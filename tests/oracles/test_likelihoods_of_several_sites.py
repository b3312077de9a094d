# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Likelihoods that are not conjugate, of several latent sites, discrete ones too."""

from itertools import product

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns
from tests.data import make_svi

KEY = random.PRNGKey(0)
EXACT = ns.FixedPoint(max_sweeps=500, tolerance=1e-22)
RNG = np.random.default_rng(0)
N, T, K, D, P = 2, 4, 2, 2, 4
LOADINGS = RNG.standard_normal((K, D, P))
PROBS = np.array([0.3, 0.7])
ROWS = np.array([[0.8, 0.2], [0.4, 0.6]])
COUNTS = 1.0 * RNG.poisson(2.0, (N, P))
PATHS = 1.0 * RNG.poisson(2.0, (N, T, P))


def loss_of(guide, model, *args):
    return ns.SVAE_ELBO().loss(KEY, {}, model, guide, *args)


def exact_guide(model, **options):
    guide = ns.AutoSVAE(model, fixed_point=EXACT, **options)
    guide.watch.noticed.add("ascent")
    return guide


def black_box(loss, size):
    """The smallest loss, and where it is."""
    both = jax.jit(jax.value_and_grad(loss))

    def at(x):
        value, slope = jax.device_get(both(x))
        return float(value), np.asarray(slope, float)

    found = minimize(at, np.zeros(size), jac=True, tol=1e-13)
    return found.fun, found.x


def count_mixture(y):
    """Factor models, one for each label."""
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(PROBS))
        x = numpyro.sample("x", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
        rate = jnp.exp(jnp.einsum("nd,ndp->np", x, jnp.asarray(LOADINGS)[z]))
        numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


def test_label_and_vector_have_the_best_product(x64):
    guide = exact_guide(count_mixture)
    loss = loss_of(guide, count_mixture, COUNTS)
    found = guide.posterior_local({}, COUNTS)
    points, weights = ns.Cubature().points(D)
    total = 0.0
    for n in range(N):

        def negative(flat, y=COUNTS[n]):
            probs = jax.nn.softmax(jnp.append(flat[0], 0.0))
            tril = jnp.diag(jnp.exp(flat[3:5])).at[1, 0].set(flat[5])
            x = flat[1:3] + points @ tril.T
            terms = dist.Poisson(jnp.exp(x @ LOADINGS)).log_prob(y).sum(-1)
            own = dist.MultivariateNormal(flat[1:3], scale_tril=tril)
            prior = dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D))
            divergence = dist.kl_divergence(own, prior)
            divergence += jnp.sum(probs * jnp.log(probs / PROBS))
            return divergence - probs @ (terms @ weights)

        value, at = black_box(negative, 6)
        total += value
        np.testing.assert_allclose(found["x"].mean[n], at[1:3], atol=1e-5)
        probs = jax.nn.softmax(jnp.append(at[0], 0.0))
        np.testing.assert_allclose(found["z"].probs[n], probs, atol=1e-5)
    np.testing.assert_allclose(loss, total, rtol=1e-8)


def spread(loc):
    """A normal distribution that is not read as one."""
    one = dist.Categorical(jnp.ones((1,)))
    return dist.MixtureSameFamily(one, dist.Normal(loc[..., None], 1.5))


def switching(y, fn):
    """Paths of states and of vectors, of which the states pick a loading."""
    eye = jnp.eye(D)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(PROBS, ROWS, T))
        chain = ns.LinearGaussianChain(
            jnp.zeros(D), eye, 0.9 * eye, 0.3 * eye, num_steps=T
        )
        x = numpyro.sample("x", chain)
        loc = jnp.einsum("ntd,ntdp->ntp", x, jnp.asarray(LOADINGS)[z])
        numpyro.sample("y", fn(loc).to_event(2), obs=y)


def test_what_is_gaussian_by_state_is_the_conjugate_site(x64):
    """Messages to both paths are the closed forms."""
    losses, found = [], []
    for fn in (lambda loc: dist.Normal(loc, 1.5), spread):
        guide = exact_guide(switching)
        losses.append(loss_of(guide, switching, PATHS, fn))
        found.append(guide.posterior_local({}, PATHS, fn))
    np.testing.assert_allclose(*losses, rtol=1e-10)
    one, other = found
    np.testing.assert_allclose(one["z"].probs, other["z"].probs, atol=1e-8)
    np.testing.assert_allclose(one["x"].mean, other["x"].mean, atol=1e-8)
    np.testing.assert_allclose(one["x"].variance, other["x"].variance, rtol=1e-8)


def crossed(y):
    """Counts of what groups and their members have each."""
    with numpyro.plate("groups", y.shape[0], dim=-2):
        b = numpyro.sample("b", dist.Normal(jnp.zeros(1), 0.5).to_event(1))
        with numpyro.plate("members", y.shape[1], dim=-1):
            x = numpyro.sample("x", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
            rate = jnp.exp(x + b * jnp.array([1.0, -0.5]))
            numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


def test_vectors_of_several_plates_have_the_best_product(x64):
    y = 1.0 * RNG.poisson(2.0, (1, 2, 2))
    guide = exact_guide(crossed)
    loss = loss_of(guide, crossed, y)
    found = guide.posterior_local({}, y)

    def negative(flat):
        mean, scale = flat[:3], jnp.exp(flat[3:])
        weight = jnp.array([1.0, -0.5])
        loc = mean[:2, None] + mean[2] * weight
        variance = scale[:2, None] ** 2 + (scale[2] * weight) ** 2
        terms = y[0] * loc - jnp.exp(loc + 0.5 * variance)
        terms = terms - jax.scipy.special.gammaln(y[0] + 1)
        own = dist.Normal(mean, scale)
        prior = dist.Normal(0.0, jnp.array([1.0, 1.0, 0.5]))
        return jnp.sum(dist.kl_divergence(own, prior)) - jnp.sum(terms)

    value, at = black_box(negative, 6)
    np.testing.assert_allclose(loss, value, rtol=1e-6)
    np.testing.assert_allclose(found["x"].mean[0, :, 0], at[:2], atol=1e-5)
    np.testing.assert_allclose(found["b"].mean[0, 0, 0], at[2], atol=1e-5)


# discrete sites alone, whose table is exact

FEATURES = RNG.standard_normal((K, P))


def labelled(y, size=None):
    """A label that picks the weights of a regression that is known."""
    weight = numpyro.param("weight", jnp.asarray(FEATURES))
    with numpyro.plate("data", len(y), subsample_size=size) as index:
        z = numpyro.sample("z", dist.Categorical(PROBS))
        fn = dist.Poisson(jnp.exp(weight[z] @ (LOADINGS[0].T @ LOADINGS[0])))
        numpyro.sample("y", fn.to_event(1), obs=y[index])


def test_labels_with_weights_that_are_known(x64):
    guide = ns.AutoSVAE(labelled)
    rates = jnp.exp(FEATURES @ (LOADINGS[0].T @ LOADINGS[0]))
    terms = dist.Poisson(rates).log_prob(COUNTS[:, None]).sum(-1)
    evidence = jax.nn.logsumexp(terms + jnp.log(PROBS), -1)
    loss = loss_of(guide, labelled, COUNTS)
    np.testing.assert_allclose(loss, -jnp.sum(evidence), rtol=1e-10)
    half = [
        loss_of(
            ns.AutoSVAE(numpyro.handlers.substitute(labelled, data={"data": i})),
            numpyro.handlers.substitute(labelled, data={"data": i}),
            COUNTS,
            1,
        )
        for i in (jnp.array([0]), jnp.array([1]))
    ]
    np.testing.assert_allclose(np.mean(half), loss, rtol=1e-10)


def heavy_tailed(y, lengths, mask):
    loc = jnp.array([-1.0, 2.0])
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(PROBS, ROWS, T, lengths=lengths))
        fn = dist.StudentT(3.0, loc[z], 0.7).mask(mask)
        numpyro.sample("y", fn.to_event(1), obs=y)


def test_states_with_tails_that_are_heavy(x64):
    """Beside the sum over all paths, of different lengths and with steps missing."""
    y = jnp.asarray(RNG.standard_normal((2, T)))
    mask, lengths = jnp.asarray(RNG.random((2, T)) < 0.7), jnp.array([4, 3])
    mask = mask & (jnp.arange(T) < lengths[:, None])
    guide, total = ns.AutoSVAE(heavy_tailed), 0.0
    loss = loss_of(guide, heavy_tailed, y, lengths, mask)
    fn = dist.StudentT(3.0, jnp.array([-1.0, 2.0]), 0.7)
    for n in range(2):
        terms = np.where(mask[n, :, None], fn.log_prob(y[n, :, None]), 0.0)
        paths = []
        for z in product(range(K), repeat=int(lengths[n])):
            steps = np.log(ROWS)[z[:-1], z[1:]].sum()
            seen = terms[np.arange(len(z)), z].sum()
            paths.append(np.log(PROBS[z[0]]) + steps + seen)
        total += jax.nn.logsumexp(jnp.array(paths))
    np.testing.assert_allclose(loss, -total, rtol=1e-10)


def test_states_that_are_seen_together_are_refused():
    def smeared(y):
        with numpyro.plate("data", N):
            z = numpyro.sample("z", ns.DiscreteMarkovChain(PROBS, ROWS, T))
            x = numpyro.sample("x", dist.Normal(jnp.zeros(P), 1.0).to_event(1))
            loc = x[:, None] * jnp.cumsum(1.0 + z, -1)[..., None]
            numpyro.sample("y", dist.Poisson(jnp.exp(loc)).to_event(2), obs=y)

    with pytest.raises(ValueError) as caught:
        make_svi(smeared, ns.AutoSVAE(smeared)).init(KEY, PATHS)
    for part in ("'z'", "'y'", "several positions"):
        assert part in str(caught.value)
