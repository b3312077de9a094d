# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures of a Dirichlet process against their coordinate updates (Blei and Jordan,
2006), and probabilities that are products of those of several sites."""

from functools import partial
import itertools

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO
import pytest
from scipy.special import digamma, gammaln

import numpyro_svae as ns
from tests.data import make_svi, steps

K, WIDE, NOISE = 5, 4.0, 0.7
RNG = np.random.default_rng(0)
Y = np.repeat([-3.0, 0.0, 3.0], [8, 5, 2]) + NOISE * RNG.standard_normal(15)
MEANS = np.array([-2.0, 1.0, 4.0, -4.0, 0.0])


def in_one(concentration):
    with numpyro.plate("sticks", K - 1):
        return numpyro.sample("v", dist.Beta(1, concentration))


def of_rests(concentration):
    with numpyro.plate("sticks", K - 1):
        return 1 - numpyro.sample("v", dist.Beta(concentration, 1))


def one_by_one(concentration):
    prior = dist.Beta(1, concentration)
    return jnp.stack([numpyro.sample(f"v{k}", prior) for k in range(K - 1)])


def padded(v):
    rest = jnp.cumprod(1 - v, -1)
    one = partial(jnp.pad, constant_values=1)
    return one(v, (0, 1)) * one(rest, (1, 0))


def with_what_is_left(v):
    left, found = 1.0, []
    for k in range(K - 1):
        found.append(left * v[k])
        left = left * (1 - v[k])
    return jnp.stack([*found, 1 - sum(found)])


def in_logs(v):
    rest = jnp.append(0.0, jnp.cumsum(jnp.log1p(-v)))
    return jnp.exp(jnp.append(jnp.log(v), 0.0) + rest)


def process(sticks, break_, y):
    alpha = numpyro.sample("alpha", dist.Gamma(2.0, 1.5))
    weights = break_(sticks(0.5 * alpha))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0.0, WIDE))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], NOISE), obs=y)


def label_update(v, mean, variance):
    """Log weights of labels and their log normalisers, given sticks and components."""
    logs = digamma(v) - digamma(v.sum(0))
    log_pi = np.append(logs[0], 0.0) + np.append(0.0, np.cumsum(logs[1]))
    squares = (Y[:, None] - mean) ** 2 + variance
    score = log_pi - 0.5 * squares / NOISE**2 - np.log(NOISE) - 0.5 * np.log(2 * np.pi)
    top = score.max(-1, keepdims=True)
    total = np.log(np.exp(score - top).sum(-1, keepdims=True)) + top
    return np.exp(score - total), total.sum(), logs


def coordinate_ascent(sweeps):
    """Posteriors after sweeps from components at MEANS, and the bound."""
    v, shape, rate = np.ones((2, K - 1)), 2.0 + K - 1, 1.5
    mean, variance = MEANS, np.full(K, 0.1)
    for _ in range(sweeps):
        label, _, logs = label_update(v, mean, variance)
        rate = 1.5 - 0.5 * logs[1].sum()
        count = label.sum(0)
        after = np.cumsum(count[::-1])[::-1][1:]
        v = np.stack([1.0 + count[:-1], 0.5 * shape / rate + after])
        precision = 1 / WIDE**2 + count / NOISE**2
        mean, variance = label.T @ Y / NOISE**2 / precision, 1 / precision
    _, evidence, logs = label_update(v, mean, variance)
    log_alpha, alpha = digamma(shape) - np.log(rate), shape / rate
    normal = 0.5 * ((mean**2 + variance) / WIDE**2 - 1 - np.log(variance / WIDE**2))
    entropy = gammaln(v).sum(0) - gammaln(v.sum(0)) - np.sum((v - 1) * logs, 0)
    sticks = np.log(0.5) + log_alpha + (0.5 * alpha - 1) * logs[1] + entropy
    gamma = (
        (2.0 - shape) * log_alpha
        + (rate - 1.5) * alpha
        + 2.0 * np.log(1.5)
        - shape * np.log(rate)
        - gammaln(2.0)
        + gammaln(shape)
    )
    bound = evidence - normal.sum() + sticks.sum() + gamma
    return v, (shape, rate), mean, bound


SPELLINGS = {
    "padded": (in_one, padded),
    "rests": (of_rests, with_what_is_left),
    "apart": (one_by_one, in_logs),
}


@pytest.fixture(scope="module")
def found():
    return coordinate_ascent(300)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_dirichlet_process_has_its_coordinate_updates(name, found, x64):
    sticks, break_ = SPELLINGS[name]
    model = partial(process, sticks, break_)
    guide = ns.AutoSVAE(model, init={"mu": dist.Normal(MEANS, np.sqrt(0.1))})
    params, losses = steps(make_svi(model, guide), 300, Y)
    posterior = guide.get_posterior(params)
    v, alpha, mean, bound = found
    own = posterior.pop("alpha")
    np.testing.assert_allclose((own.concentration, own.rate), alpha, rtol=1e-6)
    np.testing.assert_allclose(posterior.pop("mu").mean, mean, atol=1e-6)
    both = [np.stack([b.concentration1, b.concentration0]) for b in posterior.values()]
    both = both[0] if len(both) == 1 else np.stack(both, -1)
    expected = v[::-1] if name == "rests" else v
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    np.testing.assert_allclose(losses[-1], -bound, rtol=1e-9)

    def one(key):
        return Trace_ELBO().loss(key, params, model, guide, Y)

    draws = np.asarray(jax.vmap(one)(random.split(random.PRNGKey(0), 4000)))
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - losses[-1]) < 4 * error < 0.5


def stay_or_jump(y):
    """Chains whose states last, and are left for another one."""
    with numpyro.plate("states", 3):
        stay = numpyro.sample("stay", dist.Beta(3.0, 1.0))
        jump = numpyro.sample("jump", dist.Dirichlet(jnp.ones(2)))
    others = jnp.array([[1, 2], [0, 2], [0, 1]])
    left = (1 - stay)[:, None] * jump
    rows = jnp.diag(stay).at[jnp.arange(3)[:, None], others].set(left)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(jnp.ones(3) / 3, rows, 4))
        loc = jnp.array([-1.0, 0.0, 1.0])[z]
        numpyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=y)


def test_rows_of_several_sites_have_the_expected_counts(x64):
    y = RNG.standard_normal((6, 4))
    guide = ns.AutoSVAE(stay_or_jump)
    params, _ = steps(make_svi(stay_or_jump, guide), 100, y)
    found = guide.get_posterior(params)
    stay = np.c_[found["stay"].concentration1, found["stay"].concentration0]
    jump = np.asarray(found["jump"].concentration)
    logs, apart = (digamma(x) - digamma(x.sum(-1, keepdims=True)) for x in (stay, jump))
    table = np.diag(logs[:, 0])
    table[~np.eye(3, dtype=bool)] = (logs[:, 1:] + apart).ravel()
    paths = np.array(list(itertools.product(range(3), repeat=4)))
    score = -0.5 * np.sum((y[:, None] - (paths - 1.0)) ** 2, -1) / 0.5**2
    score = score + table[paths[:, :-1], paths[:, 1:]].sum(-1)
    probs = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    counts = np.zeros((3, 3))
    np.add.at(counts, (paths[:, :-1], paths[:, 1:]), probs.sum(0)[:, None])
    same, left = np.diag(counts), counts[~np.eye(3, dtype=bool)].reshape(3, 2)
    np.testing.assert_allclose(stay, np.c_[3 + same, 1 + left.sum(-1)], rtol=1e-6)
    np.testing.assert_allclose(jump, 1 + left, rtol=1e-6)


def test_sticks_that_are_shifted_are_refused():
    shifted = dist.transforms.StickBreakingTransform()
    model = partial(process, in_one, shifted)
    with pytest.raises(ValueError, match=r"'z'.*sticks 'v'.*cumprod\(1 - v\)"):
        make_svi(model, ns.AutoSVAE(model)).init(random.PRNGKey(0), Y)


def test_sticks_with_another_parameter_than_one_are_refused():
    def broken(alpha):
        with numpyro.plate("sticks", K - 1):
            return numpyro.sample("v", dist.Beta(2.0, alpha))

    model = partial(process, broken, padded)
    with pytest.raises(ValueError, match=r"'v'.*where the other is 1"):
        make_svi(model, ns.AutoSVAE(model)).init(random.PRNGKey(0), Y)


def by_group(group, y):
    with numpyro.plate("groups", 2, dim=-2), numpyro.plate("sticks", K - 1, dim=-1):
        v = numpyro.sample("v", dist.Beta(1.0, 2.0))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(padded_rows(v)[group]))
        numpyro.sample("y", dist.Normal(jnp.arange(K)[z], 1.0), obs=y)


def padded_rows(v):
    one = jnp.ones((2, 1))
    rest = jnp.cumprod(1 - v, -1)
    return jnp.concatenate([v, one], -1) * jnp.concatenate([one, rest], -1)


def test_sticks_that_data_pick_are_refused():
    """Where they are would be another place in a later call."""
    svi = make_svi(by_group, ns.AutoSVAE(by_group))
    with pytest.raises(ValueError, match=r"'z'.*the same for all data"):
        svi.init(random.PRNGKey(0), jnp.arange(15) % 2, Y)
