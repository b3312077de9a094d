# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""``sample``: named parts of joint priors, under NumPyro's handlers and inference."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density
import pytest

from numpyro_svae.distributions import MatrixNormalInverseWishart, NormalInverseWishart
from numpyro_svae.families import RegressionNatural
from numpyro_svae.sample import sample

RANDOM = np.random.default_rng(40)
DATA = np.float32(RANDOM.normal(size=(12, 2)) @ [[1.0, 0.4], [0.0, 0.6]] + [1.0, -1.0])
REGRESSORS = np.float32(RANDOM.normal(size=(12, 2)))
RESPONSES = np.float32(0.5 * REGRESSORS + 0.3 * RANDOM.normal(size=(12, 2)))

NIW = NormalInverseWishart(np.zeros(2), 0.5, 7.0, 2.0 * np.eye(2))
MNIW = MatrixNormalInverseWishart(
    np.zeros((2, 2)), np.eye(2), 7.0, scale_tril=np.eye(2)
)


def gaussian(data=None):
    mean, cov = sample("init", NIW)
    with numpyro.plate("data", 12):
        numpyro.sample("y", dist.MultivariateNormal(mean, cov), obs=data)


def regression(data=None):
    weight, cov = sample("dynamics", MNIW)
    with numpyro.plate("data", 12):
        mean = REGRESSORS @ weight.mT
        numpyro.sample("y", dist.MultivariateNormal(mean, cov), obs=data)


def exact(prior, v, u):
    each = RegressionNatural.observe(jnp.asarray(v), jnp.asarray(u))
    return prior.posterior(jax.tree.map(lambda x: x.sum(0), each))


CASES = {
    "niw": (gaussian, DATA, "init", ("loc", "cov"), exact(NIW, DATA, np.ones((12, 1)))),
    "mniw": (
        regression,
        RESPONSES,
        "dynamics",
        ("weight", "cov"),
        exact(MNIW, RESPONSES, REGRESSORS),
    ),
}
every_model = pytest.mark.parametrize("name", CASES)


@every_model
def test_sites_and_values(name):
    model, data, site, parts, posterior = CASES[name]
    trace = handlers.trace(handlers.seed(model, 0)).get_trace(data)
    assert trace[site]["type"] == "sample"
    assert trace[site]["value"].shape == posterior.event_shape
    expected = posterior.unpack(trace[site]["value"])
    for part, value in zip(parts, expected, strict=True):
        recorded = trace[f"{site}_{part}"]
        assert recorded["type"] == "deterministic"
        np.testing.assert_array_equal(recorded["value"], value)


@every_model
def test_log_density(name):
    model, data, site, _, posterior = CASES[name]
    value = posterior.mean
    actual, _ = log_density(model, (data,), {}, {site: value})
    prior = NIW if name == "niw" else MNIW
    first, cov = posterior.unpack(value)
    mean = first if name == "niw" else REGRESSORS @ first.mT
    expected = dist.MultivariateNormal(mean, cov).log_prob(data).sum()
    np.testing.assert_allclose(actual, expected + prior.log_prob(value), rtol=1e-5)


@every_model
def test_predictive(name):
    model, _, site, parts, posterior = CASES[name]
    drawn = Predictive(model, num_samples=5)(jax.random.key(0))
    assert drawn["y"].shape == (5, 12, 2)
    samples = {site: posterior.sample(jax.random.key(1), (5,))}
    predicted = Predictive(model, samples)(jax.random.key(2))
    for part, value in zip(parts, posterior.unpack(samples[site]), strict=True):
        np.testing.assert_array_equal(predicted[f"{site}_{part}"], value)


@every_model
def test_nuts_agrees_with_the_exact_posterior(name):
    """Means of all sites within 4 Monte Carlo standard errors."""
    model, data, site, parts, posterior = CASES[name]
    mcmc = MCMC(
        NUTS(model),
        num_warmup=300,
        num_samples=1500,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), data)
    samples = mcmc.get_samples(group_by_chain=True)
    assert not mcmc.get_extra_fields()["diverging"].any()
    for part, expected in zip(parts, posterior.unpack(posterior.mean), strict=True):
        drawn = np.asarray(samples[f"{site}_{part}"])
        size = numpyro.diagnostics.effective_sample_size(drawn)
        error = drawn.std((0, 1)) / np.sqrt(size)
        z_scores = (drawn.mean((0, 1)) - np.asarray(expected)) / error
        assert np.abs(z_scores).max() < 4, z_scores


def test_autoguide():
    guide = AutoNormal(gaussian)
    svi = SVI(gaussian, guide, numpyro.optim.Adam(0.05), Trace_ELBO())
    result = svi.run(jax.random.key(0), 300, DATA, progress_bar=False)
    assert np.isfinite(result.losses).all()
    assert np.mean(result.losses[-50:]) < np.mean(result.losses[:50])
    median = guide.median(result.params)["init"]
    exact_mean = CASES["niw"][-1].mean
    np.testing.assert_allclose(median[:, 0], exact_mean[:, 0], atol=0.3)


def test_plate_expand_mask_and_obs():
    value = NIW.expand([3]).sample(jax.random.key(0))

    def model():
        with numpyro.plate("clusters", 3):
            plated = sample("a", NIW)
        expanded = sample("b", NIW.expand([3]).to_event(1))
        masked = sample("c", NIW.mask(False), infer={"note": 1})
        observed = sample("d", NIW.expand([3]).to_event(1), obs=value)
        return plated, expanded, masked, observed

    trace = handlers.trace(handlers.seed(model, 0)).get_trace()
    plated, expanded, masked, observed = handlers.seed(model, 0)()
    assert [x.shape for x in plated] == [(3, 2), (3, 2, 2)]
    assert [x.shape for x in expanded] == [(3, 2), (3, 2, 2)]
    assert [x.shape for x in masked] == [(2,), (2, 2)]
    assert trace["c"]["infer"] == {"note": 1}
    assert trace["d"]["is_observed"]
    np.testing.assert_array_equal(observed[1], value[..., 1:])
    assert trace["a_loc"]["value"].shape == (3, 2)


def test_other_distributions_are_an_error():
    expected = (
        "Site 'x': numpyro_svae.sample takes a MatrixNormalInverseWishart or "
        "NormalInverseWishart; got a Normal. Use numpyro.sample"
    )
    for other in (dist.Normal(0, 1), dist.Normal(0, 1).expand([3]).to_event(1)):
        with pytest.raises(TypeError) as error, handlers.seed(rng_seed=0):
            sample("x", other)
        assert expected in str(error.value)
