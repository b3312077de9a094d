# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One recipe for acting on what is seen: the training of a world, and plans in it.

Nothing in this file knows the task, and nothing in ``world.py``, which has the model.
The data are episodes of random actions, and of the agent itself if there are rounds of
them; plans are sampled. They go where it is worth most, or to a goal of which there is
a picture.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from following import follow
import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import SVI
import optax
from world import World

import numpyro_svae as ns
from numpyro_svae import control, training

HASTE = 0.05  # what a velocity costs on the way to a goal, beside a distance
SHARE = 0.05  # of the variance of what is seen, over all its entries: the first noise


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["start", "goal"],
    meta_fields=["problem", "planner"],
)
@dataclass(frozen=True)
class Plans(control.RecedingHorizon):
    """Plans for the goal of an episode.

    :param goal: a latent state ``(D,)``, which ``problem`` takes as its third argument;
        None where the reward says all.
    """

    goal: Array | None = None

    def act(self, key, belief, memory):
        """The first action of a new plan, and what is left of that plan."""
        problem = partial(self.problem, goal=self.goal)
        same = control.RecedingHorizon(problem, self.planner, self.start)
        return same.act(key, belief, memory)


class Learner:
    """Fits a world to episodes, and makes an agent that plans in it.

    :param sizes: those of the task.
    :param num_steps: number of steps of SVI.
    :param seed: of batches, and of the agent.
    :param window: number of observations of a window of the episodes.
    :param batch: number of windows in a step.
    :param rate: the largest learning rate.
    :param horizon: number of steps of a plan.
    """

    def __init__(
        self,
        sizes,
        num_steps,
        seed=0,
        window=25,
        batch=16,
        rate=2e-3,
        horizon=25,
    ):
        self.world, self.key = World(sizes), random.key(seed)
        self.num_steps, self.window, self.batch = num_steps, window, batch
        self.horizon = horizon
        self.guide = ns.AutoSVAE(
            self.world.model,
            self.world.recognition,
            fixed_point=ns.FixedPoint(max_sweeps=2, guarded=False),
            cubature=ns.Cubature("simplex"),
        )
        schedule = optax.cosine_decay_schedule(rate, num_steps, 0.05)
        rule = optax.chain(
            optax.clip_by_global_norm(100.0 * window * batch), optax.adam(schedule)
        )
        optimizer = ns.svae_optimizer(rule, 0.1)
        self.svi = SVI(self.world.model, self.guide, optimizer, ns.SVAE_ELBO())
        self.params, self.losses, self.done, self.own_frames = {}, [], 0, 0
        self.first_noise = None  # it has looked at nothing yet
        fit = self.world.model, self.guide, self.params
        self.tracker = control.Tracker(*fit, self.arguments, sizes.actions)

    def data(self, episodes):
        """Arguments of the model for whole episodes of one length.

        Rewards that are all the same say nothing, and are left out.
        """
        frames, actions, rewards = (
            np.stack([episode[i] for episode in episodes]).astype(np.float32)
            for i in range(3)
        )
        found = self.arguments(frames, actions)
        if self.scale[1] > 0:
            found["rewards"] = (rewards - self.scale[0]) / self.scale[1]
        return found

    def look(self, frames):
        """Let networks and the noise begin at what is seen, ``(..., pixels)``."""
        self.world.look(frames)
        spread = np.sum(np.var(np.reshape(frames, (-1, frames.shape[-1])), 0))
        self.first_noise = max(np.sqrt(SHARE * spread), self.world.sizes.noise)

    def sharper(self, batches, done=0):
        """Batches with the noise of observations, which falls in the first half.

        While it is large, pictures say little, and states are what moves smoothly from
        one to the next. Networks that begin at no map of what is seen need it: where
        pictures say much at once, they may tear it for good.

        :param done: number of steps that were taken before.
        """
        fall = self.world.sizes.noise / self.first_noise
        for step, batch in enumerate(batches, done):
            share = min(2 * step / self.num_steps, 1.0)
            yield batch | {"noise": np.float32(self.first_noise * fall**share)}

    def fit(self, episodes, gather=None, rounds=0, every=1000, watch=None):
        """Learn from windows of episodes; return the agent that plans with what was
        learnt. A learner that has not looked at anything looks at these episodes first.

        A world is good where there are data, and an agent gets where random actions
        do not. So its own episodes may join: after half of the steps, when the noise
        has fallen, and then in even distances.

        :param episodes: of random actions.
        :param gather: maps this learner to episodes of its agent.
        :param rounds: number of times that it does.
        :param every: number of steps between looks at the loss.
        :param watch: what is called then; ``done`` says how many steps were taken.
        :raises ValueError: if there are rounds and nothing gathers episodes.
        """
        if rounds and gather is None:
            raise ValueError(
                f"rounds: found {rounds}, and no `gather`. Accepted: 0, or a function "
                "of the learner that returns episodes of its agent."
            )
        seen, _, gained = map(np.concatenate, list(zip(*episodes))[:3])
        if self.first_noise is None:
            self.look(seen)
        self.scale = float(np.mean(gained)), 2 * float(np.std(gained))
        half, state = self.num_steps // 2, None
        own = np.linspace(half, self.num_steps, rounds, endpoint=False, dtype=int)
        for begin, end in pairwise([0, *own, self.num_steps]):
            if begin:
                found = gather(self)
                self.own_frames += sum(len(each.observations) for each in found)
                episodes = [*episodes, *found]
            state = self.go_on(episodes, state, begin, end, every, watch)
        return self.agent()

    def go_on(self, episodes, state, begin, end, every, watch):
        """The steps of a fit from one to another; return the state of the SVI."""
        self.key, key, draw = random.split(self.key, 3)
        batches = self.sharper(self.windows(episodes, draw), begin)

        def look(losses):
            last = np.mean(losses[-every:]) / (self.window * self.batch)
            self.losses.append(last)
            self.done = begin + len(losses)
            if watch:
                watch(self)
            return False  # go on

        options = {"every": every, "stop": look, "progress_bar": False}
        fit = self.svi, key, batches, end - begin
        run = training.run_batches(*fit, init_state=state, **options)
        self.params = self.tracker.params = run.params
        return run.state

    def windows(self, episodes, key):
        """Random windows of episodes of any lengths, as batches without end."""
        each = [self.data([episode]) for episode in episodes]
        data = {name: [own[name][0] for own in each] for name in each[0]}
        seed = int(random.randint(key, (), 0, 2**31 - 1))
        return training.windows(data, self.window, self.batch, seed)

    # acting

    def arguments(self, frames, actions):
        """Arguments of the model for what was seen and done, without rewards."""
        return {"frames": frames, "actions": actions}

    def problem(self, key, belief, goal=None):
        """What to plan: the steps of the model from what the filter knows.

        :param goal: the latent state to go to, and to stay at; None for the states that
            are worth most.
        """

        def cost(x, action=None):
            if goal is None:
                return -handlers.substitute(self.world.worth, data=belief.params)(x)
            place, velocity = jnp.split(x, 2)
            away = place - goal[: len(place)]
            return jnp.sum(away**2) + HASTE * jnp.sum(velocity**2)

        given = key, belief, cost, cost, self.horizon
        options = {"num_samples": 1, "at_mean": True, "lower": -1.0, "upper": 1.0}
        return control.FittedProblem.of(*given, **options)

    def search(self, key, problem, start):
        """The cross-entropy method, with a budget for real time."""
        options = {"population": 100, "elites": 16, "num_steps": 4}
        return control.plan_by_sampling(key, problem, 1.0, start, **options)

    def agent(self, picture=None, exploration=0.0):
        """The agent with the parameters as they are.

        :param picture: what is seen at its goal; None for the states that are worth
            most.
        :param exploration: standard deviation of noise on its actions.
        """
        goal = None if picture is None else self.tracker.latent_goal(picture).mean
        start = jnp.zeros((self.horizon, self.world.sizes.actions))
        policy = Plans(self.problem, self.search, start, goal)
        self.key, key = random.split(self.key)
        seed = int(random.randint(key, (), 0, 2**31 - 1))
        options = {"bounds": (-1.0, 1.0), "exploration": exploration, "seed": seed}
        return control.LatentAgent(self.tracker, policy, **options)

    # what was learnt

    def imagine(self, episode, steps=25):
        """What an episode shows from its second observation on, before it is seen.

        It is imagined for a number of steps with the actions that were taken, then anew
        from what was seen in the meantime.
        """
        belief = self.tracker.begin(episode.observations[0])
        starts = follow(self.tracker, episode)[:-1:steps]
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
