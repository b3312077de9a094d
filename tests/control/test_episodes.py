# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The loop of agents and environments, alone and side by side, and what is kept."""

from types import SimpleNamespace

import numpy as np
import pytest

from numpyro_svae.control import (
    Episode,
    RandomAgent,
    aggregate,
    load_episodes,
    run_episode,
    run_episodes,
    save_episodes,
)

BOX = SimpleNamespace(
    low=np.array([-2.0], np.float32),
    high=np.array([2.0], np.float32),
    shape=(1,),
    dtype=np.float32,
)
COIN = SimpleNamespace(n=2, start=0)


class Walk:
    """A walk that ends when it is far, or (cut off) after seven steps."""

    action_space = BOX

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.place = (options or {}).get("place", 0.0) + self.rng.normal()
        self.count = 0
        return self.see(), {"goal": np.array([4.0, 0.0])}

    def step(self, action):
        self.place += float(np.sum(action)) + self.rng.normal()
        self.count += 1
        far, late = abs(self.place) > 4, self.count == 7
        return self.see(), -abs(self.place), far, late and not far, {"far": far}

    def see(self):
        return np.array([self.place, self.count])


def same(first, second):
    np.testing.assert_array_equal(first.observations, second.observations)
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.rewards, second.rewards)
    assert first[3:5] == second[3:5]
    assert len(first.infos) == len(second.infos) == first.num_steps + 1
    for one, two in zip(first.infos, second.infos):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one)


def random_walks(env, count=5, **options):
    agent = RandomAgent((-1.0, 1.0), hold=2)
    return run_episodes(env, agent, count, 20, seed=4, **options)


@pytest.fixture(scope="module")
def walks():
    return random_walks(Walk())


def test_they_end_where_the_environment_says(walks):
    lengths = {walk.num_steps for walk in walks}
    assert len(lengths) > 1 and max(lengths) <= 7
    for walk in walks:
        assert walk.terminated == (abs(walk.observations[-1, 0]) > 4)
        assert walk.truncated == (walk.num_steps == 7 and not walk.terminated)
        assert walk.infos[-1]["far"] == walk.terminated
        assert len(walk.observations) == len(walk.rewards) + 1
    assert {walk.terminated for walk in walks} == {True, False}
    assert run_episode(Walk(), RandomAgent((-1, 1)), 1, seed=0)[3:5] == (False, False)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_episodes_side_by_side_are_those_one_after_another(walks, mode):
    gymnasium = pytest.importorskip("gymnasium")
    box = gymnasium.spaces.Box(-2, 2, (1,))

    class Env(Walk, gymnasium.Env):
        action_space, observation_space = (
            box,
            gymnasium.spaces.Box(-99, 99, (2,), float),
        )

    options = {"autoreset_mode": gymnasium.vector.AutoresetMode(mode)}
    envs = gymnasium.vector.SyncVectorEnv([Env] * 2, **options)
    for one, two in zip(random_walks(envs), walks, strict=True):
        same(one, two)


def test_they_are_the_same_after_they_were_kept(walks, tmp_path):
    save_episodes(tmp_path / "walks.npz", walks)
    found = load_episodes(tmp_path / "walks.npz")
    for one, two in zip(found, walks, strict=True):
        same(one, two)
    assert found[0].infos[0]["goal"].dtype == float
    with pytest.raises(TypeError, match=r"infos: found <.*accepted are numbers"):
        odd = walks[0]._replace(infos=({"env": object()},))
        save_episodes(tmp_path / "odd.npz", [odd])


def test_options_seeds_and_scales_reach_the_environment():
    agent = RandomAgent((-1.0, 1.0))
    near, far = (
        run_episode(Walk(), agent, 1, seed=1, options={"place": place})
        for place in (0.0, 1.0)
    )
    np.testing.assert_allclose(far.observations - near.observations, [[1, 0]] * 2)
    wide = run_episode(Walk(), agent, 1, seed=1, scaled=True)
    np.testing.assert_array_equal(wide.actions, near.actions)
    pushed = wide.observations[1, 0] - near.observations[1, 0]
    np.testing.assert_allclose(pushed, near.actions[0, 0], rtol=1e-6)  # twice as much


class Always:
    """An agent of one action."""

    def __init__(self, action):
        self.action = action

    def reset(self, seed=None):
        self.seed = seed

    def act(self, observation):
        return self.action


class Coin(Walk):
    """One that is left or right."""

    action_space = COIN

    def see(self):
        return {"place": self.place}


class Flat(Coin):
    """The same, as an array."""

    def see(self):
        return np.array([self.place])


def test_what_does_not_fit_an_environment_is_an_error():
    with pytest.raises(TypeError, match=r"dict with \['place'\].*FlattenObservation"):
        run_episode(Coin(), Always(1), 2, seed=0)
    with pytest.raises(TypeError, match=r"accepted is a whole number.*TransformAction"):
        run_episode(Flat(), Always(np.ones(1)), 2, seed=0)
    assert run_episode(Flat(), Always(1), 2, seed=0).actions.shape == (2,)
    with pytest.raises(TypeError, match="scaled=True; accepted is a Box"):
        run_episode(Flat(), Always(1), 2, seed=0, scaled=True)
    with pytest.raises(TypeError, match=r"bounds: found .*n=2.*actions are vectors"):
        RandomAgent(COIN)
    for action in (np.ones(2), np.array([3.0]), np.array([np.nan])):
        with pytest.raises(ValueError, match=r"An action: found .* shape \(1,\)"):
            run_episode(Walk(), Always(action), 2, seed=0)
    with pytest.raises(TypeError, match=r"a vector of 3 environments.*run_episodes"):
        run_episode(SimpleNamespace(num_envs=3), Always(np.ones(1)), 2)
    with pytest.raises(ValueError, match="below the upper ones"):
        RandomAgent((1.0, -1.0))


def test_data_of_each_round_are_there_in_the_next():
    seen = []

    def fit(episodes):
        seen.append(len(episodes))
        return Always(np.array([0.1 * len(seen)]))

    first = [Episode(np.zeros((2, 2)), np.zeros((1, 1)), np.zeros(1))]
    options = {"num_rounds": 3, "episodes_per_round": 2, "num_steps": 3, "seed": 0}
    rounds = list(aggregate(Walk(), fit, first, **options))
    assert seen == [1, 3, 5]
    assert len(first) == 1
    starts = set()
    for i, (agent, new) in enumerate(rounds):
        assert len(new) == 2
        assert agent.action == new[0].actions[0] == 0.1 * (i + 1)
        starts |= {episode.observations[0, 0] for episode in new}
    assert len(starts) == 6
