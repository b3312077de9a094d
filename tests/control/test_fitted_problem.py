# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Planning with the steps of a fitted model, beside matrices and by hand."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.control import (
    ControlProblem,
    FittedProblem,
    QuadraticCost,
    plan_by_ilqr,
    plan_by_sampling,
)

KEY = random.PRNGKey(0)
RNG = np.random.default_rng(0)
Y, ACTIONS = RNG.standard_normal((1, 4, 2)), RNG.standard_normal((1, 3, 1))
COST = QuadraticCost(np.eye(2), 0.05 * np.eye(1), np.array([1.0, 0.0]))


def prior():
    loc, scale = jnp.array([[1.0, 0.3, 0.0], [0.0, 0.9, 0.5]]), 0.2 * jnp.eye(2)
    return ns.MatrixNormalInverseWishart(loc, 9 * jnp.eye(3), 9.0, scale)


def driven(y, actions, as_function):
    """A path with actions: a matrix, or the function that it is."""
    weight, noise = ns.sample("dynamics", prior())
    rest = {"inputs": actions, "num_steps": y.shape[1]}
    known = jnp.zeros(2), jnp.eye(2)
    if as_function:

        def move(x, u):
            return weight @ jnp.concatenate([x, u])

        chain = ns.NonlinearGaussianChain(*known, move, noise, **rest)
    else:
        chain = ns.LinearGaussianChain(*known, weight, noise, **rest)
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Normal(x, 0.3).to_event(2), obs=y)


def belief_of(model, *args):
    """What a filter knows at the start of training."""
    guide = ns.AutoSVAE(model, num_starts=1)
    optimizer = ns.svae_optimizer(optax.sgd(0.1), 0.1)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    params = svi.get_params(svi.init(KEY, *args))
    return ns.filter(model, guide, params, *args)


@pytest.mark.parametrize("as_function", [False, True])
def test_plans_are_those_of_sampled_matrices(x64, as_function):
    def model(y, actions):
        driven(y, actions, as_function)

    belief = belief_of(model, Y, ACTIONS)
    options = {"num_samples": 3, "lower": -2.0, "upper": 2.0}
    problem = FittedProblem.of(KEY, belief, COST, COST.final, 4, **options)
    weight = problem.draws["dynamics"][..., :3]
    beside = ControlProblem(COST, COST.final, 4, weight, problem.start, -2.0, 2.0)
    sizes = {"population": 32, "elites": 4, "num_steps": 6}
    found, expected = (
        plan_by_sampling(KEY, own, 1.0, **sizes) for own in (problem, beside)
    )
    np.testing.assert_allclose(found.actions, expected.actions, rtol=1e-9)
    np.testing.assert_allclose(found.cost, expected.cost, rtol=1e-9)
    assert found.cost < problem.expected_cost(jnp.zeros((4, 1)))
    found, expected = (plan_by_ilqr(own) for own in (problem, beside))
    np.testing.assert_allclose(found.actions, expected.actions, rtol=1e-6)
    for at_mean in (True, False):  # where samples start: all there, or none
        known = FittedProblem.of(KEY, belief, COST, COST.final, 4, at_mean=at_mean)
        off = jnp.abs(known.start - belief.marginals["x"].mean).max(-1)
        assert (off < 1e-12).all() if at_mean else (off > 1e-3).all()


def swinging(y_first, y, actions, sizes):
    """A pendulum of which the angle is seen, in a scan with steps of several sizes."""
    pull = numpyro.param("pull", 1.5)
    first = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))
    with numpyro.plate("data", 1):
        x = numpyro.sample("x0", first)
        numpyro.sample("y0", dist.Normal(x[:, :1], 0.1).to_event(1), obs=y_first)

    def step(x, given):
        seen, action, size = given
        with numpyro.plate("data", 1):
            mean = next_of(x, action, size, pull)
            x = numpyro.sample("x", dist.Normal(mean, 0.05).to_event(1))
            numpyro.sample("y", dist.Normal(x[:, :1], 0.1).to_event(1), obs=seen)
        return x, None

    scan(step, x, (y, actions, sizes))


def next_of(x, action, size, pull):
    force = action - pull * jnp.sin(x[..., :1])
    return x + size * jnp.concatenate([x[..., 1:], force], -1)


@pytest.mark.parametrize("own", [(), (1, 1)])  # of all sequences, or of each
@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # by the replay of a scan
def test_steps_of_a_scan_are_its_own(x64, own):
    """With the time between steps, which is known beforehand, and noise."""
    sizes = random.uniform(KEY, (3, *own))
    args = Y[:, 0, :1], Y[:, 1:, :1].swapaxes(0, 1), ACTIONS.swapaxes(0, 1), sizes
    belief = belief_of(swinging, *args)
    later = jnp.reshape(jnp.array([0.1, 0.4]), (2, *own[1:]))
    plan = jnp.array([[1.0], [-0.5]])
    options = {"known": {"sizes": later}, "num_samples": 2, "noisy": True}
    problem = FittedProblem.of(KEY, belief, COST, COST.final, 2, **options)
    paths = problem.rollout(plan)
    for s in range(2):
        x = problem.start[s]
        for t in range(2):
            x = next_of(x, plan[t], later[t], 1.5) + 0.05 * problem.noise[s, t]
            np.testing.assert_allclose(paths[s, t + 1], x, rtol=1e-10)
    with pytest.raises(ValueError, match=r"known: found \['actions'\]; .*'sizes'"):
        FittedProblem.of(KEY, belief, COST, COST.final, 2)
    options["known"] = {"sizes": jnp.ones((3, *own))}
    with pytest.raises(ValueError, match=r"known: found shape \(3.*'sizes'.* is \(2"):
        FittedProblem.of(KEY, belief, COST, COST.final, 2, **options)
