# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scales whose priors have parameters to learn, against quadrature and fixed points."""

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import digamma, polygamma
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.families.free_prior import closest_gamma
from tests.data import make_svi, steps

GROUPS, COUNT = 6, 8
RNG = np.random.default_rng(0)
SIZES = np.exp(RNG.normal(0.2, 0.5, GROUPS))
Y = RNG.normal(0.0, SIZES[:, None], (GROUPS, COUNT))
MEMBER = np.repeat(np.arange(GROUPS), COUNT)
HALF = dist.HalfNormal(1.0)


def groups(prior):
    """A program: each group has a scale, of which a function says the prior."""

    def model():
        fn = prior()
        with numpyro.plate("groups", GROUPS):
            scale = numpyro.sample("scale", fn)
        with numpyro.plate("data", Y.size):
            numpyro.sample("y", dist.Normal(0.0, scale[MEMBER]), obs=Y.ravel())

    return model


def fitted(model, count):
    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=0.5), count)
    natural = {n: params[guide._natural_name(n)] for n in guide.structure.priors}
    return guide, params, losses, natural


PRIORS = {
    "half-normal": (HALF, dist.HalfNormal),
    "half-Cauchy": (HALF, dist.HalfCauchy),
    "exponential": (dist.Gamma(2.0, 1.0), dist.Exponential),
}


@pytest.mark.parametrize("name", PRIORS)
def test_the_posterior_that_quadrature_finds(name, x64):
    top, family = PRIORS[name]
    model = groups(lambda: family(numpyro.sample("top", top)))
    guide, params, losses, _ = fitted(model, 60)
    assert "Precision of 'scale', given 'top'" in str(guide.structure)
    logs = np.linspace(-5.0, 5.0, 801)
    grid, cell = np.exp(logs), np.log(logs[1] - logs[0])
    seen = dist.Normal(0.0, grid[:, None, None]).log_prob(Y).sum(-1)
    own = family(grid[:, None]).log_prob(grid) + logs + cell
    terms = own[..., None] + seen
    groups_given = jax.nn.logsumexp(terms, 1)
    total = top.log_prob(grid) + logs + cell + groups_given.sum(-1)
    evidence = jax.nn.logsumexp(total)
    weights = np.exp(total - evidence)
    inner = np.einsum("t,tsg->sg", weights, np.exp(terms - groups_given[:, None]))
    exact = {"top": weights[:, None], "scale": inner}
    assert 0 < losses[-1] + evidence < 0.1
    for site, table in exact.items():
        mean = grid @ table
        sd = np.sqrt(grid**2 @ table - mean**2)
        found = guide.get_posterior(params)[site]
        away = (found.mean - jnp.squeeze(mean)) / jnp.squeeze(sd)
        np.testing.assert_allclose(away, 0.0, atol=0.04)
        np.testing.assert_allclose(jnp.sqrt(found.variance), jnp.squeeze(sd), rtol=0.06)


def test_logarithms_with_a_location_and_a_spread_are_at_their_fixed_point(x64):
    """Messages of a normal distribution of logarithms have a closed form."""

    def prior():
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        return dist.LogNormal(loc, numpyro.sample("spread", HALF))

    _, _, _, natural = fitted(groups(prior), 150)
    a, b = natural["scale"].concentration, natural["scale"].rate
    logs, variance = -0.5 * (digamma(a) - jnp.log(b)), 0.25 * polygamma(1, a)
    spread = natural["spread"]
    precision = spread.concentration / spread.rate
    own = jnp.squeeze(natural["loc"].precision)
    loc = jnp.squeeze(natural["loc"].info_vector) / own
    np.testing.assert_allclose(own, 1 + GROUPS * precision, rtol=1e-4)
    np.testing.assert_allclose(loc, precision * jnp.sum(logs) / own, rtol=1e-4)

    def density(prior, log_precision):
        scale = jnp.exp(-0.5 * log_precision)
        return prior.log_prob(scale) + jnp.log(0.5 * scale)

    message = closest_gamma(density, spread, HALF)
    shape = message.concentration + GROUPS / 2
    np.testing.assert_allclose(spread.concentration, shape, rtol=1e-4)
    away = jnp.sum((logs - loc) ** 2 + variance + 1 / own)
    np.testing.assert_allclose(spread.rate, message.rate + away / 2, rtol=1e-4)


def test_each_scale_has_an_entry_of_its_own_above(x64):
    """As if the two regions were two programs, with parameters of the prior."""
    region = np.array([0, 1, 0, 1, 1, 0])

    def model(which=None):
        size = numpyro.param("size", 1.3, constraint=dist.constraints.positive)
        kept = np.arange(GROUPS) if which is None else np.flatnonzero(region == which)
        with numpyro.plate("regions", 2 if which is None else 1):
            top = numpyro.sample("top", dist.HalfNormal(size))
        at = region if which is None else np.zeros(len(kept), int)
        with numpyro.plate("groups", len(kept)):
            scale = numpyro.sample("scale", dist.HalfNormal(top[at]))
        with numpyro.plate("data", len(kept) * COUNT):
            member = np.repeat(np.arange(len(kept)), COUNT)
            fn = dist.Normal(0.0, scale[member])
            numpyro.sample("y", fn, obs=Y[kept].ravel())

    def losses_of(size, *args):
        guide = ns.AutoSVAE(model)
        svi = make_svi(model, guide, 0.5, optax.sgd(0.0))  # the size stays
        params, _ = steps(svi, 80, *args)
        given = {**params, "size": jnp.asarray(size)}

        def value(size):
            own, loss = {**given, "size": size}, ns.SVAE_ELBO()
            return loss.loss(random.PRNGKey(0), own, model, guide, *args)

        return value

    whole, parts = losses_of(1.3), [losses_of(1.3, w) for w in (0, 1)]
    value = jax.jit(jax.value_and_grad(whole))
    found = value(1.3)
    apart = [jax.value_and_grad(part)(1.3) for part in parts]
    np.testing.assert_allclose(found[0], apart[0][0] + apart[1][0], rtol=1e-8)
    np.testing.assert_allclose(found[1], apart[0][1] + apart[1][1], rtol=1e-5)
    slope = (value(1.3 + 1e-4)[0] - value(1.3 - 1e-4)[0]) / 2e-4
    np.testing.assert_allclose(found[1], slope, rtol=1e-5)


def _several():
    with numpyro.plate("tops", 3):
        top = numpyro.sample("top", HALF)
    return dist.HalfNormal(jnp.sum(top))


def _bounds():
    return dist.Uniform(0.0, numpyro.sample("top", HALF))


@pytest.mark.parametrize(
    ("prior", "message"),
    [(_several, "one entry of each"), (_bounds, "bounds that depend on latent")],
)
def test_what_cannot_be_averaged_is_refused_by_name(prior, message):
    with (
        pytest.raises(ValueError, match=f"(?s)'scale'.*{message}"),
        handlers.seed(rng_seed=0),
    ):
        ns.AutoSVAE(groups(prior))()
