# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The tasks of the tutorials: bodies obey physics, and pictures show where they are."""

from pathlib import Path
from types import SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.control import RandomAgent, run_episode

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[1] / "tutorials"))
    from control_demo import collect
    import physics
    import pictures
    from tasks import TASKS
    from unrolled import unroll

GRID = (np.arange(pictures.SIZE) + 0.5) / pictures.SIZE * 2 - 1


def run(move, state, count):
    """The last of many steps."""
    return jax.lax.fori_loop(0, count, lambda _, x: move(x), jnp.asarray(state))


def cart_pole_energy(x):
    """Of a cart of 1 kg and a rod of 0.1 kg and 1 m, in Joule."""
    _, speed, angle, turn = x
    moving = 1.1 * speed**2 / 2 + 0.05 * speed * turn * jnp.cos(angle)
    return moving + 0.1 * turn**2 / 6 + 0.49 * jnp.cos(angle)


def arm_energy(x):
    """Of two masses of 1 at the ends of links of length 1, on a table."""
    first, second = x[2:]
    both = first + second
    crossed = first * both * jnp.cos(x[1])
    return (first**2 + first**2 + both**2 + 2 * crossed) / 2


def test_nothing_is_lost_without_friction():
    start = jnp.array([0.0, 0.5, 1.0, -2.0])
    end = run(lambda x: physics.push_cart(x, 0.0, 1e-4), start, 2000)
    assert abs(end[2] - start[2]) > 0.1
    np.testing.assert_allclose(
        cart_pole_energy(end), cart_pole_energy(start), rtol=3e-3
    )

    def turn(x):
        return physics.move_arm(x, jnp.zeros(2), step=0.02, friction=0.0)

    start = jnp.array([0.3, 1.2, 1.5, -2.0])
    end = run(turn, start, 50)
    assert abs(end[1] - start[1]) > 0.5
    np.testing.assert_allclose(arm_energy(end), arm_energy(start), rtol=1e-4)


@pytest.mark.parametrize("name", ["pendulum", "cart-pole", "point-mass", "reacher"])
def test_rest_and_mirrors(name):
    """What rests stays, and the mirror image of a motion is a motion."""
    task, rng = TASKS[name], np.random.default_rng(0)
    move = jax.jit(task.move)
    size = 2 if name == "pendulum" else 6 if name == "point-mass" else 4
    still = np.zeros(task.actions, np.float32)
    rest = jnp.zeros(size)
    np.testing.assert_array_equal(move(rest, still), rest)
    state = np.float32(rng.uniform(-0.5, 0.5, size))
    action = np.float32(rng.uniform(-1, 1, task.actions))
    moved = move(state, action)
    np.testing.assert_allclose(move(-state, -action), -moved, atol=1e-6)
    assert np.max(np.abs(moved - state)) > 1e-3


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_gymnasium_moves_alike(name):
    env, rng = gymnasium.make(name).unwrapped, np.random.default_rng(1)
    env.reset(seed=0)
    state = rng.uniform(-1, 1, np.shape(env.state))
    env.state = state
    if name == "Pendulum-v1":
        env.step(np.array([1.2]))
        moved = physics.move_pendulum(np.float32(state), np.array([0.6]))
    else:
        env.step(0)
        moved = physics.push_cart(np.float32(state), -10.0)
    np.testing.assert_allclose(moved, env.state, atol=2e-6)


def test_any_force_pushes_the_cart_of_gymnasium():
    env = TASKS["cart-pole-states"].make(0)
    env.reset(seed=1)
    before = np.float32(env.unwrapped.state)
    for action in np.float32([[0.37], [-0.8]]):
        _, reward, ended, *_ = env.step(action)
        assert reward == pytest.approx(float(physics.cart_pole_reward(before)))
        goal = physics.push_twice(before, action)
        np.testing.assert_allclose(env.unwrapped.state, goal, atol=2e-6)
        assert not ended
        before = np.float32(env.unwrapped.state)


def test_an_episode_ends_with_the_track_and_was_not_good():
    task = TASKS["cart-pole-states"]
    env = task.make(0)
    away = SimpleNamespace(reset=lambda seed=None: None, act=lambda _: np.ones(1))
    episodes, states = collect(env, away, 2, 100)
    for episode, each in zip(episodes, states):
        assert episode.terminated and len(each) == len(episode.observations) < 60
        assert np.all(each[:-1, 0] <= physics.TRACK) and each[-1, 0] > physics.TRACK
    upright = np.zeros((5, 4))  # even if it seems to stand
    assert not task.reached(episodes[0], upright)
    assert task.reached(episodes[0]._replace(terminated=False), upright)


def test_walls_stop_what_runs_into_them():
    disc = physics.move_disc(np.float32([0.79, 0.1, 1.5, 0.5, 0, 0]), np.zeros(2))
    assert disc[0] == np.float32(physics.WALL) and disc[2] == 0
    assert disc[1] > 0.1 and disc[3] > 0.4
    cart = physics.move_cart_pole(np.float32([-2.39, -2, 0, 0]), np.zeros(1))
    assert cart[0] == np.float32(-physics.TRACK) and cart[1] == 0


def direction(picture, start=(0.0, 0.0)):
    """Angle of the middle of what is drawn, clockwise from above."""
    weight = picture / picture.sum()
    right = weight.sum(0) @ GRID - start[0]
    up = -(weight.sum(1) @ GRID) - start[1]
    return np.arctan2(right, up)


@pytest.mark.parametrize("angle", [-2.5, -0.4, 0.9, 3.0])
def test_pictures_show_the_state(angle):
    picture = pictures.draw_pendulum([angle, 1.0])
    assert direction(picture) == pytest.approx(angle, abs=0.02)
    seen = pictures.scale_pendulum(np.array([angle, 1.0]))
    np.testing.assert_allclose(pictures.redraw_pendulum([seen])[0], picture, atol=1e-6)
    state = np.array([0.6, 0.3, angle / 3, 0.0])
    picture = pictures.draw_cart_pole(state)
    above = np.where(GRID[:, None] < -0.15, picture, 0.0)  # nothing but the pole
    place = 0.6 / physics.TRACK * 0.8
    assert direction(above, (place, 0.0)) == pytest.approx(angle / 3, abs=0.03)
    seen = pictures.scale_cart_pole(state)
    again = pictures.redraw_cart_pole(seen[None])[0]
    np.testing.assert_allclose(again, picture, atol=1e-6)
    disc = pictures.draw_disc(np.array([0.3, -0.4, 0.0, 0.0]))
    assert direction(disc) == pytest.approx(np.arctan2(0.3, -0.4), abs=0.02)
    arm = np.array([angle, 0.7, 0.0, 0.0])
    picture = pictures.draw_arm(arm)
    for x, y in map(np.asarray, physics.joints(arm)):
        assert picture[np.argmin(abs(GRID + y)), np.argmin(abs(GRID - x))] > 0.5


def test_a_map_of_pictures_is_a_map_of_the_table():
    """Of a disc that was seen mostly in one quarter; components are off by 0.88."""
    rng = np.random.default_rng(0)
    table = rng.uniform(-0.8, 0.8, (1200, 2))
    table[600:] = np.abs(table[600:])
    seen = np.stack([pictures.draw_disc(place) for place in table]).reshape(1200, -1)
    chosen, places = unroll(seen + 0.02 * rng.standard_normal(seen.shape), 3)
    table = table[chosen] - table[chosen].mean(0)
    error = table - places @ np.linalg.lstsq(places, table, rcond=None)[0]
    assert np.all(error.std(0) < 0.3 * table.std(0))
    np.testing.assert_allclose(places.std(0)[:2], 1.0, atol=0.15)  # as wide as long
    assert np.all(places[:, 2] == 0)  # a table has no third direction


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_is_the_same_episode(name):
    task, found = TASKS[name], []
    bound = np.ones(task.actions, np.float32)
    for seed in (3, 3, 4):
        env = task.make(0)
        agent = RandomAgent((-bound, bound))
        found.append(run_episode(env, agent, 3, seed=seed, scaled=True))
        assert len(env.states) == 4 and np.isfinite(task.miss(np.stack(env.states)))
    one, same, other = found
    np.testing.assert_array_equal(one.observations, same.observations)
    np.testing.assert_array_equal(one.actions, same.actions)
    np.testing.assert_array_equal(one.rewards, same.rewards)
    assert not np.array_equal(one.observations, other.observations)
    assert 0.4 < np.abs(one.observations - 0.5).max() < 0.65  # between 0 and 1
