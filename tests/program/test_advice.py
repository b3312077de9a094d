# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs that are refused: the message tells the cause that is true, and a remedy."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

Y = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32)


def integrated(psi, W=None):
    def model(y):
        w, variance = W, psi
        if W is None:
            w = numpyro.sample("W", dist.Normal().expand([2, 1]).to_event(2))
        if isinstance(psi, dist.Distribution):
            variance = numpyro.sample("psi", psi.expand([2]).to_event(1))
        with numpyro.plate("data", len(y)):
            fn = dist.LowRankMultivariateNormal(jnp.zeros(2), w, variance)
            numpyro.sample("y", fn, obs=y)

    return model


def learnt(y):
    integrated(dist.InverseGamma(2.0, 1.0), numpyro.param("W", jnp.ones((2, 1))))(y)


def alone(fn):
    def model(y):
        numpyro.deterministic("twice", 2 * numpyro.sample("site", fn))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(jnp.zeros(2), 1.0).to_event(1), obs=y)

    return model


def ratings(y):
    standard = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    with numpyro.plate("rows", 12):
        u = numpyro.sample("u", standard)
    with numpyro.plate("columns", 2):
        v = numpyro.sample("v", standard)
    w = numpyro.sample("w", standard)
    row, column = np.divmod(np.arange(24), 2)
    with numpyro.plate("ratings", 24):
        fn = dist.Normal(jnp.sum(w * u[row] * v[column], -1), 1.0)
        numpyro.sample("y", fn, obs=y.ravel())


def stacked(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    with numpyro.plate("data", len(y)):
        fn = dist.MultivariateNormal(jnp.stack([a, b]), jnp.eye(2))
        numpyro.sample("y", fn, obs=y)


def autoregression(y):
    phi = numpyro.sample("phi", dist.Uniform(-1.0, 1.0))
    numpyro.sample("y", dist.Normal(phi * y[:-1], 1.0).to_event(2), obs=y[1:])


def picked(scale, members=()):
    """Numbers whose means a label picks, and whose noises another one may pick."""

    def model(y):
        with numpyro.plate("members", 2):
            mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
            s = numpyro.sample("s", dist.HalfNormal(1.0)) if "s" in members else None
        a = numpyro.sample("a", dist.HalfNormal(1.0)) if "a" in members else None
        b = numpyro.sample("b", dist.HalfNormal(1.0)) if "b" in members else None
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
            q = numpyro.sample("q", dist.Categorical(jnp.ones(2) / 2))
            numpyro.sample("y", dist.Normal(mu[z], scale(z, q, s, a, b)), obs=y[:, 0])

    return model


def of_all_and_each(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("data", len(y)):
        w = numpyro.sample("w", dist.Gamma(2.0, 2.0))
        numpyro.sample("y", dist.Normal(mu, s / jnp.sqrt(w)), obs=y[:, 0])


def labelled(fn):
    def model(y):
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", fn)
            numpyro.sample("y", dist.Normal(0.0, jnp.array([1.0, 2.0])[z]), obs=y[:, 0])

    return model


def mixed(y):
    with numpyro.plate("data", len(y)):
        parts = dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.arange(2.0), 1.0)
        x = numpyro.sample("x", dist.MixtureSameFamily(*parts))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y[:, 0])


def mixed_data(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("data", len(y)):
        parts = dist.Categorical(weights), dist.Normal(mu, sigma)
        fn = dist.MixtureSameFamily(*parts).expand([len(y), 2]).to_event(1)
        numpyro.sample("y", fn, obs=y)


def zeros(y):
    gate = numpyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
    with numpyro.plate("data", len(y)):
        fn = dist.ZeroInflatedPoisson(gate, rate).expand([len(y), 2]).to_event(1)
        numpyro.sample("y", fn, obs=jnp.asarray(y > 0, int))


def ordered(y):
    prior = dist.Normal(0.0, 5.0).expand([2]).to_event(1)
    order = dist.transforms.OrderedTransform()
    mu = numpyro.sample("mu", dist.TransformedDistribution(prior, order))
    labelled_by(mu, y)


def labelled_by(mu, y):
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y[:, 0])


def only_seen(y, seen):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[seen])
    numpyro.factor("others", jnp.log1p(-dist.Normal(mu, 1.0).cdf(y[~seen])).sum())


def beside(y):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(y)):
        a = numpyro.sample("a", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
        numpyro.sample("y", dist.StudentT(4.0, a + b * y, 1.0).to_event(1), obs=y)


FACTORS = r"x = numpyro\.sample\('x', Normal\(0, 1\).*Normal\(x @ W\.T, jnp\.sqrt\(psi"
REFUSED = {
    "loading integrated out": (integrated(jnp.ones(2)), rf"'y' .*'W'.*{FACTORS}"),
    "noise that is added": (learnt, rf"'y' .*sum, .*'psi'.*{FACTORS}"),
    "scale that is added": (
        integrated(dist.HalfNormal(1.0), jnp.ones((2, 1))),
        rf"'psi': .*noise of 'y'.*{FACTORS}",
    ),
    "ratings": (ratings, r"'y' .*'u', 'v'\. .*two at a time.*u\[row\] \* v\[column\]"),
    "stacked": (stacked, r"'a', 'b' that are entries.*one site.*of 2 entries"),
    "weight": (autoregression, r"'phi': .*weight.*as Normal\(0\.0"),
    "noises that a label picks": (
        picked(lambda z, q, s, a, b: jnp.where(z == 1, a, b), "ab"),
        r"'a', 'b', .*where\(z == 1, a, b\).*\('members', 2\), and s\[z\]",
    ),
    "a noise that another label picks": (
        picked(lambda z, q, s, a, b: s[q], "s"),
        r"'z' picks its mean and 'q' its noise\..*expand\(\[K\]\).*and mu\[z\]",
    ),
    "a noise that is known for a state": (
        picked(lambda z, q, s, a, b: jnp.where(q == 1, 10.0, a), "a"),
        r"'q' says where 'a' is its noise\..*narrow prior.*'members', 2\), and s\[z\]",
    ),
    "a product of noises": (of_all_and_each, r"product of 's', 'w'\. .*StudentT\(df"),
    "weights and vectors": (beside, r"weights 'b' and .* 'a'\. .*a\[group\] in the"),
    "a label": (labelled(dist.DiscreteUniform(-1, 0)), r"potential\. Its states begin"),
    "data of a mixture": (mixed_data, r"'sigma': .* potential\. Write the label"),
    "additional zeros": (zeros, r"'y' .*ZeroInfl.*'z', dist.Bernoulli.*where\(z == 1"),
    "ordered": (ordered, r"'mu': .* components need no order"),
    "a mixture": (mixed, r"'x': .* potential\. Write the label"),
    "alone": (alone(dist.HalfNormal()), "'site': no other site .*without it, or"),
    "flat and alone": (
        alone(dist.Uniform(0.0, 2.0)),
        "'site': no other site .* Uniform",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_and_what_to_write(name):
    model, text = REFUSED[name]
    with pytest.raises(ValueError, match=text), trace(), seed(rng_seed=0):
        ns.AutoSVAE(model)(Y)


def test_booleans_that_pick_data_are_told_to_be_a_mask():
    y = jnp.linspace(-1.0, 3.0, 8)
    match = (
        r"(?s)booleans for an index, as in y\[seen\] .*test_advice.*fn\.mask\(seen\)"
    )
    with pytest.raises(TypeError, match=match):
        steps(make_svi(only_seen, ns.AutoSVAE(only_seen)), 1, y, y < 2.0)


WALKS = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def walks(spelled):
    """Walks in a plate, or several of one site, whose noise is learnt."""
    s, one = numpyro.sample("s", dist.HalfNormal(1.0)), jnp.eye(1)
    if spelled == "together":
        fn = dist.GaussianRandomWalk(s, 8).expand([3]).to_event(1)
        rate = jnp.exp(numpyro.sample("x", fn))
        numpyro.sample("y", dist.Poisson(rate).to_event(2), obs=(WALKS > 0) * 1)
        return
    with numpyro.plate("walks", 3):
        fn = dist.GaussianRandomWalk(s, 8)
        if spelled == "chain":
            chain = jnp.zeros(1), s**2 * one, one, s**2 * one
            fn = ns.LinearGaussianChain(*chain, num_steps=8)
        x = numpyro.sample("x", fn)
        x = x[..., 0] if spelled == "chain" else x
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=WALKS)


def test_a_walk_with_learnt_noise_is_named_with_the_chain_to_write():
    text = r"'x' \(GaussianRandomWalk\).*'s'.*ns.LinearGaussianChain\(.*num_steps=8\)"
    for spelled in "together", "apart":
        with pytest.raises(ValueError, match=text), seed(rng_seed=0):
            ns.AutoSVAE(walks)(spelled)
    with seed(rng_seed=0):
        ns.AutoSVAE(walks, num_starts=1)("chain")
