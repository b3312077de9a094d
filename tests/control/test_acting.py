# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Agents that follow the latent state, and act on what they know of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.control import (
    ControlProblem,
    Feedback,
    LatentAgent,
    LinearGaussianPolicy,
    PiecewiseProblem,
    Plan,
    QuadraticCost,
    RecedingHorizon,
    Tracker,
    plan_by_gradient,
    plan_by_sampling,
    run_episode,
    solve_lqr,
)
from tests.test_compilations import compilations

WEIGHT = np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.3]])  # position, speed, force
HORIZON = 10


def pushed(y, actions, rewards=None):
    """A mass on rails whose position is seen, and what it is worth."""
    noise = numpyro.param("noise", 1e-3)
    with numpyro.plate("sequences", len(y)):
        chain = ns.LinearGaussianChain(
            jnp.zeros(2),
            jnp.eye(2),
            jnp.asarray(WEIGHT, jnp.float32),
            noise * jnp.eye(2),
            inputs=actions,
            num_steps=y.shape[1],
        )
        x = numpyro.sample("x", chain)
        seen = dist.MultivariateNormal(x[..., :1], 0.01 * jnp.eye(1)).to_event(1)
        numpyro.sample("y", seen, obs=y)
        worth = dist.Normal(x @ jnp.array([-1.0, 0.0]), 0.1).to_event(1)
        numpyro.sample("rewards", worth, obs=rewards)


def arguments(observations, actions):
    return {"y": observations, "actions": actions, "rewards": None}


class Rails:
    """The mass, with the interface of gymnasium."""

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.state = np.array([1.0, 0.0])
        return self.see(), {}

    def step(self, action):
        reward = -(self.state[0] ** 2)
        self.state = WEIGHT @ np.append(self.state, action)
        return self.see(), reward, False, False, {}

    def see(self):
        return self.state[:1] + 0.1 * self.rng.standard_normal(1)


COST = QuadraticCost(np.eye(2), 0.01 * np.eye(1), np.zeros(2))


def problem(key, belief):
    start = belief.marginals["x"].sample(key, (4,))[:, 0]
    weight = jnp.broadcast_to(jnp.asarray(WEIGHT, jnp.float32), (4, 2, 3))
    return ControlProblem(COST, COST.final, HORIZON, weight, start, -1.0, 1.0)


def planner(key, problem, start):
    return plan_by_sampling(key, problem, 0.5, start, population=64, elites=8)


PLANS = RecedingHorizon(problem, planner, jnp.zeros((HORIZON, 1)))


def regulator():
    """Feedback for known dynamics."""
    sharp = ns.MatrixNormalInverseWishart(
        jnp.asarray(WEIGHT, jnp.float32), 1e4 * jnp.eye(3), 9.0, 1e-3 * jnp.eye(2)
    )
    return Feedback(solve_lqr(sharp, COST, HORIZON))


@pytest.fixture(scope="module")
def tracker():
    guide, params = ns.AutoSVAE(pushed), {"noise": jnp.asarray(1e-3)}
    with_rewards = np.zeros((1, 3, 1)), np.zeros((1, 2, 1)), np.zeros((1, 3))
    guide.posterior_local(params, *with_rewards)  # as it is trained
    return Tracker(pushed, guide, params, arguments, 1)


@pytest.mark.parametrize("policy", [PLANS, regulator], ids=["plans", "regulator"])
def test_an_agent_that_sees_positions_stops_the_mass(tracker, policy):
    """Its first action is one of what it has seen already."""
    policy = policy if policy is PLANS else policy()
    agent = LatentAgent(tracker, policy, bounds=(-1.0, 1.0))
    episode = run_episode(Rails(), agent, 30, seed=0)
    assert episode.actions.shape == (30, 1)
    assert episode.actions[0] < -0.5
    assert np.max(np.abs(episode.actions)) <= 1
    assert episode.total > -8  # of -30 without a push
    assert np.abs(episode.observations[-8:]).mean() < 0.2


def test_its_belief_is_what_smoothing_says_of_the_last_step(tracker):
    agent = LatentAgent(tracker, regulator(), bounds=(-1, 1), exploration=0.1)
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((1, 4, 1)).astype(np.float32)
    done = np.zeros((1, 0, 1), np.float32)
    for t in range(4):
        action = agent.act(seen[0, t])
        if t in (0, 3):
            data = arguments(seen[:, : t + 1], done)
            goal = tracker.guide.posterior_local(tracker.params, **data)["x"]
            found = agent.belief.marginals["x"]
            np.testing.assert_allclose(found.mean, goal.mean[:, -1], atol=1e-4)
            covariance = goal.covariance[:, -1]
            np.testing.assert_allclose(found.covariance_matrix, covariance, atol=1e-4)
        done = np.concatenate([done, action[None, None]], 1)


def test_seeds_reproduce_episodes_to_the_bit(tracker):
    agent = LatentAgent(tracker, regulator(), exploration=0.3)
    first, again, other = (run_episode(Rails(), agent, 6, seed=s) for s in (1, 1, 2))
    for one, two in zip(first[:3], again[:3]):
        np.testing.assert_array_equal(one, two)
    assert np.all(first.actions != other.actions)
    calm = LatentAgent(tracker, regulator())
    agent.reset(seed=3)
    noise = agent.act(np.ones(1)) - calm.act(np.ones(1))
    assert 0.003 < np.abs(noise / 0.3) < 4


@pytest.mark.parametrize("kind", ["stationary", "by step", "drawn"])
def test_feedback_is_that_of_the_first_step_or_of_each(tracker, kind):
    offset, covariance = jnp.array([[1.0], [2.0]]), 1e-6 * jnp.ones((2, 1, 1))
    policy = rule = LinearGaussianPolicy(jnp.zeros((2, 1, 2)), offset, covariance)
    if kind != "drawn":
        policy = Feedback(rule, stationary=kind == "stationary")
    belief, memory, found = tracker.begin(np.ones(1)), policy.begin(), []
    for key in jax.random.split(jax.random.key(0), 3):
        action, memory = policy.act(key, belief, memory)
        found.append(float(action[0]))
    goal = [1.0, 1.0, 1.0] if kind == "stationary" else [1.0, 2.0, 2.0]
    np.testing.assert_allclose(found, goal, atol=1e-2)
    assert np.all((np.array(found) != goal) == (kind == "drawn"))


def test_another_episode_agent_or_fit_compiles_nothing(tracker):
    run_episode(Rails(), LatentAgent(tracker, PLANS), 3, seed=0)
    other = Tracker(pushed, tracker.guide, tracker.params, arguments, 1)
    with compilations() as count:
        run_episode(Rails(), LatentAgent(other, PLANS), 4, seed=1)
        other.params = {"noise": jnp.asarray(2e-3)}
        episode = run_episode(Rails(), LatentAgent(other, PLANS), 3, seed=1)
    assert count() == 0
    data = arguments(episode.observations[None], episode.actions[None])
    ns.filter(pushed, tracker.guide, other.params, **data)
    with compilations() as count:
        ns.filter(pushed, tracker.guide, tracker.params, **data)
    assert count() == 0


def test_a_goal_is_the_state_that_an_observation_shows(tracker):
    goal = tracker.latent_goal(np.array([3.0]), spread=10.0)
    np.testing.assert_allclose(goal.mean, [3.0, 0.0], atol=1e-3)
    scale = np.sqrt(np.diagonal(goal.covariance_matrix))
    np.testing.assert_allclose(scale, [0.1, 10.0], rtol=1e-3)


def test_what_is_not_known_yet_says_nothing(tracker):
    """A reward of zero would say that the mass is at zero, as surely as it is seen."""
    found = tracker.begin(np.array([0.5])).marginals["x"].mean
    np.testing.assert_allclose(found, [[0.5 / 1.01, 0.0]], atol=1e-5)


def test_a_filter_starts_again_with_other_data(tracker):
    data = arguments(np.zeros((1, 3, 1)), np.zeros((1, 2, 1)))
    belief = ns.filter(pushed, tracker.guide, tracker.params, **data)
    y = np.random.default_rng(0).standard_normal((1, 7, 1))
    data = arguments(y, np.ones((1, 6, 1)))
    goal = tracker.guide.posterior_local(tracker.params, **data)["x"]
    found = belief.restart(**data).marginals["x"]
    np.testing.assert_allclose(found.mean, goal.mean[:, -1], atol=1e-5)
    with pytest.raises(ValueError, match=r"Arguments \['z'\].*'actions'"):
        belief.restart(z=y)
    with pytest.raises(ValueError, match=r"'y'.*found shape \(1, 1, 2\)"):
        belief.begin(y=np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"\['actions'\]: found; \['y'\]: not found"):
        belief.begin(actions=np.zeros((1, 1)))


def unpriced(key, belief):
    return replace(problem(key, belief), cost=lambda x, a: jnp.log(-1 - x[0] ** 2))


def test_a_cost_that_is_no_number_is_an_error(tracker):
    policy = RecedingHorizon(unpriced, planner, jnp.zeros((HORIZON, 1)))
    with pytest.raises(ValueError, match="cost: found inf for the best plan"):
        LatentAgent(tracker, policy).act(np.zeros(1))
    start, weight = jnp.zeros((4, 2)), jnp.broadcast_to(WEIGHT, (4, 2, 3))
    own = ControlProblem(lambda x, a: x[0] * jnp.nan, COST.final, 3, weight, start)
    with pytest.raises(ValueError, match="cost: found inf"):
        plan_by_gradient(own, num_steps=2)


def test_bounds_and_actions_of_another_shape_are_errors(tracker):
    with pytest.raises(ValueError, match=r"lower: found bounds of shape \(2,\)"):
        LatentAgent(tracker, PLANS, bounds=([0.0, 0.0], [1.0, 1.0]))
    start, weight = jnp.zeros((4, 2)), jnp.broadcast_to(WEIGHT, (4, 2, 3))
    with pytest.raises(ValueError, match=r"upper: found bounds of shape \(3,\)"):
        ControlProblem(COST, COST.final, 3, weight, start, -1.0, np.ones(3))
    wide = RecedingHorizon(lambda key, belief: None, wide_plan, jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"policy: found the action .* \(2,\)"):
        LatentAgent(tracker, wide).act(np.zeros(1))


def wide_plan(key, problem, start):
    return Plan(start, jnp.zeros(()))


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
