# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Parameters that a fit is asked with: all that it has, and no NaN."""

import jax
from jax import random
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

Y = 1.0 + random.normal(random.key(0), (12,))


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    scale = numpyro.param("scale", 1.5, constraint=dist.constraints.positive)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


@pytest.fixture(scope="module")
def fitted():
    guide = ns.AutoSVAE(model)
    return guide, make_svi(model, guide).run(random.key(0), 2, Y, progress_bar=False)


ASKED = {
    "posterior_local": lambda guide, params: guide.posterior_local(params, Y),
    "sample_posterior": lambda g, p: g.sample_posterior(random.key(1), p, Y),
    "log_likelihood": lambda g, p: ns.log_likelihood(model, g, p, random.key(1), Y),
    "median": lambda guide, params: guide.median(params),
}
CASES = {
    "the result": (lambda result: result, TypeError, "found SVIRunResult.*`params` of"),
    "none": (lambda result: None, TypeError, "found NoneType"),
    "those of another": (
        lambda result: {"scale": result.params["scale"]},
        ValueError,
        r"found \['scale'\], without \['mu_auto_natural'\].*all parameters",
    ),
    "not natural": (
        lambda result: {**result.params, "mu_auto_natural": jnp.ones(2)},
        TypeError,
        "'mu_auto_natural' are natural parameters, found ArrayImpl",
    ),
    "NaN": (
        lambda result: jax.tree.map(lambda leaf: leaf * jnp.nan, result.params),
        ValueError,
        "'mu_auto_natural' is NaN, or outside",
    ),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("case", CASES)
def test_parameters_that_are_none_of_the_fit_are_said(fitted, case, asked):
    guide, result = fitted
    params, error, text = CASES[case]
    with pytest.raises(error, match=f"params: .*{text}"):
        ASKED[asked](guide, params(result))


def test_a_parameter_of_the_model_that_is_missing_is_named(fitted):
    """It would begin anew; a guide that has not read its model yet sees it too."""
    _, result = fitted
    params = {"mu_auto_natural": result.params["mu_auto_natural"]}
    for guide in (fitted[0], ns.AutoSVAE(model)):
        with pytest.raises(ValueError, match=r"params: .* without \['scale'\]"):
            guide.posterior_local(params, Y)


def test_no_parameters_are_where_training_starts(fitted):
    assert set(fitted[0].sample_posterior(random.key(1), {}, Y)) == {"mu"}
