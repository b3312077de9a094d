# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""SVAE_ELBO as an ELBO of NumPyro: particles, other guides, what it reports."""

from contextlib import nullcontext
from functools import partial

import jax
from jax import lax, random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed
from numpyro.infer import Trace_ELBO, TraceMeanField_ELBO
import pytest

import numpyro_svae as ns
from numpyro_svae.shared_inference import SharedInference, once
from tests.data import make_svi, sequences
from tests.models import mixture_recognition, mixture_svae


def gaussian_model(y):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    with numpyro.plate("data", len(y), subsample_size=2) as index:
        numpyro.sample("y", dist.Normal(loc, 1.0), obs=y[index])


def gaussian_guide(y):
    loc = numpyro.param("loc_loc", jnp.asarray(0.3))
    numpyro.sample("loc", dist.Normal(loc, 0.5))


Y = jnp.array([0.5, -1.0, 2.0, 0.1])


def loss_of(elbo, params=None):
    key = random.PRNGKey(0)
    return elbo.loss(key, params or {}, gaussian_model, gaussian_guide, Y)


@pytest.mark.parametrize("particles", [1, 7])
def test_a_guide_that_declares_nothing_gets_trace_mean_field_elbo(particles):
    ours = loss_of(ns.SVAE_ELBO(num_particles=particles))
    theirs = loss_of(TraceMeanField_ELBO(num_particles=particles))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_divergence_that_is_not_known_is_sampled():
    def model():
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    def guide():
        numpyro.sample("x", dist.StudentT(5.0, 0.3, 0.8))

    args = (random.PRNGKey(2), {}, model, guide)
    ours = ns.SVAE_ELBO(num_particles=3).loss(*args)
    np.testing.assert_allclose(ours, Trace_ELBO(num_particles=3).loss(*args), rtol=1e-6)


def test_terms_by_site_add_up():
    terms = loss_of(ns.SVAE_ELBO(sum_sites=False))
    assert set(terms) == {"loc", "y"}
    np.testing.assert_allclose(sum(terms.values()), loss_of(ns.SVAE_ELBO()), rtol=1e-6)
    prior, posterior = dist.Normal(0.0, 2.0), dist.Normal(0.3, 0.5)
    kl = dist.kl_divergence(posterior, prior)
    np.testing.assert_allclose(terms["loc"], kl, rtol=1e-6)


def test_declared_terms_replace_sampled_ones():
    def guide(y):
        declared = {"kl": jnp.asarray(2.0), "expected_log_prob": {"y": -jnp.ones(2)}}
        numpyro.sample("loc", dist.Normal(0.3, 0.5), infer=declared)

    loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, gaussian_model, guide, Y)
    np.testing.assert_allclose(loss, 2.0 + 2 * (4 / 2))  # two data count for four


def test_a_declared_average_sums_over_the_states():
    means = jnp.array([-1.0, 0.5, 3.0])
    probs = jnp.array([[0.2, 0.3, 0.5], [0.0, 0.9, 0.1]])
    y = jnp.array([0.3, 1.0])

    def model():
        with numpyro.plate("data", 2):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            numpyro.sample("y", dist.Normal(means[z], 1.0), obs=y)

    def guide():
        with numpyro.plate("data", 2):
            infer = {"kl": jnp.zeros(2), "average": probs}
            numpyro.sample("z", dist.Categorical(probs), infer=infer)

    loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, model, guide)
    table = dist.Normal(means, 1.0).log_prob(y[:, None])
    np.testing.assert_allclose(-loss, jnp.sum(probs * table), rtol=1e-6)


@pytest.fixture(scope="module")
def problem():
    """A mixture SVAE at its start."""
    y = sequences()[0][:, 0]
    guide = ns.AutoSVAE(mixture_svae, mixture_recognition)
    svi = make_svi(mixture_svae, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), y))
    return params, mixture_svae, guide, y


def test_particles_are_averaged_by_vmap_and_by_map(problem):
    def loss(vectorize):
        elbo = ns.SVAE_ELBO(num_particles=3, vectorize_particles=vectorize)
        return jax.jit(lambda key: elbo.loss(key, *problem))(random.PRNGKey(0))

    def by_hand(function, keys):
        return lax.map(function, keys)

    vectorised, mapped = loss(True), loss(False)
    np.testing.assert_allclose(vectorised, mapped, rtol=1e-5)
    np.testing.assert_allclose(loss(by_hand), mapped, rtol=1e-6)
    elbo = jax.jit(lambda key: ns.SVAE_ELBO().loss(key, *problem))
    single = [elbo(key) for key in random.split(random.PRNGKey(0), 3)]
    np.testing.assert_allclose(mapped, np.mean(single), rtol=1e-5)


def test_inference_is_once_for_all_states_of_a_label(problem, monkeypatch):
    """And the samples of each run have the keys that they have with one for each."""
    calls, recognition = [], problem[2].recognition

    def counted(*args, **kwargs):
        calls.append(args)
        return recognition(*args, **kwargs)

    def loss():
        return jax.jit(lambda key: ns.SVAE_ELBO().loss(key, *problem))(random.key(0))

    monkeypatch.setattr(problem[2], "recognition", counted)
    shared = loss()
    assert len(calls) == 1
    monkeypatch.setattr("numpyro_svae.elbo.SharedInference", nullcontext)
    np.testing.assert_allclose(shared, loss(), rtol=1e-6)
    assert len(calls) == 3


def test_inference_is_shared_by_the_same_calls_alone():
    """A guide may be called twice, and with what is computed from a state."""
    calls = []

    def infer(of):
        calls.append(of)
        return numpyro.prng_key()

    def run(shared, *given):
        with seed(rng_seed=0), shared:
            return [once("guide", (y,), partial(infer, float(y[0]))) for y in given]

    shared, first, second = SharedInference(), Y, 2 * Y
    keys = run(shared, first, second)
    assert run(shared, first, second) == keys
    assert calls == [0.5, 1.0]
    run(shared, second, first)
    run(shared, first, second, first)
    assert calls == [0.5, 1.0, 1.0, 0.5, 0.5]


def test_the_exact_joint_is_never_below_mean_field(problem):
    """At the same parameters, averaged over what is sampled."""
    params, model, exact, y = problem
    factored = ns.AutoSVAE(model, mixture_recognition, mean_field=True)

    def elbo(guide):
        def loss(key):
            return ns.SVAE_ELBO(num_particles=500).loss(key, params, model, guide, y)

        return -jax.jit(loss)(random.PRNGKey(0))

    assert elbo(exact) > elbo(factored)
