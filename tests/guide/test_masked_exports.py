# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is masked is no datum in what is exported, counted and scored."""

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import logsumexp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed
import pytest
from scipy.stats import norm

import numpyro_svae as ns
from numpyro_svae.diagnostics.fit import read_fit
from numpyro_svae.diagnostics.reliability import draw_weighed
from tests.data import sequences

Y = sequences(count=4, steps=5, outputs=1)[0]
SEEN = jnp.ones((4, 5), bool).at[1, 3:].set(False).at[2].set(False)


def hmm(y, seen):
    """Padded sequences, of which one has no datum; only the likelihood is masked."""
    probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones(2)))
    rows = jnp.array([[0.9, 0.1], [0.2, 0.8]])
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(probs, rows, num_steps=5))
        loc = jnp.array([[-1.0], [1.0]])[z]
        fn = dist.MultivariateNormal(loc, 0.1 * jnp.eye(1)).mask(seen).to_event(1)
        numpyro.sample("y", fn, obs=y)


@pytest.fixture(scope="module")
def fitted():
    guide = ns.AutoSVAE(hmm, num_starts=1)
    y = jnp.where(SEEN[..., None], Y, 99.0).astype(jnp.float32)
    with numpyro.handlers.trace() as messages, seed(rng_seed=0):
        guide(y, SEEN)
    params = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    return guide, params, y


def test_exports_have_nan_or_nothing(fitted):
    guide, params, y = fitted
    data = ns.to_arviz(hmm, guide, params, y, SEEN, num_samples=4, num_particles=1)
    seen = np.asarray(SEEN)
    observed = data["observed_data"]["y"].values[..., 0]
    np.testing.assert_array_equal(np.isfinite(observed), seen)
    predicted = data["posterior_predictive"]["y"].values[0, ..., 0]
    np.testing.assert_array_equal(np.isfinite(predicted), np.stack([seen] * 4))
    likelihood = data["log_likelihood"]["y"]
    assert list(likelihood["sequences"].values) == [0, 1, 3]
    assert np.all(np.isfinite(likelihood))


def test_counts_are_of_data(fitted):
    guide, params, y = fitted
    options = {"num_samples": 100, "num_particles": 1, "show": False}
    found = ns.report(hmm, guide, params, y, SEEN, **options)
    np.testing.assert_allclose(found.counts["z"].sum(), SEEN.sum(), rtol=1e-5)


def test_coverage_of_nothing_is_refused():
    draws = random.normal(random.PRNGKey(0), (10, 3))
    with pytest.raises(ValueError, match="observed: found 1 values that are NaN"):
        ns.coverage(draws, jnp.array([0.0, jnp.nan, 1.0]), 0.5)


def test_a_masked_vector_has_its_prior_given_its_label(x64):
    """The guide, whose sites are independent, has the expectation of that prior; and
    without data there is nothing to weigh."""
    y, seen = jnp.array([[0.2], [1.4], [0.3]]), jnp.array([True, True, False])

    def model(y, exists, seen):
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
            loc = jnp.array([[-1.0], [2.0]])[z]
            fn = dist.MultivariateNormal(loc, jnp.eye(1))
            x = numpyro.sample("x", fn.mask(exists))
            with numpyro.handlers.mask(mask=seen):
                fn = dist.MultivariateNormal(x, 0.5 * jnp.eye(1))
                numpyro.sample("y", fn, obs=y)

    guide = ns.AutoSVAE(model, mean_field=True)
    args = y, jnp.array([False, True, False]), seen
    found = ns.log_likelihood(
        model, guide, {}, random.key(0), *args, num_particles=4000
    )
    expected = 0.3 * norm(-1, 1.5**0.5).pdf(y) + 0.7 * norm(2, 1.5**0.5).pdf(y)
    expected = np.log(expected[:2, 0])
    np.testing.assert_allclose(found.value[:2], expected, atol=0.1)
    assert found.value[2] == 0.0
    args = y[:2], args[1][:2], seen[:2]

    @jax.jit
    def joint(keys):
        fit = read_fit(model, guide, {}, args, {})
        drawn = draw_weighed(fit, keys).weights
        return logsumexp(drawn.shared + drawn.each) - jnp.log(len(keys))

    found = joint(random.split(random.key(1), 20_000))
    np.testing.assert_allclose(found, expected.sum(), atol=0.15)


@pytest.mark.parametrize("masked", [False, True])
def test_a_vector_in_a_scan_is_integrated_over_its_prior(x64, masked):
    """Where it is masked too; and it has no site at the first state."""
    y, initial = np.array([[[0.2]], [[1.4]]]), np.array([0.3, 0.7])
    rows, loc = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([[-1.0], [2.0]])

    def model(y, exists):
        def step(z, x):
            own, exists = x
            with numpyro.plate("sequences", 1):
                z = numpyro.sample("z", dist.Categorical(jnp.asarray(rows)[z]))
                fn = dist.MultivariateNormal(jnp.asarray(loc)[z], jnp.eye(1))
                v = numpyro.sample("v", fn.mask(exists))
                fn = dist.MultivariateNormal(v, 0.5 * jnp.eye(1))
                numpyro.sample("y", fn, obs=own)
            return z, None

        with numpyro.plate("sequences", 1):
            first = numpyro.sample("first", dist.Categorical(jnp.asarray(initial)))
        scan(step, first, (y, exists))

    args = y, jnp.array([[True], [not masked]])
    key, guide = random.key(0), ns.AutoSVAE(model, num_starts=1)
    options = {"num_particles": 4000 if masked else 1}
    found = ns.log_likelihood(model, guide, {}, key, *args, **options).value
    density = norm(loc[:, 0], 1.5**0.5).pdf(y[:, 0])
    expected = initial @ rows * density[0] @ rows @ density[1]
    np.testing.assert_allclose(found, [np.log(expected)], atol=0.1 * masked + 1e-9)
