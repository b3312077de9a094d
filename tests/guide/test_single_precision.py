# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Losses and gradients in float32, against float64 of the same program and numbers.

Data are a thousand and a hundred thousand noise deviations large, about zero and far
from it, where log normalisers would have lost all digits.
"""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

N, T = 3, 12


def noise():
    return jnp.ones(()) * numpyro.param("noise", 1.3)


def chain(y, level, spread):
    """A walk that is seen through known weights."""
    eye = jnp.eye(2)
    with numpyro.plate("sequences", N):
        start = jnp.ones(2) * level, spread**2 * eye
        steps = ns.LinearGaussianChain(*start, eye, 0.04 * spread**2 * eye, num_steps=T)
        x = numpyro.sample("x", steps)
        loc = x @ jnp.array([[1.0, 0.2, 0.5], [0.0, 1.0, -0.5]])
        numpyro.sample("y", dist.Normal(loc, noise()).to_event(2), obs=y)


def vector(y, level, spread):
    """Vectors under a prior that is learnt, seen through known weights."""
    prior = ns.NormalInverseWishart(
        jnp.ones(2) * level, 0.5, 5.0, spread**2 * jnp.eye(2)
    )
    loc, cov = ns.sample("prior", prior)
    with numpyro.plate("sequences", N), numpyro.plate("steps", T):
        x = numpyro.sample("x", dist.MultivariateNormal(loc, cov))
        mean = x @ jnp.array([[1.0, 0.2, 0.5], [0.0, 1.0, -0.5]])
        numpyro.sample("y", dist.Normal(mean, noise()).to_event(1), obs=y)


def mixture(y, level, spread):
    """Labels and vectors."""
    centres = level + spread * jnp.array([[-1.0, 0.0], [1.0, 0.5]])
    with numpyro.plate("sequences", N), numpyro.plate("steps", T):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
        fn = dist.MultivariateNormal(centres[z], spread**2 * jnp.eye(2))
        x = numpyro.sample("x", fn)
        mean = x @ jnp.array([[1.0, 0.2, 0.5], [0.0, 1.0, -0.5]])
        numpyro.sample("y", dist.Normal(mean, noise()).to_event(1), obs=y)


def hmm(y, level, spread):
    """States with emissions far apart."""
    centres = level + spread * jnp.array([[0.0, 0.0, 0.0], [1.0, -0.5, 0.3]])
    rows = jnp.array([[0.8, 0.2], [0.3, 0.7]])
    with numpyro.plate("sequences", N):
        states = ns.DiscreteMarkovChain(rows[1], rows, num_steps=T)
        z = numpyro.sample("z", states)
        numpyro.sample("y", dist.Normal(centres[z], noise()).to_event(2), obs=y)


def groups(y, level, spread):
    """Groups and their members, a graph."""
    eye = spread**2 * jnp.eye(2)
    with numpyro.plate("sequences", N):
        top = dist.MultivariateNormal(level * jnp.ones(2), eye)
        m = numpyro.sample("m", top)
        with numpyro.plate("steps", T):
            x = numpyro.sample("x", dist.MultivariateNormal(m, 0.3 * eye))
            mean = x @ jnp.array([[1.0, 0.2, 0.5], [0.0, 1.0, -0.5]])
            seen = dist.MultivariateNormal(mean, noise() ** 2 * jnp.eye(3))
            numpyro.sample("y", seen, obs=y)


def autoregression(y, level, spread):
    """An autoregression of two steps: the state before moves without noise."""
    companion = jnp.array([[0.8, 0.2], [1.0, 0.0]])
    with numpyro.plate("sequences", N):
        steps = ns.LinearGaussianChain(
            jnp.ones(2) * level,
            spread**2 * jnp.eye(2),
            companion,
            0.1 * spread**2 * jnp.diag(jnp.array([1.0, 0.0])),
            num_steps=T,
        )
        x = numpyro.sample("x", steps)
        loc = x @ jnp.array([[1.0, 0.2, 0.5], [0.0, 1.0, -0.5]])
        numpyro.sample("y", dist.Normal(loc, noise()).to_event(2), obs=y)


def loadings(y, level, spread):
    """A walk that is seen through weights and noise that are learnt."""
    scale = spread * jnp.eye(3, 2)
    loc = jnp.concatenate([scale, level * jnp.ones((3, 1))], 1)
    columns = jnp.eye(3)
    prior = ns.MatrixNormalInverseWishart(loc, columns, 5.0, 3 * jnp.eye(3))
    weight, cov = ns.sample("emission", prior)
    eye = jnp.eye(2)
    with numpyro.plate("sequences", N):
        steps = ns.LinearGaussianChain(
            jnp.zeros(2), eye, 0.9 * eye, noise() * eye, num_steps=T
        )
        x = numpyro.sample("x", steps)
        mean = x @ weight[:, :2].T + weight[:, 2]
        seen = dist.MultivariateNormal(mean, cov).to_event(1)
        numpyro.sample("y", seen, obs=y)


def precisions(y, level, spread):
    """A walk, with a noise whose precision has a Gamma prior."""
    tau = numpyro.sample("tau", dist.Gamma(2.0 * noise(), 1.0))
    with numpyro.plate("sequences", N):
        eye = jnp.eye(1)
        start = jnp.ones(1) * level, spread**2 * eye
        walk = ns.LinearGaussianChain(*start, eye, 0.04 * spread**2 * eye, num_steps=T)
        x = numpyro.sample("x", walk)
        loc = x @ jnp.array([[1.0, 0.2, 0.5]])
        numpyro.sample("y", dist.Normal(loc, 1 / jnp.sqrt(tau)).to_event(2), obs=y)


def data(model, level, spread):
    """What the program draws, in numbers of single precision."""
    run = numpyro.handlers.seed(model, random.PRNGKey(3))
    run = numpyro.handlers.substitute(run, data={"tau": 0.4, "noise": 2.0})
    seen = numpyro.handlers.trace(run).get_trace(None, level, spread)
    return np.asarray(seen["y"]["value"], np.float32)


PROBLEMS = ["chain", "vector", "mixture", "hmm", "groups", "autoregression"]


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request):
    return build(globals()[request.param])


@pytest.fixture(scope="module", params=["loadings", "precisions"])
def noisy_problem(request):
    return build(globals()[request.param])


class Compiled:
    """A program with a guide and a step of its own, in one precision."""

    def __init__(self, model):
        self.guide = ns.AutoSVAE(model, num_starts=1)
        self.svi = make_svi(model, self.guide)

        @jax.jit
        def value_and_grad(params, *args):
            def loss(params):
                elbo = ns.SVAE_ELBO()
                return elbo.loss(random.PRNGKey(0), params, model, self.guide, *args)

            return jax.value_and_grad(loss)(params)

        self.value_and_grad = value_and_grad


def build(model):
    return model, Compiled(model), Compiled(model)


def assert_close(problem, level, spread):
    """As close as rounding of the parameters themselves lets them be.

    Natural parameters hold second moments about the origin, and their gradient is what
    is left of these at the end.
    """
    model, double, single = problem
    with jax.enable_x64(True):
        args = data(model, level, spread), np.float32(level), np.float32(spread)
        params = double.svi.get_params(double.svi.init(random.PRNGKey(0), *args))
        given = jax.tree.map(lambda x: np.asarray(x, np.float32), (params, args))
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), given)
        exact = jax.tree.map(np.asarray, double.value_and_grad(wide[0], *wide[1]))
    with jax.enable_x64(False):
        found = jax.tree.map(np.asarray, single.value_and_grad(given[0], *given[1]))
    assert (found[0].dtype, exact[0].dtype) == (np.float32, np.float64)
    count = N * T if model in (vector, mixture) else N  # of independent data
    np.testing.assert_allclose(found[0], exact[0], atol=0.01 * count, rtol=1e-6)
    leaves = map(jax.tree.leaves, (found[1], exact[1], wide[0]))
    for leaf, other, parameter in zip(*leaves):
        rounding = 32 * np.finfo(np.float32).eps * np.abs(parameter).max()
        least = 1e-3 * np.abs(other).max() + rounding + 1e-4
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=least)


@pytest.mark.parametrize("level", [0.0, 1e4])
@pytest.mark.parametrize("spread", [1e3, 1e5])
def test_known_noise(problem, level, spread):
    assert_close(problem, level, spread)


@pytest.mark.parametrize("level", [0.0, 1e3])
def test_learnt_noise(noisy_problem, level):
    assert_close(noisy_problem, level, 1e3)


def members(y, level):
    """Labels, means of a population, precisions of their own: independent priors."""
    top = numpyro.sample("top", dist.Normal(level, 5.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mean = numpyro.sample("mean", dist.Normal(top, 2.0))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mean[z], tau[z] ** -0.5), obs=y)


def test_independent_priors_far_from_zero():
    """Data, and the prior, moved by ten thousand deviations: all is as it was."""
    guide = ns.AutoSVAE(members, num_starts=1)
    svi = make_svi(members, guide, natural=0.3)
    noise = np.random.default_rng(0).standard_normal(24)
    y = np.round(32 * (noise + 4.0 * (np.arange(24) % 2))) / 32  # sums are exact
    update, losses = jax.jit(svi.update), []
    for level in (0.0, 16384.0):
        args = jnp.asarray(y + level, jnp.float32), jnp.asarray(level, jnp.float32)
        state = svi.init(random.PRNGKey(0), *args)
        for _ in range(5):
            state, loss = update(state, *args)
        losses.append(float(loss))
    np.testing.assert_allclose(*losses, atol=0.02)
