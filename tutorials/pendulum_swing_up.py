# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Swing a pendulum up that is only seen through a camera.

A linear dynamical system in pieces is learnt from 32 x 32 pictures and torques, first
of random torques and then of its own attempts, and plans in its latent space. This
script does it all and says how well; ``swing_up.py`` explains it step by step.
"""

import argparse
from dataclasses import replace
import json
import os
from pathlib import Path
import time

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draw without a screen

from flax import nnx
import gymnasium
import jax
from jax import lax, random
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
from PIL import Image

import numpyro_svae as ns
from numpyro_svae.control import (
    ControlProblem,
    PiecewiseProblem,
    RecedingHorizon,
    aggregate,
    plan_by_sampling,
    run_episode,
)

SIZE, PIXELS, NUM_STEPS = 32, 1024, 200
MAX_TORQUE = 2.0
DIM, POSITIONS, PIECES = 3, 2, 16  # a state: two positions and a velocity
WINDOW, BATCH = 30, 24
HORIZON, SAMPLES = 25, 4


# the pendulum and its camera


class Camera(gymnasium.Wrapper):
    """Pendulum-v1, hanging at first, that shows nothing but pictures.

    They are gymnasium's own, cut to the pendulum, grey, and averaged to 32 x 32 pixels.
    The arrow that gymnasium draws for the torque is left out. The angle and velocity
    are kept in ``states`` for those who judge; the agent is not shown them.
    """

    def __init__(self, seed=0):
        super().__init__(gymnasium.make("Pendulum-v1", render_mode="rgb_array"))
        self.unwrapped.screen_dim = 256
        self.rng = np.random.default_rng(seed)
        self.num_steps = 0

    def reset(self, *, seed=None, options=None):
        """Hang down, nearly at rest."""
        _, info = self.env.reset(seed=seed, options=options)
        self.unwrapped.state = np.array([np.pi, 0]) + self.rng.uniform(-0.05, 0.05, 2)
        self.states = [self.unwrapped.state]
        return self.picture(), info

    def step(self, action):
        """Push, with an action between -1 and 1 that is scaled to the torque."""
        torque = MAX_TORQUE * np.asarray(action, np.float32)
        _, *outcome = self.env.step(torque)
        self.num_steps += 1
        self.states.append(self.unwrapped.state)
        return self.picture(), *outcome

    def picture(self):
        """A grey picture (1024,): 0 for the background and 1 for the pendulum."""
        self.unwrapped.last_u = None  # no arrow
        green = self.env.render()[64:192, 64:192, 1].astype(np.float32)
        ink = np.clip((255 - green) / 178, 0, 1)
        return ink.reshape(SIZE, 4, SIZE, 4).mean((1, 3)).reshape(-1)


class RandomTorque:
    """Torques at random, each held for some steps (or for one)."""

    def __init__(self, seed=0, change=0.15):
        self.rng = np.random.default_rng(seed)
        self.change = change
        self.reset()

    def reset(self):
        """Begin with another torque."""
        self.action = self.rng.uniform(-1, 1, 1)

    def act(self, observation):
        """The torque of the step."""
        if self.rng.random() < self.change:
            self.action = self.rng.uniform(-1, 1, 1)
        return self.action


class NoTorque:
    """Let it hang."""

    def reset(self):
        """Nothing to forget."""

    def act(self, observation):
        """Nothing to do."""
        return np.zeros(1)


# planning with the true state, for comparison


class TrueProblem(ControlProblem):
    """The physics of the pendulum, whose state is its angle and velocity."""

    def move(self, weight, x, inputs):
        """One step of gymnasium's Pendulum-v1."""
        angle, velocity = x
        push = 15 * jnp.sin(angle) + 3 * MAX_TORQUE * inputs[0]
        velocity = jnp.clip(velocity + 0.05 * push, -8, 8)
        return jnp.stack([angle + 0.05 * velocity, velocity])


def true_cost(x, action=None):
    """What gymnasium charges for a state, but for the effort."""
    angle = jnp.mod(x[0] + jnp.pi, 2 * jnp.pi) - jnp.pi
    return angle**2 + 0.1 * x[1] ** 2


@jax.jit
def plan_from_truth(key, state, last):
    """A plan that knows the physics and sees the state."""
    weight = jnp.zeros((1, 2, 3))  # not used
    problem = TrueProblem(true_cost, true_cost, HORIZON, weight, state[None], -1.0, 1.0)
    return search(key, problem, jnp.concatenate([last[1:], last[-1:]]))


class TrueStateAgent:
    """Plans with the physics and the state of an environment."""

    def __init__(self, env, key):
        self.env, self.key = env, key

    def reset(self):
        """Forget the last plan."""
        self.actions = jnp.zeros((HORIZON, 1))

    def act(self, observation):
        """The first action of a new plan."""
        self.key, key = random.split(self.key)
        state = jnp.asarray(self.env.unwrapped.state, jnp.float32)
        self.actions = plan_from_truth(key, state, self.actions).actions
        return np.asarray(self.actions[0])


def search(key, problem, start):
    """The cross-entropy method, with a budget for real time."""
    options = {"population": 128, "elites": 16, "num_steps": 4}
    return plan_by_sampling(key, problem, 1.0, start, **options)


# the model


class Map:
    """Where pictures are: principal positions, and pieces around some of them.

    The pictures that it is made of are spread evenly over all that were seen, each as
    far as possible from those before it, so that what was seen often counts no more.
    """

    def __init__(self, pictures, width=3.0):
        grid = np.arange(SIZE)
        blur = np.exp(-0.5 * ((grid[:, None] - grid) / width) ** 2)
        blur = blur / blur.sum(1)
        self.blur = np.kron(blur, blur).astype(np.float32)
        chosen = spread(pictures @ self.blur, 128)
        values, vectors = np.linalg.eigh(np.cov(chosen.T))
        axes = vectors[:, ::-1][:, :POSITIONS] / np.sqrt(values[::-1][:POSITIONS])
        self.axes, self.centre = self.blur @ axes, chosen.mean(0) @ axes
        self.anchors = chosen[:PIECES]
        self.places = self.anchors @ axes - self.centre

    def positions(self, pictures):
        """Principal positions (..., 2)."""
        return pictures @ self.axes - self.centre

    def pieces(self, pictures):
        """The nearest anchor, as an index."""
        cross = (pictures @ self.blur) @ self.anchors.T
        return jnp.argmin(jnp.sum(self.anchors**2, -1) - 2 * cross, -1)

    def prior_weight(self, pull=0.5, speed=0.14):
        """Positions move along the ring of places with the velocity, and stay on it."""
        out = self.places / np.linalg.norm(self.places, axis=-1, keepdims=True)
        tangent = np.stack([-self.places[:, 1], self.places[:, 0]], -1)
        weight = np.zeros((PIECES, DIM, DIM + 2), np.float32)
        weight[:, :DIM, :DIM] = np.eye(DIM)
        weight[:, :2, :2] -= pull * out[:, :, None] * out[:, None]
        weight[:, :2, 2] = speed * tangent
        weight[:, :2, 4] = pull * self.places
        return weight


def spread(points, count):
    """Some of the points: each the farthest from those before it."""
    chosen = [points[0]]
    distance = np.sum((points - chosen[0]) ** 2, -1)
    for _ in range(count - 1):
        chosen.append(points[np.argmax(distance)])
        distance = np.minimum(distance, np.sum((points - chosen[-1]) ** 2, -1))
    return np.array(chosen)


class MLP(nnx.Module):
    """Two hidden layers."""

    def __init__(self, inputs, outputs, width, seed, first=1.0):
        rngs = nnx.Rngs(seed)
        wide = nnx.initializers.variance_scaling(first**2, "fan_in", "normal")
        bias = nnx.initializers.normal(0.5)
        self.first = nnx.Linear(
            inputs, width, kernel_init=wide, bias_init=bias, rngs=rngs
        )
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.gelu(self.second(nnx.gelu(self.first(x)))))


def decode(x):
    """The picture of a state: it shows positions, not velocities."""
    network = nnx_module("decoder", MLP(POSITIONS, PIXELS, 96, seed=1, first=2.0))
    return nnx.sigmoid(network(x[..., :POSITIONS]) - 2.0)


def reward_of(x):
    """The expected reward of a state, in units of eight, and shifted by one."""
    return nnx_module("reward_head", MLP(DIM, 1, 32, seed=2))(x)[..., 0]


def piece_logits(x):
    """Which piece a state is in."""
    network = nnx_module("gate", MLP(POSITIONS, PIECES, 32, seed=3))
    return network(x[..., :POSITIONS])


def make_model(where):
    """The model and its recognition function, on a map of pictures."""
    prior_weight = jnp.asarray(where.prior_weight())

    def model(frames, actions, pieces, rewards, size=1):
        eye = jnp.eye(DIM)
        initial = ns.sample(
            "initial", ns.NormalInverseWishart(jnp.zeros(DIM), 1.0, DIM + 2.0, eye)
        )
        with numpyro.plate("pieces", PIECES):
            prior = ns.MatrixNormalInverseWishart(
                prior_weight, jnp.eye(DIM + 2), DIM + 2.0, 0.01 * eye
            )
            weight, cov = ns.sample("dynamics", prior)
        with numpyro.plate("windows", size, subsample_size=len(frames)):
            inputs = jnp.concatenate([actions, jnp.ones_like(actions)], -1)
            chain = ns.LinearGaussianChain(
                *initial,
                weight[pieces],
                cov[pieces],
                inputs=inputs,
                num_steps=frames.shape[1],
            )
            x = numpyro.sample("x", chain)
            picture = dist.Normal(decode(x), 0.5).to_event(2)
            numpyro.sample("frames", picture, obs=frames)
            now = x[..., :-1, :]
            piece = dist.Categorical(logits=piece_logits(now)).to_event(1)
            numpyro.sample("pieces_seen", piece, obs=pieces)
            reward = dist.Normal(reward_of(now), 0.2).to_event(1)
            numpyro.sample("rewards", reward, obs=rewards)

    def recognition(frames, actions, pieces, rewards, size=1):
        with numpyro.plate("windows", size, subsample_size=len(frames)):
            network = nnx_module("encoder", MLP(PIXELS, POSITIONS, 96, seed=4))
            precision = 1 / (0.03 + 0.1 * nnx.sigmoid(network(frames))) ** 2
            vector = precision * where.positions(frames)
            silent = jnp.zeros_like(vector[..., :1])  # about the velocity
            return {
                "x": ns.GaussianPotential(
                    jnp.concatenate([vector, silent], -1),
                    jnp.concatenate([precision, silent], -1),
                )
            }

    return model, recognition


# learning and planning


class Learner:
    """Fits the model to episodes and makes an agent of it, again and again.

    :param episodes: the first episodes, which make the map.
    :param first: number of steps of SVI on them.
    :param more: number of steps for each later round.
    """

    def __init__(self, episodes, seed=0, first=1500, more=500):
        self.key = random.key(seed)
        self.steps = [first, more]
        self.where = Map(np.concatenate([e.observations for e in episodes]))
        model, recognition = make_model(self.where)
        start = ns.MatrixNormalInverseWishart(
            jnp.asarray(self.where.prior_weight()),
            10.0 * jnp.eye(DIM + 2),
            DIM + 22.0,
            0.2 * jnp.eye(DIM),
        )
        self.guide = ns.AutoSVAE(model, recognition, init={"dynamics": start})
        rate = optax.exponential_decay(3e-3, 1000, 0.6, end_value=5e-4)
        optimizer = ns.svae_optimizer(optax.adam(rate), natural=0.1)
        self.svi = SVI(model, self.guide, optimizer, loss=ns.SVAE_ELBO())
        self.state, self.belief, self.agent = None, None, None

    def arguments(self, frames, actions):
        """Arguments of the model for one sequence of frames and actions."""
        pieces = self.where.pieces(frames)[:-1]
        rewards = jnp.zeros(len(actions))  # what is not known here, and not needed
        found = {"frames": frames, "actions": jnp.asarray(actions, jnp.float32)}
        found |= {"pieces": pieces, "rewards": rewards}
        return {name: jnp.asarray(value)[None] for name, value in found.items()}

    def data(self, episodes):
        """Arguments of the model for whole episodes."""
        each = [self.arguments(e.observations, e.actions) for e in episodes]
        found = {n: jnp.concatenate([e[n] for e in each]) for n in each[0]}
        rewards = np.stack([e.rewards for e in episodes]) / 8 + 1
        return found | {"rewards": jnp.asarray(rewards, jnp.float32)}

    def windows(self, key, data):
        """A batch of windows of the episodes, at random."""
        which, when = random.split(key)
        count, length = data["frames"].shape[:2]
        episode = random.randint(which, (BATCH,), 0, count)
        start = random.randint(when, (BATCH,), 0, length - WINDOW + 1)

        def cut(x):
            width = WINDOW - (length - x.shape[1])
            take = lambda e, s: lax.dynamic_slice_in_dim(x[e], s, width)  # noqa: E731
            return jax.vmap(take)(episode, start)

        return jax.tree.map(cut, data)

    def fit(self, episodes):
        """Learn from all episodes so far; return the agent that plans with it."""
        data = self.data(episodes)
        size = data["frames"].shape[0] * data["frames"].shape[1] // WINDOW
        self.key, first, key = random.split(self.key, 3)
        if self.state is None:
            windows = self.windows(first, data)
            self.state = self.svi.init(first, **windows, size=size)
        num_steps = self.steps[0] if len(self.steps) > 1 else self.steps[-1]
        self.steps = self.steps[1:] or self.steps

        @jax.jit
        def run(state, keys, data):
            def step(state, key):
                return self.svi.update(state, **self.windows(key, data), size=size)

            return lax.scan(step, state, keys)

        self.state, losses = run(self.state, random.split(key, num_steps), data)
        self.losses = np.asarray(losses) / (size * WINDOW)
        self.params = self.svi.get_params(self.state)
        return self.make_agent(data)

    def make_agent(self, data):
        """The agent with the parameters as they are."""
        if self.agent is None:
            first = {name: value[:1, :3] for name, value in data.items()}
            first |= {n: first[n][:, :2] for n in ("actions", "pieces", "rewards")}
            belief = ns.filter(self.svi.model, self.guide, self.params, **first)
            start = jnp.zeros((HORIZON, 1))
            self.agent = RecedingHorizon(
                belief, self.arguments, self.problem, search, start, self.key
            )
        self.agent.belief = replace(self.agent.belief, params=self.params)
        return self.agent

    def problem(self, key, belief):
        """What to plan, with samples of the dynamics and of the state."""
        keys = random.split(key)
        dynamics = self.guide.get_posterior(belief.params)["dynamics"]
        weight, _ = dynamics.unpack(dynamics.sample(keys[0], (SAMPLES,)))
        start = belief.marginals["x"].sample(keys[1], (SAMPLES,))[:, 0]
        return self.problem_of(belief, weight, start)

    def problem_of(self, belief, weight, start, horizon=HORIZON):
        """What to plan, with given samples."""

        def cost(x, action=None):
            return -8 * handlers.substitute(reward_of, data=belief.params)(x)

        def pieces(x):
            logits = handlers.substitute(piece_logits, data=belief.params)(x)
            return nnx.softmax(logits)

        return PiecewiseProblem(
            cost,
            cost,
            horizon,
            weight,
            start,
            -1.0,
            1.0,
            known=jnp.ones(1),
            pieces=pieces,
        )

    def imagine(self, episode, at, steps):
        """Pictures of the steps after ``at``, from the pictures before and actions."""
        past = self.arguments(episode.observations[: at + 1], episode.actions[:at])
        belief = self.agent.belief.restart(**past)
        dynamics = self.guide.get_posterior(belief.params)["dynamics"]
        weight, _ = dynamics.unpack(dynamics.mean)
        start = belief.marginals["x"].mean
        problem = self.problem_of(belief, weight[None], start, steps)
        actions = jnp.asarray(episode.actions[at : at + steps], jnp.float32)
        path = jax.jit(problem.rollout)(actions)[0, 1:]
        return np.asarray(handlers.substitute(decode, data=self.params)(path))


# how good it is


def evaluate(env, agent, count=10):
    """Episodes of an agent, and the true states in them (count, T + 1, 2)."""
    episodes, states = [], []
    for _ in range(count):
        episodes.append(run_episode(env, agent, NUM_STEPS))
        states.append(np.stack(env.states))
    return episodes, np.stack(states)


def upright(states, last=20):
    """Which episodes end with the pendulum up: within 26 degrees for a second."""
    return np.all(np.cos(states[:, -last:, 0]) > 0.9, -1)


def velocity_r2(learner, episodes, states):
    """R² of the velocity, linearly read off smoothed states.

    The regression is fitted on every other episode and judged on the rest.
    """
    data = learner.data(episodes)
    x = learner.guide.posterior_local(learner.params, **data, size=len(episodes))["x"]
    x = np.asarray(x.mean)
    x = np.concatenate([x, np.ones_like(x[..., :1])], -1)
    velocity = states[..., 1]
    weight = np.linalg.lstsq(
        x[::2].reshape(-1, DIM + 1), velocity[::2].reshape(-1), rcond=None
    )[0]
    error = velocity[1::2] - x[1::2] @ weight
    return float(1 - np.mean(error**2) / np.var(velocity[1::2]))


def report(name, episodes, states):
    """Print the mean return and how many are upright; return them."""
    totals = np.array([episode.total for episode in episodes])
    up = int(upright(states).sum())
    print(
        f"{name:34} {totals.mean():8.0f} ± {totals.std():4.0f}"
        f"   upright at the end: {up} of {len(totals)}",
        flush=True,
    )
    return {"returns": totals.round(1).tolist(), "upright": up}


# pictures


def strip_of(learner, episode, at, steps=25, every=3):
    """What came (above) and what was imagined before (below)."""
    imagined = learner.imagine(episode, at, steps)
    real = episode.observations[at + 1 : at + 1 + steps]
    figure, axes = plt.subplots(2, 1, figsize=(9, 2.3), layout="constrained")
    for ax, row, name in zip(axes, (real, imagined), ("real", "imagined")):
        show_row(ax, row[every - 1 :: every], name)
    times = range(every, steps + 1, every)
    ticks = [(SIZE + 1) * i + SIZE / 2 for i in range(len(times))]
    axes[1].set_xticks(ticks, [f"{0.05 * t:.2f} s" for t in times])
    axes[1].tick_params(length=0)
    return figure


def show_row(ax, pictures, name):
    """Pictures side by side."""
    tiles = np.reshape(pictures, (-1, SIZE, SIZE))
    tiles = np.pad(tiles, [(0, 0), (0, 0), (0, 1)], constant_values=np.nan)
    colours = plt.get_cmap("gray_r").with_extremes(bad="#c8d6e5")
    wall = tiles.transpose(1, 0, 2).reshape(SIZE, -1)[:, :-1]
    ax.imshow(wall, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax.spines[:].set_visible(False)


def film_strip(episode, every=10):
    """A whole episode in rows of ten pictures."""
    pictures = episode.observations[::every]
    rows = [pictures[i : i + 10] for i in range(0, 20, 10)]
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 2.3), layout="constrained")
    for i, (ax, row) in enumerate(zip(axes, rows)):
        show_row(ax, row, f"{5 * i} to {5 * i + 4.5:.1f} s")
    return figure


def save_gif(path, learner, episode, steps=25, zoom=6):
    """A film: the real episode, and beside it what is imagined each 1.25 s anew."""
    parts = [
        learner.imagine(episode, at, min(steps, NUM_STEPS - at))
        for at in range(1, NUM_STEPS, steps)
    ]
    imagined = np.concatenate(parts)
    real = episode.observations[2 : 2 + len(imagined)]
    frames = []
    for left, right in zip(real, imagined):
        pair = [np.reshape(x, (SIZE, SIZE)) for x in (left, right)]
        picture = np.pad(np.concatenate(pair, 1), 1)
        picture[:, SIZE + 1] = 0.4
        grey = np.uint8(255 * (1 - np.clip(picture, 0, 1)))
        frames.append(Image.fromarray(np.kron(grey, np.ones((zoom, zoom), np.uint8))))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, loop=0)


def run(rounds, episodes_per_round, seed=0, first=12):
    """The whole loop; returns the learner, its environment and the record."""
    env, record = Camera(seed), {"rounds": []}
    episodes, states = evaluate(env, RandomTorque(seed), first)
    report("random torques, held (first data)", episodes, states)
    learner = Learner(episodes, seed)
    began = time.perf_counter()
    options = {"num_rounds": rounds, "episodes_per_round": episodes_per_round}
    loop = aggregate(env, learner.fit, episodes, num_steps=NUM_STEPS, **options)
    for i, (_, new) in enumerate(loop):
        totals = [episode.total for episode in new]
        print(
            f"round {i + 1}: return {np.mean(totals):6.0f}; ELBO "
            f"{-learner.losses[-100:].mean():.1f} per picture; {env.num_steps} steps; "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
        record["rounds"].append({"returns": np.round(totals, 1).tolist()})
        episodes = [*episodes, *new]
    learner.fit(episodes)
    return learner, env, record


def compare(learner, env, seed=0):
    """Ten episodes of everything."""
    agents = {
        "no torque": NoTorque(),
        "random torque": RandomTorque(seed + 1, change=1.0),
        "planner that sees the true state": TrueStateAgent(env, random.key(seed)),
        "planner in the latent space": learner.agent,
    }
    print("\nMean return of ten episodes of 200 steps, from hanging")
    found, record = {}, {}
    for name, agent in agents.items():
        found[name] = evaluate(env, agent)
        record[name] = report(name, *found[name])
    return found, record


def main():
    """Learn, compare, and save figures, a film and the figures as numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=4, help="in each round")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    plt.switch_backend("agg")
    began = time.perf_counter()
    learner, env, record = run(options.rounds, options.episodes, options.seed)
    found, record["agents"] = compare(learner, env, options.seed)
    episodes, states = found["planner in the latent space"]
    record["velocity_r2"] = velocity_r2(learner, episodes, states)
    print(f"R² of the velocity from smoothed states: {record['velocity_r2']:.3f}")
    options.output.mkdir(parents=True, exist_ok=True)
    best = max(episodes, key=lambda episode: episode.total)
    film_strip(best).savefig(options.output / "swing_up.png", dpi=130)
    strip_of(learner, best, 20).savefig(options.output / "imagined.png", dpi=130)
    save_gif(options.output / "swing_up.gif", learner, best)
    record["environment_steps"] = env.num_steps
    record["seconds"] = round(time.perf_counter() - began)
    path = options.output / "swing_up.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{env.num_steps} steps, {record['seconds']} s; results in {options.output}")


if __name__ == "__main__":
    main()
