# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The closed forms of SVAE_ELBO are the expectations of NumPyro's own estimators."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO, TraceMeanField_ELBO
import pytest

import numpyro_svae as ns
from tests.coupled import learnt_choice, learnt_sum
from tests.data import clusters, make_svi, sequences, steps
from tests.models import (
    lds_recognition,
    lds_svae,
    linear_lds,
    mixture,
    mixture_recognition,
    mixture_svae,
)
from tests.switching import hmm_svae, recognition, slds_svae

SAMPLES = 2000


def estimates(loss, params, model, guide, args):
    """Independent one-sample estimates of a loss."""

    def one(key):
        return loss.loss(key, params, model, guide, *args)

    keys = random.split(random.PRNGKey(1), SAMPLES)
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


def start(model, guide, *args):
    """Parameters after a few steps, when none of their entries is zero any more."""
    return steps(make_svi(model, guide, natural=0.8), 4, *args)[0]


def at_start(model, guide, *args):
    """Parameters before any step, which compile no gradient; none of them is zero."""
    svi = make_svi(model, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), *args))
    assert all(np.all(np.asarray(leaf) != 0.0) for leaf in jax.tree.leaves(params))
    return params


def assert_same_expectation(ours, theirs, precise):
    """Within four standard errors, which must be small for that to say something."""
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert 4 * error < precise


def lds(**options):
    return partial(lds_svae, **options), lds_recognition


Y, ACTIONS = sequences(count=3, steps=4)
COUNTS = jnp.abs(jnp.round(Y))
CASES = {
    "linear": (linear_lds, None, (Y, ACTIONS)),
    "normal": (*lds(), (Y, ACTIONS)),
    "poisson": (*lds(likelihood="poisson"), (COUNTS, ACTIONS)),
    "bernoulli-fixed": (
        *lds(likelihood="bernoulli", globals="fixed"),
        (jnp.minimum(COUNTS, 1.0), ACTIONS),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Estimates by SVAE_ELBO at the start of a model, and what they were made of."""
    model, recognition, args = CASES[request.param]
    guide = ns.AutoSVAE(model, recognition, num_starts=1)
    params = start(model, guide, *args)
    problem = (params, model, guide, args)
    return estimates(ns.SVAE_ELBO(), *problem), problem


def test_same_expectation_as_trace_elbo(case):
    ours, problem = case
    theirs = estimates(Trace_ELBO(), *problem)
    assert_same_expectation(ours, theirs, precise=1.5)


def test_same_expectation_as_trace_mean_field_elbo(case):
    ours, problem = case
    theirs = estimates(TraceMeanField_ELBO(), *problem)
    assert_same_expectation(ours, theirs, precise=1.5)


def leaf(y):
    """A vector that is seen, and a number which nothing depends on."""
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)
        loc = jnp.sum(x, -1, keepdims=True)
        numpyro.sample("more", dist.Normal(loc, 1.0).to_event(1))


def test_what_nothing_depends_on_has_a_density_too():
    """All is exact, so that every estimate is the evidence."""
    y, guide = Y[0, :, :2], ns.AutoSVAE(leaf)
    estimate = estimates(Trace_ELBO(), start(leaf, guide, y), leaf, guide, (y,))
    evidence = jnp.sum(dist.Normal(0.0, jnp.sqrt(1.25)).log_prob(y))
    np.testing.assert_allclose(estimate, -evidence, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mean_field", [False, True])
def test_mixture_svae_summed_over_its_labels(mean_field):
    """Trace_ELBO draws the labels that SVAE_ELBO sums over."""
    y = Y[:, 0]
    guide = ns.AutoSVAE(mixture_svae, mixture_recognition, mean_field=mean_field)
    problem = (at_start(mixture_svae, guide, y), mixture_svae, guide, (y,))
    ours = estimates(ns.SVAE_ELBO(), *problem)
    theirs = estimates(Trace_ELBO(), *problem)
    assert_same_expectation(ours, theirs, precise=1.5)


@pytest.mark.slow
def test_hmm_svae_summed_over_its_states():
    """The likelihood of each step is averaged over the state of that step."""
    guide = ns.AutoSVAE(hmm_svae, recognition)
    problem = (at_start(hmm_svae, guide, Y), hmm_svae, guide, (Y,))
    ours = estimates(ns.SVAE_ELBO(), *problem)
    theirs = estimates(Trace_ELBO(), *problem)
    assert_same_expectation(ours, theirs, precise=1.5)


@pytest.mark.slow
def test_switching_svae():
    cov = jnp.array([[1.0, 0.3], [0.3, 0.8]])
    first = ns.NormalInverseWishart(jnp.array([0.5, 0.3]), 2.0, 5.0, cov)
    guide = ns.AutoSVAE(slds_svae, recognition, init={"init": first})
    problem = (at_start(slds_svae, guide, Y, ACTIONS), slds_svae, guide, (Y, ACTIONS))
    ours = estimates(ns.SVAE_ELBO(), *problem)
    theirs = estimates(Trace_ELBO(), *problem)
    assert_same_expectation(ours, theirs, precise=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [learnt_sum, learnt_choice])
def test_products_of_paths_and_vectors_that_last(model):
    """A vector that is seen at all steps has many labels, and is no mixture."""
    y = Y[..., :2]
    guide = ns.AutoSVAE(model, num_starts=1)
    problem = (at_start(model, guide, y), model, guide, (y,))
    ours = estimates(ns.SVAE_ELBO(), *problem)
    theirs = estimates(Trace_ELBO(), *problem)
    assert_same_expectation(ours, theirs, precise=1.5)


@pytest.mark.slow
def test_minibatch_of_a_mixture_spelled_as_two_sites():
    y, _ = clusters(12)
    model = partial(mixture, subsample=4, joint=False)
    guide = ns.AutoSVAE(model, num_starts=1)
    problem = (start(model, guide, y), model, guide, (y,))
    ours = estimates(ns.SVAE_ELBO(), *problem)
    theirs = estimates(Trace_ELBO(), *problem)
    assert_same_expectation(ours, theirs, precise=2.5)
