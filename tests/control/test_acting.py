# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Agents that filter and plan, and the loop of acting and fitting."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.control import (
    ControlProblem,
    PiecewiseProblem,
    QuadraticCost,
    RecedingHorizon,
    aggregate,
    plan_by_sampling,
    run_episode,
)

WEIGHT = np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.3]])  # position, speed, force
NOISE = 1e-3
HORIZON = 10


def pushed(y, actions, rewards):
    """A mass on rails whose position is seen, and what it is worth."""
    with numpyro.plate("sequences", len(y)):
        chain = ns.LinearGaussianChain(
            jnp.zeros(2),
            jnp.eye(2),
            jnp.asarray(WEIGHT, jnp.float32),
            NOISE * jnp.eye(2),
            inputs=actions,
            num_steps=y.shape[1],
        )
        x = numpyro.sample("x", chain)
        seen = dist.MultivariateNormal(x[..., :1], 0.01 * jnp.eye(1)).to_event(1)
        numpyro.sample("y", seen, obs=y)
        worth = dist.Normal(-(x[:, :-1, 0] ** 2), 0.1).to_event(1)
        numpyro.sample("rewards", worth, obs=rewards)


def recognition(y, actions, rewards):
    """What a position says, and nothing of the speed."""
    vector = jnp.concatenate([y, jnp.zeros_like(y)], -1) / 0.01
    return {"x": ns.GaussianPotential(vector, jnp.array([[[100.0, 0.0]]]))}


class Rails:
    """The mass, with the interface of gymnasium; it ends far away."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        self.state = np.array([1.0, 0.0])
        return self.see(), {}

    def step(self, action):
        reward = -(self.state[0] ** 2)
        self.state = WEIGHT @ np.append(self.state, action)
        far = abs(self.state[0]) > 3
        return self.see(), reward, far, False, {}

    def see(self):
        return self.state[:1] + 0.1 * self.rng.standard_normal(1)


class Always:
    """An agent of one action."""

    def __init__(self, action):
        self.action = np.array([action])

    def reset(self):
        self.last = None

    def act(self, observation):
        self.last = observation
        return self.action


def arguments(y, actions):
    rewards = jnp.zeros(len(actions))
    found = {"y": y, "actions": actions, "rewards": rewards}
    return {name: jnp.asarray(v, jnp.float32)[None] for name, v in found.items()}


def problem(key, belief):
    cost = QuadraticCost(jnp.eye(2), 0.01 * jnp.eye(1), jnp.zeros(2))
    start = belief.marginals["x"].sample(key, (4,))[:, 0]
    weight = jnp.broadcast_to(jnp.asarray(WEIGHT, jnp.float32), (4, 2, 3))
    return ControlProblem(cost, cost.final, HORIZON, weight, start, -1.0, 1.0)


def planner(key, problem, start):
    return plan_by_sampling(key, problem, 0.5, start, population=64, elites=8)


@pytest.fixture(scope="module")
def fitted():
    guide = ns.AutoSVAE(pushed, recognition)
    data = arguments(np.zeros((3, 1)), np.zeros((2, 1)))
    return guide, ns.filter(pushed, guide, {}, **data)


@pytest.fixture(scope="module")
def agent(fitted):
    start = jnp.full((HORIZON, 1), -0.5)
    return RecedingHorizon(fitted[1], arguments, problem, planner, start, random.key(0))


def test_an_agent_that_sees_positions_stops_the_mass(agent):
    env = Rails()
    episode = run_episode(env, agent, 30)
    idle = run_episode(env, Always(0.0), 30)
    assert episode.observations.shape == (31, 1)
    assert episode.actions.shape == (30, 1)
    assert episode.actions[0] == -0.5  # that of the start
    assert np.max(np.abs(episode.actions)) <= 1
    assert idle.total == -30
    assert episode.total > -8
    assert np.abs(episode.observations[-8:]).mean() < 0.2


def test_its_belief_is_what_smoothing_says_of_the_last_step(fitted, agent):
    guide, _ = fitted
    episode = run_episode(Rails(), agent, 6)
    agent.act(episode.observations[-1])
    data = arguments(episode.observations, episode.actions)
    goal = guide.posterior_local({}, **data)["x"]
    found = agent.belief.marginals["x"]
    np.testing.assert_allclose(found.mean, goal.mean[:, -1], atol=1e-4)
    np.testing.assert_allclose(
        found.covariance_matrix, goal.covariance[:, -1], atol=1e-4
    )


def test_a_filter_starts_again_with_other_data(fitted):
    guide, belief = fitted
    y = np.random.default_rng(0).standard_normal((7, 1))
    data = arguments(y, np.ones((6, 1)))
    goal = guide.posterior_local({}, **data)["x"]
    found = belief.restart(**data).marginals["x"]
    np.testing.assert_allclose(found.mean, goal.mean[:, -1], atol=1e-5)
    np.testing.assert_allclose(
        found.covariance_matrix, goal.covariance[:, -1], atol=1e-5
    )
    with pytest.raises(ValueError, match=r"Arguments \['z'\].*'actions', 'rewards'"):
        belief.restart(z=y)


def test_episodes_end_where_the_environment_says():
    episode = run_episode(Rails(), Always(1.0), 50)
    count = len(episode.rewards)
    assert count < 50
    assert len(episode.actions) == count
    assert len(episode.observations) == count + 1


def test_data_of_each_round_are_there_in_the_next():
    seen = []

    def fit(episodes):
        seen.append(len(episodes))
        return Always(0.1 * len(seen))

    first = [run_episode(Rails(), Always(0.0), 3)]
    options = {"num_rounds": 3, "episodes_per_round": 2, "num_steps": 3}
    rounds = list(aggregate(Rails(), fit, first, **options))
    assert seen == [1, 3, 5]
    assert len(first) == 1
    for i, (agent, new) in enumerate(rounds):
        assert len(new) == 2
        assert agent.action == new[0].actions[0] == 0.1 * (i + 1)


def test_pieces_move_a_state_by_their_mean(x64):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 2, 2, 4))  # samples, pieces
    start, actions = rng.standard_normal((3, 2)), rng.standard_normal((5, 1))
    cost = QuadraticCost(jnp.eye(2), jnp.eye(1), jnp.zeros(2))

    def pieces(x):
        return jax.nn.softmax(jnp.stack([x[0], -x[1]]))

    def problem_of(weight):
        options = {"known": jnp.ones(1), "pieces": pieces}
        given = jnp.asarray(weight), jnp.asarray(start)
        return PiecewiseProblem(cost, cost.final, 5, *given, **options)

    problem = problem_of(weight)
    assert problem.num_actions == 1
    paths = problem.rollout(jnp.asarray(actions))
    for s in range(3):
        x = start[s]
        for t in range(5):
            logits = np.array([x[0], -x[1]])
            share = np.exp(logits) / np.exp(logits).sum()
            u = np.concatenate([x, actions[t], [1.0]])
            x = share[0] * weight[s, 0] @ u + share[1] * weight[s, 1] @ u
            np.testing.assert_allclose(paths[s, t + 1], x, rtol=1e-10)
    steps = np.repeat(weight[:, None], 5, 1)
    again = problem_of(steps).rollout(jnp.asarray(actions))
    np.testing.assert_allclose(again, paths, rtol=1e-12)
    with pytest.raises(ValueError, match=r"accepted are \(S, K, D, D \+ A \+ E\)"):
        problem_of(weight[:, 0])
