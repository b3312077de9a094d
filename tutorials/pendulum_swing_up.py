# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Swing a pendulum up that is only seen through a camera.

A linear dynamical system in pieces is learnt from 32 x 32 pictures and torques, first
of random torques and then of its own attempts, and plans in its latent space. This
script does it all and says how well; ``swing_up.py`` explains it step by step.
"""

import argparse
import json
from pathlib import Path
import time

from film import film_strip, save_gif
from flax import nnx
from following import follow
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
from pendulum_camera import (
    HORIZON,
    NUM_STEPS,
    PIXELS,
    SIZE,
    Camera,
    NoTorque,
    RandomTorque,
    TrueStateAgent,
    evaluate,
    report,
    search,
)

import numpyro_svae as ns
from numpyro_svae.control import (
    LatentAgent,
    PiecewiseProblem,
    RecedingHorizon,
    Tracker,
    aggregate,
)

DIM, POSITIONS, PIECES = 3, 2, 16  # a state: two positions and a velocity
WINDOW, BATCH, SAMPLES = 30, 24, 4


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

    def model(frames, actions, pieces, rewards=None, size=1):
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

    def recognition(frames, actions, pieces, rewards=None, size=1):
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
    :param more: number of steps in each later round.
    """

    def __init__(self, episodes, seed=0, first=1500, more=500):
        self.key = random.key(seed)
        self.first, self.more = first, more
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
        self.state, self.agent = None, None

    def arguments(self, frames, actions):
        """Arguments of the model for frames and the actions between them."""
        pieces = self.where.pieces(frames)[:, :-1]
        return {"frames": frames, "actions": actions, "pieces": pieces}

    def data(self, episodes):
        """Arguments of the model for whole episodes."""
        stacked = (np.stack(part) for part in list(zip(*episodes))[:3])
        frames, actions, rewards = (jnp.asarray(x, jnp.float32) for x in stacked)
        return self.arguments(frames, actions) | {"rewards": rewards / 8 + 1}

    def windows(self, key, data):
        """A batch of windows of the episodes, at random."""
        which, when = random.split(key)
        count, length = data["frames"].shape[:2]
        episode = random.randint(which, (BATCH,), 0, count)
        start = random.randint(when, (BATCH,), 0, length - WINDOW + 1)

        def cut(x):
            width = WINDOW - (length - x.shape[1])

            def take(episode, start):
                return lax.dynamic_slice_in_dim(x[episode], start, width)

            return jax.vmap(take)(episode, start)

        return jax.tree.map(cut, data)

    def fit(self, episodes):
        """Learn from all episodes so far; return the agent that plans with it."""
        data = self.data(episodes)
        size = data["frames"].shape[0] * data["frames"].shape[1] // WINDOW
        self.key, first, key = random.split(self.key, 3)
        num_steps = self.first if self.state is None else self.more
        if self.state is None:
            windows = self.windows(first, data)
            self.state = self.svi.init(first, **windows, size=size)

        @jax.jit
        def run(state, keys, data):
            def step(state, key):
                return self.svi.update(state, **self.windows(key, data), size=size)

            return lax.scan(step, state, keys)

        self.state, losses = run(self.state, random.split(key, num_steps), data)
        self.losses = np.asarray(losses) / (size * WINDOW)
        self.params = self.svi.get_params(self.state)
        return self.make_agent()

    def make_agent(self):
        """The agent with the parameters as they are."""
        if self.agent is None:
            fit = self.svi.model, self.guide, self.params
            tracker = Tracker(*fit, self.arguments, num_actions=1)
            policy = RecedingHorizon(self.problem, search, jnp.zeros((HORIZON, 1)))
            self.agent = LatentAgent(tracker, policy, bounds=(-1.0, 1.0))
        self.agent.tracker.params = self.params
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

    def imagine(self, episode, steps=25):
        """Pictures of an episode from its second one on, before they are seen.

        They are imagined for a number of steps with the actions that were taken, then
        anew from what was seen in the meantime.
        """
        belief = self.agent.tracker.begin(episode.observations[0])
        dynamics = self.guide.get_posterior(self.params)["dynamics"]
        weight, _ = dynamics.unpack(dynamics.mean)
        count = len(episode.actions)
        starts = follow(self.agent.tracker, episode)[:-1:steps]
        actions = np.pad(episode.actions, [(0, -count % steps), (0, 0)])
        actions = jnp.asarray(actions, jnp.float32).reshape(len(starts), steps, -1)

        @jax.jit
        @jax.vmap
        def path(start, actions):
            problem = self.problem_of(belief, weight[None], start[None], steps)
            return problem.rollout(actions)[0, 1:]

        x = path(starts, actions).reshape(-1, DIM)[:count]
        return np.asarray(handlers.substitute(decode, data=self.params)(x))


# the loop


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
    parser.add_argument("--rounds", type=int, default=4)
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
    imagined = learner.imagine(episodes[0])
    film_strip(episodes[0].observations[1:], imagined).savefig(
        options.output / "swing_up.png", dpi=130
    )
    save_gif(options.output / "swing_up.gif", episodes[0].observations[1:], imagined)
    record["environment_steps"] = env.num_steps
    record["seconds"] = round(time.perf_counter() - began)
    path = options.output / "swing_up.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{env.num_steps} steps, {record['seconds']} s; results in {options.output}")


if __name__ == "__main__":
    main()
