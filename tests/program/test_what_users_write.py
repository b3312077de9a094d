# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs with NumPyro's other primitives and handlers: right, or refused with advice.

Each of those that run is conjugate after one step or a few: its posterior is known.
"""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.funsor import enum
import numpyro.distributions as dist
from numpyro.handlers import (
    block,
    collapse,
    condition,
    mask,
    reparam,
    scale,
    scope,
    seed,
    substitute,
    trace,
    uncondition,
)
from numpyro.infer import Predictive
from numpyro.infer.reparam import LocScaleReparam
import pytest
import xarray

import numpyro_svae as ns
from numpyro_svae.program.priors import priors
from tests.data import clusters, make_svi, steps
from tests.models import mixture

RNG = np.random.default_rng(0)
Y = (RNG.standard_normal(12) + 1.0).astype(np.float32)
SEEN = np.arange(12) < 7
WIDE, HALF = dist.Normal(0.0, 5.0), 0.5


def level(y, name="mu"):
    mu = numpyro.sample(name, WIDE)
    numpyro.deterministic(f"{name}_twice", 2 * mu)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def seen_in_part(y):
    mu = numpyro.sample("mu", WIDE)
    with numpyro.plate("data", len(y)), mask(mask=SEEN):
        fn = dist.Normal(mu, 1.0)
        numpyro.sample("y", fn, obs=np.where(SEEN, y, np.nan))


def twice_by_scope(y):
    for prefix, sign in ("a", 1), ("b", -1):
        with scope(prefix=prefix):
            level(sign * y)


def exponentials(y):
    mu = numpyro.sample("mu", WIDE)
    with numpyro.plate("data", len(y)):
        base = dist.Normal(mu, 1.0)
        fn = dist.TransformedDistribution(base, [dist.transforms.ExpTransform()])
        numpyro.sample("y", fn, obs=jnp.exp(y))


def labelled(y):
    with numpyro.plate("data", len(y)):
        fn = dist.Bernoulli(0.5)
        z = numpyro.sample("z", fn, infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)


def unplated(y):
    mu = numpyro.sample("mu", WIDE)
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[:0])


def penalised(y):
    mu = numpyro.sample("mu", WIDE)
    numpyro.factor("penalty", -(mu**2))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def weighted(y):
    mu = numpyro.sample("mu", WIDE)
    with numpyro.plate("data", len(y)), scale(scale=jnp.where(SEEN, 2.0, 1.0)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def unused(y):
    numpyro.sample("more", WIDE)
    level(y)


def masked_in_part(y):
    with numpyro.plate("groups", 3), mask(mask=np.arange(3) < 2):
        mu = numpyro.sample("mu", WIDE)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu[np.arange(len(y)) % 3], 1.0), obs=y)


def two_plates(y):
    mu = numpyro.sample("mu", WIDE)
    for name, part, factor in ("a", y[:5], 1.0), ("b", y[5:], 2.0):
        with numpyro.plate(name, len(part)):
            numpyro.sample(f"y_{name}", dist.Normal(factor * mu, HALF), obs=part)


def scale_too(y):
    mu = numpyro.sample("mu", WIDE)
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def moments(y, weight=1.0, noise=1.0, extra=0.0):
    """Mean and variance of a level, ``y ~ Normal(weight * mu, noise)``."""
    weight = np.broadcast_to(weight, y.shape)
    precision = 1 / 25 + extra + np.sum(weight**2) / noise**2
    return np.sum(weight * y) / noise**2 / precision, 1 / precision


def table(y):
    rows, columns = numpyro.plate("rows", 3, dim=-2), numpyro.plate("columns", 4)
    with rows:
        a = numpyro.sample("a", WIDE)
    with rows, columns:
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y.reshape(3, 4))


PROGRAMS = {
    "reparam": (reparam(level, {"mu": LocScaleReparam(0)}), "mu_decentered", None),
    "mask": (seen_in_part, "mu", moments(Y[SEEN])),
    "scope": (twice_by_scope, "b/mu", moments(-Y)),
    "transformed": (exponentials, "mu", moments(Y)),
    "factor": (penalised, "mu", moments(Y, extra=2.0)),
    "plates": (two_plates, "mu", moments(Y, np.repeat([1.0, 2.0], [5, 7]), HALF)),
    "scale": (weighted, "mu", moments(np.r_[Y, Y[SEEN]])),
    "unused": (unused, "more", (0.0, 25.0)),
    "rows": (table, "a", np.stack([np.c_[moments(r)] for r in Y.reshape(3, 4)], -1)),
    "condition": (condition(scale_too, {"sigma": HALF}), "mu", moments(Y, 1, HALF)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_posteriors_have_their_closed_form(name):
    model, site, expected = PROGRAMS[name]
    if expected is None:  # of mu / 5
        mean, variance = moments(Y)
        expected = mean / 5, variance / 25
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 4, Y)
    found = guide.get_posterior(params)[site]
    expected = np.reshape(expected, (2, *np.shape(found.mean)))
    np.testing.assert_allclose((found.mean, found.variance), expected, rtol=2e-4)


def test_fits_side_by_side_and_calls_that_are_compiled():
    several = jnp.stack([Y, Y + 3, 2 * Y])
    guide = ns.AutoSVAE(level)
    svi = make_svi(level, guide)

    def fit(y):
        state = svi.init(random.key(0), y)
        return svi.get_params(svi.update(state, y)[0])

    params = jax.vmap(fit)(several)
    found = jax.vmap(lambda own: guide.get_posterior(own)["mu"].mean)(params)
    expected = [moments(np.asarray(y))[0] for y in several]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    first = jax.tree.map(lambda x: x[0], params)
    draw = jax.jit(lambda own, y: guide.sample_posterior(random.key(1), own, y))
    drawn = draw(first, Y)
    np.testing.assert_allclose(drawn["mu_twice"], 2 * drawn["mu"], rtol=1e-6)
    draws = guide.sample_posterior(random.key(1), first, sample_shape=(50,))
    predicted = Predictive(level, posterior_samples=draws)(random.key(2), Y)
    np.testing.assert_allclose(predicted["mu_twice"], 2 * draws["mu"], rtol=1e-6)


def test_kinds_of_data_that_are_numbers():
    guide = ns.AutoSVAE(level)
    svi = make_svi(level, guide)
    for y in (np.round(3 * Y).astype(int), Y.astype(np.float16)):
        params, _ = steps(svi, 1, y)
        found = guide.get_posterior(params)["mu"].mean
        np.testing.assert_allclose(found, moments(y.astype(float))[0], rtol=1e-3)


def two_levels(y):
    """A table of rows and columns, one entry a line."""
    row, column = np.divmod(np.arange(12), 4)
    design = jnp.asarray(np.c_[np.eye(3)[row], np.eye(4)[column]])
    w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([7]).to_event(1))
    with numpyro.plate("data", 12):
        numpyro.sample("y", dist.Normal(design @ w, 1.0), obs=y)


def test_rows_and_columns_of_a_table_are_a_regression():
    row, column = np.divmod(np.arange(12), 4)
    design = np.c_[np.eye(3)[row], np.eye(4)[column]]
    guide = ns.AutoSVAE(two_levels)
    params, _ = steps(make_svi(two_levels, guide), 2, Y)
    precision = design.T @ design + np.eye(7) / 25
    expected = np.linalg.solve(precision, design.T @ Y)
    found = guide.posterior_local(params, Y)["w"].mean
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def summed_over(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", WIDE)
    with numpyro.plate("data", len(y)):
        fn = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mu, 1.0))
        numpyro.sample("y", fn.expand([len(y), 1]).to_event(1), obs=y[:, None])


def inflated(y):
    gate = numpyro.sample("gate", dist.Beta(1.0, 1.0))
    eta = numpyro.sample("eta", WIDE)
    with numpyro.plate("data", len(y)):
        fn = dist.ZeroInflatedPoisson(gate, jnp.exp(eta)).expand([len(y), 1])
        numpyro.sample("y", fn.to_event(1), obs=jnp.round(jnp.abs(y))[:, None])


def multiplied(y):
    z, scale = numpyro.sample("z", WIDE), numpyro.sample("scale", dist.HalfCauchy(1.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(scale * z, 1.0), obs=y)


def noise_by_noise(y):
    mu = numpyro.sample("mu", WIDE)
    a, b = [numpyro.sample(n, dist.InverseGamma(3.0, 1.0)) for n in "ab"]
    with numpyro.plate("data", len(y) // 2):
        fn = dist.Normal(mu, jnp.sqrt(jnp.stack([a, a * b]))).to_event(1)
        numpyro.sample("y", fn, obs=y.reshape(-1, 2))


def halved(value):
    return dist.Bernoulli(0.5 * jnp.sum(value))


def prior(fn, y, likelihood=halved, **options):
    value = numpyro.sample("site", fn, **options)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", likelihood(value), obs=y > 0)


def covariance(fn, y, shown=lambda sigma: sigma):
    sigma = numpyro.sample("sigma", fn)
    with numpyro.plate("data", 6):
        normal = dist.MultivariateNormal(jnp.zeros(2), shown(sigma))
        numpyro.sample("y", normal, obs=y.reshape(6, 2))


def log_scale(y):
    s = numpyro.sample("s", WIDE)
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(x[..., 0], jnp.exp(s)), obs=y)


def gathered(y):
    """Several data of each label, in one long column."""
    with numpyro.plate("items", 4):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
    with numpyro.plate("data", len(y)):
        loc = jnp.array([-1.0, 1.0])[z[np.arange(12) % 4]]
        numpyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def switched_on(y):
    with numpyro.plate("features", 2):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
    w = numpyro.sample("w", WIDE.expand([2]).to_event(1))
    with numpyro.plate("data", len(y)):
        design = jnp.stack([y, y**2], -1)
        numpyro.sample("y", dist.Normal(design @ (z * w), 1.0), obs=y)


def rates_by_label(y):
    a, b = [numpyro.sample(name, dist.Gamma(2.0, 1.0)) for name in "ab"]
    at = numpyro.sample("at", dist.Categorical(jnp.ones(3) / 3))
    with numpyro.plate("data", len(y)):
        rate = jnp.where(np.arange(len(y)) < 4 * at, a, b)
        numpyro.sample("y", dist.Poisson(rate), obs=np.round(np.abs(y)))


def missing_numbers(y):
    mu = numpyro.sample("mu", WIDE)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=SEEN)


def some_steps(y):
    s = numpyro.sample("s", dist.Gamma(2.0, 2.0))
    one = jnp.eye(1)
    x = numpyro.sample("x", ns.LinearGaussianChain(one[0], one, one, one, num_steps=13))
    seen = dist.Normal(x[1:, 0], 1 / jnp.sqrt(s)).to_event(1)
    numpyro.sample("y", seen, obs=y)


def every_other(y):
    z = numpyro.sample("z", ns.DiscreteMarkovChain(jnp.ones(2) / 2, jnp.eye(2), 24))
    numpyro.sample("y", dist.Normal(1.0 * z[::2], 1.0).to_event(1), obs=y)


REFUSED = {
    "some steps": (some_steps, r"'y' .*some steps of 'x', as x\[1:\].*\.mask\(seen\)"),
    "every other step": (every_other, r"'y' .*some steps of 'z'.*\.mask\(seen\)"),
    "labels of a column": (gathered, r"'y' .*\(12,\), .*'z' of .*\(4,\).*\(M, N\)"),
    "labels together": (switched_on, r"'y' .*\(12,\), .*'z' .*without a plate"),
    "rates": (rates_by_label, r"'y' .*'a', 'b'.*one site.*rate\[side\]"),
    "missing numbers": (missing_numbers, r"'y_unobserved': obs_mask.*fn\.mask\(seen\)"),
    "a mixture": (summed_over, r"'y' .*z = numpyro\.sample\('z', dist\.Categorical"),
    "noises": (noise_by_noise, r"noises, as 'a', 'b', .*jnp\.stack\(\[a, b\]\)"),
    "not centred": (multiplied, r"'scale': .*loc \+ scale \* z.*Normal\(loc, scale\)"),
    "a gate": (inflated, r"'gate' .*jax\.nn\.sigmoid"),
    "known": (lambda y: prior(dist.Delta(0.5), y), r"'site'.*numpyro\.deterministic"),
    "masked": (mask(level, mask=False), r"'mu': found a mask on a global .*a broad"),
    "masked in part": (masked_in_part, "'mu': found a mask on a global"),
    "flat": (
        lambda y: prior(dist.Uniform(0.0, y[0]), y),
        r"'site'.*bounds that are numbers, or Beta",
    ),
    "a precision matrix": (
        lambda y: covariance(dist.Wishart(3.0, scale_matrix=jnp.eye(2)), y),
        r"'sigma': .*InverseWishart\(nu, scale_matrix=jnp\.linalg\.inv\(V\)\)",
    ),
    "a log scale": (
        lambda y: covariance(WIDE, y, lambda s: jnp.exp(s) * jnp.eye(2)),
        r"'sigma' .*dist\.LogNormal site",
    ),
    "a log scale of numbers": (
        log_scale,
        r"'y' .*another function of 's' .*dist\.LogNormal in its place",
    ),
    "logs": (
        lambda y: prior(dist.HalfNormal(1.0), y, lambda s: dist.LogNormal(0.0, s)),
        r"'site': .*jnp\.exp of a Normal site",
    ),
    "a rate": (
        lambda y: prior(dist.Gamma(1.0, 1.0), y, lambda s: dist.LogNormal(0.0, s)),
        r"'y' .*Normal\(loc, scale\) of their logs, jnp\.log\(y\)",
    ),
    "given": (
        substitute(scale_too, {"sigma": HALF}),
        r"'sigma': .*handlers\.condition",
    ),
    "enumerated": (enum(labelled, -2), r"'z': .*funsor\.enum .*summed over without"),
    "collapsed": (collapse(level), r"handlers\.collapse around .*the model without"),
    "no data": (unplated, r"'y': found data of shape \(0, 1\), which is nothing"),
    "no weights": (
        lambda y: prior(dist.Normal(0.0, 1.0).expand([0]).to_event(1), y),
        r"'site': found a latent site of shape \(0,\), which is nothing",
    ),
    "several": (
        lambda y: prior(WIDE, y, sample_shape=(2,)),
        r"'site': found sample_shape=\(2,\).*expand\(\[2\]\)\.to_event\(1\)",
    ),
    "a list": (
        lambda y: level(list(y)),
        r"'y': found data in a list.*np\.asarray\(y\)",
    ),
    "a masked array": (
        lambda y: level(np.ma.masked_less(y, 0.0)),
        r"'y': found a masked array.*fn\.mask\(~np\.ma\.getmaskarray\(y\)\)",
    ),
    "states": (
        lambda y: prior(dist.Dirichlet(jnp.ones(3)), y, likelihood=dist.Categorical),
        r"'y': found states of dtype bool.*astype\(int\)",
    ),
    "a table": (
        lambda y: level(xarray.DataArray(y)),
        r"'y': found data in a DataArray.*np\.asarray\(y\)",
    ),
    "bytes": (lambda y: level(y.astype(">f4")), "'y': found data of dtype >f4.*order"),
    "complex": (lambda y: level(y + 1j), "'y': found data of dtype complex.*real"),
    "objects": (lambda y: level(y.astype(object)), "'y': found data of dtype object"),
    "missing": (lambda y: level(np.where(y > 1, np.nan, y)), "'y': found .* are NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_to_write(name, monkeypatch):
    """By the package as it is: another test registers a block of its own."""
    own = [k for k in priors._PRIORS if k.__module__.startswith("numpyro_svae.")]
    monkeypatch.setattr(priors, "_PRIORS", own)
    model, text = REFUSED[name]
    with pytest.raises(ValueError, match=text), trace(), seed(rng_seed=0):
        ns.AutoSVAE(model)(Y)


def trials(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Binomial(300, p), obs=y)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_data_stored_in_few_bits_have_the_bound_of_the_others(dtype):
    counts = jnp.array([100, 120, 77, 126])
    svi = make_svi(trials, ns.AutoSVAE(trials))
    params = steps(svi, 1, counts)[0]
    found = [
        svi.loss.loss(random.key(0), params, trials, svi.guide, y)
        for y in (counts, counts.astype(dtype))
    ]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_a_first_score_cannot_be_under_a_transformation_of_the_caller():
    y = clusters(8)[0]
    guide = ns.AutoSVAE(mixture, num_starts=1)
    with trace() as messages, seed(rng_seed=0):
        guide(y)
    params = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    options = {"num_samples": 2, "num_particles": 1}

    def score(y):
        found = ns.log_likelihood(mixture, guide, params, random.key(0), y, **options)
        return found.value

    with pytest.raises(ValueError, match="a first call outside of these"):
        jax.jit(score)(y)
    np.testing.assert_allclose(score(y), jax.jit(score)(y), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (condition(data={"mu": 1.0}), "'mu': latent in the guide, and observed in"),
        (block(hide=["mu"]), "'mu': latent in the guide, and not there in"),
        (uncondition(), "'y': observed in the guide, and latent in"),
    ],
)
@pytest.mark.filterwarnings("ignore:Found .*vars in:UserWarning")
def test_another_model_than_that_of_the_guide_is_refused(change, found):
    with pytest.raises(ValueError, match=f"{found}.*one model for both"):
        ns.SVAE_ELBO().loss(random.key(0), {}, change(level), ns.AutoSVAE(level), Y)
