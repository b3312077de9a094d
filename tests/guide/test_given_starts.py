# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Starts that are given: names, families and shapes that do not fit are said."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.distributions import RootInverseGamma
from numpyro_svae.inference.start.given import natural_of
from numpyro_svae.training import run_restarts
from tests.data import clusters, make_svi
from tests.models import mixture

Y = clusters(12)[0]


def niw(count=3, dim=2, offset=0.0):
    loc = offset + random.normal(random.PRNGKey(0), (count, dim))
    return ns.NormalInverseWishart(loc, 2.0, dim + 3.0, jnp.eye(dim))


def call(init):
    guide = ns.AutoSVAE(mixture, init=init)
    with handlers.seed(rng_seed=0):
        return guide(Y)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"component": niw()}, r"\['component'\].*some of \['components', 'weights'\]"),
        ({"z": dist.Categorical(jnp.ones(3) / 3)}, r"\['z'\]"),
        ({"weights": dist.Dirichlet(jnp.ones(4))}, r"Dirichlet.*\(4,\).*\(3,\)"),
        ({"weights": dist.Normal(0.0, 1.0)}, r"Normal.*'weights'.*Dirichlet"),
        ({"components": niw(2)}, r"'components'.*NormalInverseWishart.*\(3, 2, 3\)"),
        ({"components": niw(3, 4)}, "'components'"),
        ({"components": dist.Dirichlet(jnp.ones(3))}, "found Dirichlet"),
    ],
)
def test_starts_that_do_not_fit_are_named(init, message):
    with pytest.raises(ValueError, match=message):
        call(init)


def deviations(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(0.0, s), obs=y[:, 0])


def test_a_start_of_a_deviation_is_none_of_a_precision():
    message = r"found Gamma .*numpyro_svae\.distributions\.RootInverseGamma"
    with pytest.raises(ValueError, match=message), handlers.seed(rng_seed=0):
        ns.AutoSVAE(deviations, init={"s": dist.Gamma(3.0, 1.0)})(Y)
    start = RootInverseGamma(40.0, 10.0)
    with handlers.seed(rng_seed=0), handlers.trace() as messages:
        ns.AutoSVAE(deviations, init={"s": start})(Y)
    np.testing.assert_allclose(messages["s"]["fn"].mean, start.mean, rtol=1e-5)


def test_restarts_that_are_copies_are_said():
    init = {"components": niw(), "weights": dist.Dirichlet(jnp.ones(3))}
    svi = make_svi(mixture, ns.AutoSVAE(mixture, init=init), natural=0.5)
    with pytest.warns(RuntimeWarning, match="all 2 restarts took the same steps"):
        run_restarts(svi, random.PRNGKey(1), 2, 3, Y)


def test_a_start_without_digits_is_refused_and_a_fit_without_them_is_read():
    """A fit may end there, and nothing that was fitted is lost."""
    far = niw(offset=1.2e3)
    with pytest.raises(ValueError, match="float32 leaves no digit"):
        call({"components": far})
    guide = ns.AutoSVAE(mixture)
    svi = make_svi(mixture, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), Y))
    found = natural_of(guide.structure.priors["components"], far)
    params |= {guide._natural_name("components"): found}
    assert jnp.isfinite(guide.posterior_local(params, Y)["z"].logits).all()
