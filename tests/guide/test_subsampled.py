# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is said of a program that subsamples is of all its data, batch by batch.

The oracle is the program that does not, at the same parameters.
"""

from functools import partial
from typing import NamedTuple

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.coupled import grouped_offsets
from tests.data import clusters, make_svi, sequences, steps
from tests.models import linear_lds, mixture
from tests.switching import hmm_svae, recognition
from tests.test_compilations import compilations

KEY = random.PRNGKey(0)
POINTS, SEQUENCES = clusters(10)[0], sequences(5)[0]
BATCH = 3


def regression(y, x=None, subsample=None):
    """Counts with inputs, and Gaussian weights."""
    weight = numpyro.sample("weight", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("data", len(y), subsample_size=subsample) as index:
        numpyro.sample("y", dist.Poisson(jnp.exp(x[index] @ weight)), obs=y[index])


class Fitted(NamedTuple):
    model: object
    guide: ns.AutoSVAE
    whole: object
    reference: ns.AutoSVAE
    params: dict
    args: tuple
    exact: bool = False


COUNTS = jnp.array([0, 1, 0, 2, 5, 1, 1])
CASES = {
    "mixture": (mixture, None, (POINTS,)),
    "dynamics": (linear_lds, None, (SEQUENCES,)),
    "switching": (hmm_svae, recognition, (SEQUENCES,)),
    "counts": (regression, None, (COUNTS, POINTS[jnp.arange(7) % 3] / 4)),
    "groups": (grouped_offsets, None, (SEQUENCES[..., :2],)),
}


@pytest.fixture(params=["mixture", "switching", "counts", "groups"])
def fitted(request):
    return make(request.param)


def make(name):
    whole, net, args = CASES[name]
    model = partial(whole, subsample=BATCH)
    own = None if net is None else partial(net, subsample=BATCH)
    guide = ns.AutoSVAE(model, own, num_starts=1)
    svi = make_svi(model, guide)
    params = svi.get_params(svi.init(KEY, *args))
    reference = ns.AutoSVAE(whole, net, num_starts=1)
    reference._structure, reference._calls = guide.structure, guide._calls
    exact = name in ("mixture", "counts")
    return Fitted(model, guide, whole, reference, params, args, exact)


def test_what_is_exact_is_that_of_all_members(fitted):
    params, args = fitted.params, fitted.args
    found = fitted.guide.posterior_local(params, *args)
    expected = fitted.reference.posterior_local(params, *args)
    for name, marginal in found.items():
        assert marginal.batch_shape == expected[name].batch_shape
        for own, other in zip(*map(jax.tree.leaves, (marginal, expected[name]))):
            np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    if fitted.exact:
        given = KEY, *args
        options = {"num_samples": 3, "num_particles": 2}
        own = ns.log_likelihood(fitted.model, fitted.guide, params, *given, **options)
        other = fitted.whole, fitted.reference, params
        other = ns.log_likelihood(*other, *given, **options)
        for found, expected in zip(own, other):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.fixture(scope="module")
def dynamics():
    return make("dynamics")


def test_members_that_are_given_are_those_of_the_posterior(dynamics):
    chosen = jnp.array([4, 1])
    params, args = dynamics.params, dynamics.args
    whole = dynamics.guide.posterior_local(params, *args)["x"].mean
    some = {**params, "sequences": chosen}
    found = dynamics.guide.posterior_local(some, *args)["x"].mean
    np.testing.assert_allclose(found, whole[chosen], atol=1e-5)
    draws = dynamics.guide.sample_posterior(KEY, params, *args)
    assert draws["x"].shape == whole.shape


def test_forecasts_are_of_all_sequences(dynamics):
    (y,) = dynamics.args
    fit = dynamics.model, dynamics.guide, dynamics.params
    paths = ns.forecast(*fit, KEY, y, horizon=1, num_samples=400)
    assert paths["y"].shape == (400, 5, 1, 3)
    state = ns.filter(*fit, y)
    assert state.bound.shape == (5,)
    expected = state.update().marginals["x"].mean
    np.testing.assert_allclose(paths["x"].mean(0)[:, 0], expected, atol=0.3)


def test_batches_draw_by_keys_of_their_own():
    own = make("counts")
    fit = own.model, own.guide, own.params, *own.args
    found = ns.to_arviz(*fit, num_samples=50, num_particles=1)
    y = found["posterior_predictive"]["y"].values[0]
    assert np.array_equal(own.args[1][0], own.args[1][3])
    assert not np.array_equal(y[:, 0], y[:, 3])  # in another batch


def test_reports_and_arviz_are_of_all_data_and_compile_once():
    """The draws of global sites are alike in all batches, so densities add up."""
    own = make("mixture")
    options = {"num_samples": 100, "num_particles": 1}
    pair = (own.model, own.guide), (own.whole, own.reference)
    found = ns.report(*pair[0], own.params, *own.args, **options, show=False)
    expected = own.reference.posterior_local(own.params, *own.args)["z"].probs.sum(0)
    np.testing.assert_allclose(found.counts["z"], expected, rtol=1e-5)
    assert np.isfinite([found.pareto_k, found.pareto_k_joint]).all()
    found, expected = (
        ns.to_arviz(*fit, own.params, *own.args, **options, local_sites=["z"])
        for fit in pair
    )
    for name in "log_likelihood", "sample_stats", "observed_data":
        for variable, values in expected[name].data_vars.items():
            own_values = found[name][variable]
            assert own_values.dims == values.dims
            np.testing.assert_allclose(own_values, values, rtol=1e-4, atol=1e-4)
    assert found["posterior"]["z"].shape == (1, 100, 10)
    other = jax.tree.map(lambda leaf: 1.01 * leaf, own.params)
    with compilations() as count:
        ns.to_arviz(*pair[0], other, POINTS[::-1], **options)
    assert count() <= 3


def test_batches_from_outside_are_what_is_given():
    """A plate that is larger than the data: each is looked at, none is made up."""

    def model(y):
        with numpyro.plate("data", 100, subsample_size=len(y)):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    y = jnp.array([[1.0], [-1.0]])
    guide = ns.AutoSVAE(model)
    mean = guide.posterior_local({}, y)["x"].mean
    np.testing.assert_allclose(mean, y / 1.25, rtol=1e-5)
    found = ns.log_likelihood(model, guide, {}, KEY, y).value
    expected = dist.Normal(0.0, jnp.sqrt(1.25)).log_prob(y[:, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="'data': found 2 of its 100 members"):
        ns.report(model, guide, {}, y, show=False)


def test_the_mean_of_a_population_that_is_subsampled_is_global():
    def model(y, subsample=None):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
        with numpyro.plate("data", len(y), subsample_size=subsample) as index:
            x = numpyro.sample("x", dist.Normal(mu, 1.0).to_event(1))
            numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y[index])

    y = jnp.full((8, 1), 2.0)  # every batch says the same
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide, natural=1.0), 30, y, 4)
    found = guide.get_posterior(params)["mu"]
    exact = 8 * 2.0 / 1.25 / (1 + 8 / 1.25)
    np.testing.assert_allclose(found.mean, [exact], rtol=1e-3)
    np.testing.assert_allclose(found.variance, [1 / (1 + 8)], rtol=1e-3)
