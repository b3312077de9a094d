# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One model in several spellings: all of them have the posterior of the plain one."""

from contextlib import ExitStack
from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import AffineTransform, LowerCholeskyAffine
from numpyro.handlers import seed, substitute, trace
import pytest
from scipy.special import digamma

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.reading import assert_read_alike

RNG = np.random.default_rng(0)
LABEL = np.arange(16) % 2
Y = np.where(LABEL, 2.0, -1.0) + 0.5 * RNG.standard_normal(16)
WIDE = dist.Normal(0.0, 5.0)


def fitted(model, count=12, y=Y):
    """The guide and its parameters, and the last loss."""
    guide = ns.AutoSVAE(model, num_starts=1)
    params, losses = steps(make_svi(model, guide), count, y)
    return guide, params, losses[-1]


def labelled(components, gaussian):
    """Data of two states, whose label picks what they are drawn from."""

    def model(y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        own = components()
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", gaussian(z, *own), obs=y)

    return model


def batch():
    with numpyro.plate("states", 2):
        return (numpyro.sample("mu", WIDE),)


def vector():
    return (numpyro.sample("mu", WIDE.expand([2]).to_event(1)),)


def apart():
    return numpyro.sample("a", WIDE), numpyro.sample("b", WIDE)


def noisy():
    return numpyro.sample("mu", WIDE), numpyro.sample("tau", dist.Gamma(2.0, 1.0))


def test_a_label_picks_one_of_several_sites():
    def member(z, mu):
        return dist.Normal(mu[z], 0.5)

    def picked(z, a, b):
        return dist.Normal(jnp.where(z == 1, b, a), 0.5)

    plain = fitted(labelled(batch, member))
    expected = plain[0].get_posterior(plain[1])["mu"]
    for components, pick in (apart, picked), (vector, member):
        guide, params, loss = fitted(labelled(components, pick))
        np.testing.assert_allclose(loss, plain[2], rtol=1e-4)
        found = guide.get_posterior(params)
        blocks = [b for n, b in found.items() if n != "weights"]
        for part in "mean", "variance":
            values = np.ravel([getattr(b, part) for b in blocks])
            goal = np.sort(getattr(expected, part))
            np.testing.assert_allclose(np.sort(values), goal, rtol=1e-3)


def test_a_label_says_whether_a_site_counts_and_how_noise_is_scaled():
    """The posterior is the fixed point of its coordinate updates."""

    def inflated(z, mu, tau):
        loc, scale = jnp.where(z == 1, 2 * mu, -1.0), jnp.where(z == 1, 1.5, 1.0)
        return dist.Normal(loc, scale / jnp.sqrt(tau))

    guide, params, _ = fitted(labelled(noisy, inflated), 40)
    found = guide.get_posterior(params)
    label = np.asarray(guide.posterior_local(params, Y)["z"].probs)
    mean, tau = float(found["mu"].mean), float(found["tau"].mean)
    variance = float(found["mu"].variance)

    share = label[:, 1] / 1.5**2
    precision = 1 / 25 + tau * 4 * np.sum(share)
    moment = tau * 2 * np.sum(share * Y) / precision
    np.testing.assert_allclose((mean, variance), (moment, 1 / precision), rtol=1e-3)
    squares = np.c_[(Y + 1) ** 2, ((Y - 2 * mean) ** 2 + 4 * variance) / 1.5**2]
    rate = 1.0 + 0.5 * np.sum(label * squares)
    np.testing.assert_allclose(tau, (2.0 + 8.0) / rate, rtol=1e-3)
    log = digamma(np.asarray(found["weights"].concentration))
    score = log - log.max() - 0.5 * tau * squares - [0.0, np.log(1.5)]
    expected = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    np.testing.assert_allclose(label, expected, atol=2e-3)


def test_a_label_picks_a_member_and_how_it_counts():
    """The mean of each member is the fixed point of its update."""
    factor, spread = np.array([1.0, 2.0]), np.array([1.0, 3.0])

    def members_with_noises():
        with numpyro.plate("states", 2):
            return noisy()

    def gaussian(z, mu, tau):
        scale = jnp.asarray(spread)[z] / jnp.sqrt(tau[z])
        return dist.Normal(jnp.asarray(factor)[z] * mu[z], scale)

    guide, params, _ = fitted(labelled(members_with_noises, gaussian), 40)
    found = guide.get_posterior(params)
    label = np.asarray(guide.posterior_local(params, Y)["z"].probs)
    weight = found["tau"].mean * factor / spread**2
    precision = 1 / 25 + weight * factor * label.sum(0)
    np.testing.assert_allclose(found["mu"].variance, 1 / precision, rtol=1e-3)
    expected = weight * (Y @ label) / precision
    np.testing.assert_allclose(found["mu"].mean, expected, rtol=1e-3)


X = RNG.standard_normal((16, 3))
GROUP = np.arange(16) % 4


def regression(weights):
    def model(y=Y):
        w, tau = weights(), numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", 16):
            numpyro.sample("y", dist.Normal(X @ w, 1 / jnp.sqrt(tau)), obs=y)

    return model


def outputs(weights):
    def model():
        w = weights()
        with numpyro.plate("data", 16):
            fn = dist.Normal(X @ w, jnp.array([0.5, 1.0]))
            numpyro.sample("y", fn.to_event(1), obs=np.c_[Y, -Y])

    return model


def slopes(weights):
    def model():
        w = weights()
        with numpyro.plate("data", 16):
            loc = jnp.sum(X * w[GROUP], -1)
            numpyro.sample("y", dist.Normal(loc, 0.5), obs=Y)

    return model


def crossed(rows, columns):
    def model():
        a, b = rows("a", 4), columns("b", 3)
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", 16):
            loc = a[GROUP] + b[np.arange(16) // 6]
            numpyro.sample("y", dist.Normal(loc, 1 / jnp.sqrt(tau)), obs=Y)

    return model


def effects(name, size):
    with numpyro.plate(f"{name}s", size):
        return numpyro.sample(name, WIDE)


def effects_in_one(name, size):
    return numpyro.sample(name, WIDE.expand([size]).to_event(1))


def vectors(latent):
    def model():
        x = latent()
        with numpyro.plate("data", 16):
            fn = dist.Normal(x @ jnp.ones((2, 3)), 0.5)
            numpyro.sample("y", fn.to_event(1), obs=X)

    return model


def entries_in_plates():
    with numpyro.plate("data", 16, dim=-2), numpyro.plate("entries", 2, dim=-1):
        return numpyro.sample("x", dist.Normal(0.0, 1.0))


def vectors_of_data():
    with numpyro.plate("data", 16):
        return numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))


def members(gaussian):
    def model():
        mu, tau = gaussian()
        with numpyro.plate("data", 16):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(4) / 4))
            fn = dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])).to_event(1)
            numpyro.sample("y", fn, obs=X)

    return model


def event(*shape):
    return numpyro.sample("w", WIDE.expand(shape).to_event(len(shape)))


def plates(*shape):
    with ExitStack() as stack:
        for axis, size in enumerate(shape, -len(shape)):
            stack.enter_context(numpyro.plate(f"axis{axis}", size, dim=axis))
        return numpyro.sample("w", WIDE)


def groups_of_events():
    with numpyro.plate("axis-2", 4):
        return event(3)


def with_noises(mean, *shape):
    def gaussian():
        with numpyro.plate("axis-2", 4):
            mu = mean()
            prior = dist.Gamma(2.0, 1.0).expand(shape)
            return mu, numpyro.sample("tau", prior.to_event(1))

    return gaussian


def binary(label):
    def model():
        p = numpyro.sample("p", dist.Beta(1.0, 2.0))
        (mu,) = batch()
        with numpyro.plate("data", 16):
            z = numpyro.sample("z", label(p))
            numpyro.sample("y", dist.Normal(jnp.where(z, mu[1], mu[0]), 1.0), obs=Y)

    return model


def of_two(p):
    return dist.Categorical(jnp.stack([1 - p, p], -1))


def rates(prior, likelihood):
    def model():
        value = numpyro.sample("value", prior)
        with numpyro.plate("data", 16):
            numpyro.sample("y", likelihood(value), obs=LABEL)

    return model


def noises_in_plates():
    with numpyro.plate("axis-2", 4, dim=-2), numpyro.plate("axis-1", 3, dim=-1):
        return numpyro.sample("w", WIDE), numpyro.sample("tau", dist.Gamma(2.0, 1.0))


def groups_of(prior):
    def model():
        with numpyro.plate("groups", 4):
            mu = numpyro.sample("mu", prior)
        with numpyro.plate("data", 16):
            numpyro.sample("y", dist.Normal(mu[GROUP], 0.5).to_event(1), obs=X)

    return model


LOC, ROOT = jnp.array([1.0, 0.0, 2.0]), jnp.eye(3) + jnp.eye(3, k=-1)
SCALE = jnp.array([2.0, -1.0, 0.5])
STANDARD = dist.Normal(0.0, 1.0).expand([3]).to_event(1)


def moved(prior, *transforms):
    return groups_of(dist.TransformedDistribution(prior, [*transforms]))


def seen_as(response):
    def model():
        mu = numpyro.sample("mu", STANDARD)
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", 16):
            numpyro.sample("y", response(mu, tau**-0.5), obs=X)

    return model


def moved_data(mu, scale):
    base = dist.Normal(0.0, scale).expand([3])
    return dist.TransformedDistribution(base, AffineTransform(mu, -2.0)).to_event(1)


def shapes_alone(*shape):
    return numpyro.sample("w", dist.Normal(jnp.zeros(shape), 5.0))


ALIKE = {
    "features": (regression(partial(plates, 3)), regression(partial(event, 3))),
    "no event": (regression(partial(shapes_alone, 3)), regression(partial(event, 3))),
    "matrix": (outputs(partial(plates, 3, 2)), outputs(partial(event, 3, 2))),
    "slopes": (slopes(partial(plates, 4, 3)), slopes(groups_of_events)),
    "states": (members(noises_in_plates), members(with_noises(partial(event, 3), 3))),
    "crossed": (crossed(effects, effects), crossed(effects_in_one, effects_in_one)),
    "vectors": (vectors(entries_in_plates), vectors(vectors_of_data)),
    "binary": (binary(dist.Bernoulli), binary(of_two)),
    "uniform states": (
        binary(lambda p: dist.DiscreteUniform(0, 1)),
        binary(lambda p: dist.Categorical(jnp.ones(2) / 2)),
    ),
    "moved numbers": (
        moved(STANDARD, AffineTransform(LOC, SCALE)),
        groups_of(dist.Normal(LOC, jnp.abs(SCALE)).to_event(1)),
    ),
    "moved vectors": (
        moved(
            STANDARD, LowerCholeskyAffine(0.0 * LOC, ROOT), AffineTransform(LOC, SCALE)
        ),
        groups_of(dist.MultivariateNormal(LOC, ROOT @ ROOT.T * SCALE * SCALE[:, None])),
    ),
    "moved data": (
        seen_as(moved_data),
        seen_as(lambda mu, s: dist.Normal(mu, 2.0 * s).to_event(1)),
    ),
    "uniform": (
        rates(dist.Uniform(), dist.Bernoulli),
        rates(dist.Beta(1.0, 1.0), dist.Bernoulli),
    ),
    "rate": (
        rates(dist.Exponential(2.0), dist.Poisson),
        rates(dist.Gamma(1.0, 2.0), dist.Poisson),
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_two_spellings_are_read_alike(name):
    assert_read_alike(*ALIKE[name])


def test_weights_in_a_plate_have_the_draws_and_the_posterior_of_a_vector():
    guide, params, _ = fitted(regression(partial(plates, 3)), 30)
    found = guide.get_posterior(params)
    precision = found["tau"].mean * X.T @ X + np.eye(3) / 25
    np.testing.assert_allclose(found["w"].precision_matrix, precision, rtol=1e-3)
    mean = np.linalg.solve(precision, found["tau"].mean * X.T @ Y)
    np.testing.assert_allclose(found["w"].mean, mean, rtol=1e-3, atol=1e-4)

    messages = trace(seed(substitute(guide, params), 0)).get_trace(Y)
    drawn = messages["w"]
    assert drawn["fn"].batch_shape == drawn["value"].shape == (3,)
    log_density = drawn["fn"].log_prob(drawn["value"]).sum()
    np.testing.assert_allclose(
        log_density, found["w"].log_prob(drawn["value"]), rtol=1e-5
    )
