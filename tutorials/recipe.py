# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One recipe for acting on what is seen: a model, its training, and plans in it.

Nothing in this file knows the task. A state has positions, which the networks that
encode and decode what is seen look at, and velocities, which they do not. A network
says how states move under actions, and another one what they are worth. The data are
episodes of random actions; plans are sampled.
"""

from dataclasses import dataclass, replace

from flax import nnx
import jax
from jax import lax, random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.infer import SVI
import optax

import numpyro_svae as ns
from numpyro_svae import control

PIXEL_NOISE, REWARD_NOISE = 0.1, 0.2  # held: pictures would drown the dynamics
STRIDE = 0.3  # how far a velocity of one moves a position in a step


@dataclass(frozen=True)
class Sizes:
    """What differs between tasks.

    :param pixels: number of entries of an observation, which are between 0 and 1.
    :param actions: number of entries of an action, which are between -1 and 1.
    :param positions: number of positions of a state, and of velocities.
    """

    pixels: int
    actions: int
    positions: int = 3

    @property
    def state(self):
        """Number of entries of a state."""
        return 2 * self.positions


class MLP(nnx.Module):
    """Two hidden layers."""

    def __init__(self, inputs, outputs, width, seed, last=1.0):
        rngs = nnx.Rngs(seed)

        def layer(inputs, outputs, scale=1.0):
            init = nnx.initializers.variance_scaling(scale**2, "fan_in", "normal")
            return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)

        self.first, self.second = layer(inputs, width), layer(width, width)
        self.last = layer(width, outputs, last)

    def __call__(self, x):
        return self.last(nnx.gelu(self.second(nnx.gelu(self.first(x)))))


class World:
    """The model of what is seen, done and gained, and its recognition function.

    :param sizes: those of the task.
    """

    def __init__(self, sizes):
        self.sizes = sizes

    def decode(self, x):
        """What is seen of states: it shows positions, not velocities."""
        sizes = self.sizes
        network = MLP(sizes.positions, sizes.pixels, 128, seed=1)
        network = nnx_module("decoder", network)
        return nnx.sigmoid(network(x[..., : sizes.positions]) - 2.0)

    def worth(self, x):
        """The reward that is expected in a state, in the units of training."""
        return nnx_module("worth", MLP(self.sizes.state, 1, 32, seed=2))(x)[..., 0]

    def transition(self):
        """The mean of the next state: velocities move positions, and a network both."""
        count, size = self.sizes.positions, self.sizes.state
        network = MLP(size + self.sizes.actions, size, 64, seed=3, last=0.1)
        network = nnx_module("transition", network)

        def step(x, action):
            moved = jnp.concatenate([x[count:], jnp.zeros_like(x[count:])])
            return x + STRIDE * (moved + network(jnp.concatenate([x, action])))

        return step

    def model(self, frames, actions, rewards=None):
        """Episodes, or windows of them: ``(N, T, ...)``, ``(N, T - 1, ...)``."""
        size = self.sizes.state
        kicks = numpyro.param(
            "kicks", jnp.full(size, 0.1), constraint=constraints.positive
        )
        with numpyro.plate("windows", len(frames)):
            chain = ns.NonlinearGaussianChain(
                jnp.zeros(size),
                jnp.eye(size),
                self.transition(),
                jnp.diag(kicks**2 + 1e-6),
                inputs=actions,
            )
            x = numpyro.sample("x", chain)
            seen = dist.Normal(self.decode(x), PIXEL_NOISE).to_event(2)
            numpyro.sample("frames", seen, obs=frames)
            gained = dist.Normal(self.worth(x[..., :-1, :]), REWARD_NOISE).to_event(1)
            numpyro.sample("rewards", gained, obs=rewards)

    def recognition(self, frames, actions, rewards=None):
        """What one observation says of its state: where it is, not how fast."""
        count = self.sizes.positions
        network = MLP(self.sizes.pixels, 2 * count, 128, seed=4)
        loc, scale = jnp.split(nnx_module("encoder", network)(frames), 2, -1)
        precision = 1 / (nnx.softplus(scale - 1) + 0.01) ** 2
        silent = jnp.zeros_like(loc)
        vector = jnp.concatenate([precision * loc, silent], -1)
        precision = jnp.concatenate([precision, silent], -1)
        return {"x": ns.GaussianPotential(vector, precision)}


class Learner:
    """Fits a world to episodes, and makes an agent that plans in it.

    :param sizes: those of the task.
    :param num_steps: number of steps of SVI of a fit.
    :param seed: of batches, and of the agent.
    :param window: number of observations of a window of the episodes.
    :param batch: number of windows in a step.
    :param rate: the largest learning rate.
    """

    def __init__(self, sizes, num_steps, seed=0, window=25, batch=16, rate=2e-3):
        self.world, self.key = World(sizes), random.key(seed)
        self.num_steps, self.window, self.batch = num_steps, window, batch
        self.guide = ns.AutoSVAE(
            self.world.model,
            self.world.recognition,
            fixed_point=ns.FixedPoint(max_sweeps=1),
        )
        schedule = optax.cosine_decay_schedule(rate, num_steps, 0.05)
        rule = optax.chain(
            optax.clip_by_global_norm(100.0 * window * batch), optax.adam(schedule)
        )
        optimizer = ns.svae_optimizer(rule, 0.1)
        self.svi = SVI(self.world.model, self.guide, optimizer, ns.SVAE_ELBO())
        self.scale, self.params, self.losses = None, None, []

    def data(self, episodes):
        """Arguments of the model for whole episodes of one length."""
        frames, actions, rewards = (
            jnp.asarray(np.stack([episode[i] for episode in episodes]), jnp.float32)
            for i in range(3)
        )
        if self.scale is None:
            self.scale = jnp.mean(rewards), 2 * jnp.std(rewards)
        rewards = (rewards - self.scale[0]) / self.scale[1]
        return self.arguments(frames, actions) | {"rewards": rewards}

    def windows(self, key, data):
        """A batch of windows of the episodes, at random."""
        which, when = random.split(key)
        count, length = data["frames"].shape[:2]
        episode = random.randint(which, (self.batch,), 0, count)
        start = random.randint(when, (self.batch,), 0, length - self.window + 1)

        def cut(x):
            width = self.window - (length - x.shape[1])

            def take(episode, start):
                return lax.dynamic_slice_in_dim(x[episode], start, width)

            return jax.vmap(take)(episode, start)

        return jax.tree.map(cut, data)

    def fit(self, episodes, every=1000, watch=None):
        """Learn from episodes; return the agent that plans with what was learnt.

        :param every: number of steps that are compiled together.
        :param watch: what is called between these.
        """
        data = self.data(episodes)
        self.key, first, key = random.split(self.key, 3)
        state = self.svi.init(first, **self.windows(first, data))

        @jax.jit
        def run(state, keys, data):
            def step(state, key):
                return self.svi.stable_update(state, **self.windows(key, data))

            return lax.scan(step, state, keys)

        for keys in random.split(key, self.num_steps).reshape(-1, every):
            state, losses = run(state, keys, data)
            self.losses.append(np.mean(losses) / (self.window * self.batch))
            self.params = self.svi.get_params(state)
            if watch:
                watch(self)
        return self.agent()

    # acting

    def arguments(self, frames, actions):
        """Arguments of the model for what was seen and done; rewards are not known."""
        return {"frames": frames, "actions": actions}

    def problem(self, key, belief):
        """What to plan: the steps of the model from what the filter knows."""

        def cost(x, action=None):
            return -handlers.substitute(self.world.worth, data=belief.params)(x)

        options = {"num_samples": 2, "lower": -1.0, "upper": 1.0}
        return control.FittedProblem.of(key, belief, cost, cost, 25, **options)

    def search(self, key, problem, start):
        """The cross-entropy method, with a budget for real time."""
        options = {"population": 100, "elites": 16, "num_steps": 4}
        return control.plan_by_sampling(key, problem, 1.0, start, **options)

    def agent(self):
        """The agent with the parameters as they are."""
        count = self.world.sizes.actions
        fit = self.world.model, self.guide, self.params
        tracker = control.Tracker(*fit, self.arguments, count)
        start = jnp.zeros((25, count))
        policy = control.RecedingHorizon(self.problem, self.search, start)
        self.key, key = random.split(self.key)
        seed = int(random.randint(key, (), 0, 2**31 - 1))
        return control.LatentAgent(tracker, policy, bounds=(-1.0, 1.0), seed=seed)

    # what was learnt

    def follow(self, belief, episode):
        """Filtered states (T + 1, D) of an episode, of which the first is known."""
        seen = episode.observations[1:], episode.actions
        later = self.arguments(*(jnp.asarray(x, jnp.float32)[:, None] for x in seen))

        def step(belief, new):
            belief = belief.update(**new)
            return belief, belief.marginals["x"].mean[0]

        _, means = lax.scan(step, belief, later)
        return jnp.concatenate([belief.marginals["x"].mean, means])

    def imagine(self, episode, steps=25):
        """What an episode shows from its second observation on, before it is seen.

        It is imagined for a number of steps with the actions that were taken, then anew
        from what was seen in the meantime.
        """
        belief = self.agent().tracker.begin(episode.observations[0])
        starts = self.follow(belief, episode)[:-1:steps]
        count = len(episode.actions)
        actions = np.pad(episode.actions, [(0, -count % steps), (0, 0)])
        actions = jnp.asarray(actions, jnp.float32).reshape(len(starts), steps, -1)
        problem = replace(self.problem(self.key, belief), horizon=steps)

        @jax.jit
        @jax.vmap
        def path(start, actions):
            start = jnp.broadcast_to(start, problem.start.shape)
            return replace(problem, start=start).rollout(actions)[0, 1:]

        x = path(starts, actions).reshape(-1, self.world.sizes.state)[:count]
        return np.asarray(handlers.substitute(self.world.decode, data=self.params)(x))

    def smooth(self, episodes):
        """Means of the states of episodes, given all that they show, ``(N, T, D)``."""
        found = self.guide.posterior_local(self.params, **self.data(episodes))
        return np.asarray(found["x"].mean)
