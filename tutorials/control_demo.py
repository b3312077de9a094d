# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Learn a task from what is seen of actions, then act, with one recipe for all.

``world.py`` has the model, ``recipe.py`` its training and its plans, and neither knows
a task; ``tasks.py`` has the tasks. It learns from episodes of random actions, and of
the agent itself where a task has rounds of them.
"""

import argparse
from functools import partial
from itertools import compress
import json
from pathlib import Path
import time
import warnings

from film import film_strip, save_gif
from jax import random
import matplotlib.pyplot as plt
import numpy as np
from pictures import SIZE
from recipe import Learner
from sighted import RegulatedAgent, SightedAgent
from tasks import TASKS
from world import Sizes

from numpyro_svae.control import RandomAgent, run_episode

EXPLORATION = 0.3  # of an agent whose episodes join the data


class Shown:
    """An agent that is shown the goal of each episode before it acts.

    :param env: has the picture of it, or None, in ``env.goal()``.
    :param towards: maps that to an agent.
    """

    def __init__(self, env, towards):
        self.env, self.towards = env, towards

    def reset(self, seed=None):
        """Look at the goal."""
        self.agent = self.towards(self.env.goal())
        self.agent.reset(seed)

    def act(self, observation):
        """Act."""
        return self.agent.act(observation)


def collect(env, agent, count, num_steps):
    """Episodes of an agent, and the true states in each of them, (T + 1, S).

    Its actions are between -1 and 1, whatever the bounds of the environment are. T is
    less than ``num_steps`` where the environment ends an episode.
    """
    episodes, states = [], []
    for _ in range(count):
        episodes.append(run_episode(env, agent, num_steps, scaled=True))
        states.append(np.stack(env.states))
    return episodes, states


def random_data(task, frames, seed):
    """Episodes of random actions that begin where the environment says."""
    env, count = task.make(seed, begin=False), frames // task.episode
    return collect(env, random_actions(task, seed), count, task.episode - 1)


def random_actions(task, seed):
    """An agent that holds actions at random for four steps, in the mean."""
    bound = np.ones(task.actions, np.float32)
    return RandomAgent((-bound, bound), hold=4, seed=seed)


def report(name, task, episodes, states):
    """Print the mean return, what was missed and how many were good; return them."""
    totals = np.array([episode.total for episode in episodes])
    misses = np.array([task.miss(each) for each in states])
    good = sum(map(task.reached, episodes, states))
    print(
        f"{name:34} {totals.mean():8.0f} ± {totals.std():4.0f}"
        f"   missed by {np.median(misses):.2f}, good: {good} of {len(totals)}",
        flush=True,
    )
    record = {"returns": totals.round(1).tolist(), "misses": misses.round(3).tolist()}
    return record | {"reached": good}


def r2(learner, task, episodes, states):
    """R² of numbers that are read off smoothed states, linearly.

    The regression is fitted on every other episode and judged on the rest. Episodes
    that ended early are left out.
    """
    whole = [not episode.terminated for episode in episodes]
    x = learner.smooth(list(compress(episodes, whole)))
    numbers = task.read(np.stack(list(compress(states, whole))))
    x = np.concatenate([x, np.ones_like(x[..., :1])], -1)
    flat = x[::2].reshape(-1, x.shape[-1]), numbers[::2].reshape(-1, numbers.shape[-1])
    error = numbers[1::2] - x[1::2] @ np.linalg.lstsq(*flat, rcond=None)[0]
    return 1 - np.mean(error**2, (0, 1)) / np.var(numbers[1::2], (0, 1))


def compare(task, towards, seed):
    """Episodes of an agent, of random actions, and of one who sees the state.

    :param towards: maps a picture of the goal, or None, to the agent.
    """
    env, found, record = task.make(seed + 300), {}, {}
    agents = {
        "random actions": random_actions(task, seed),
        "planner that sees the true state": SightedAgent(task, env, random.key(seed)),
        "planner in the latent space": Shown(env, towards),
    }
    if task.effort is not None:
        agents["regulator of the true linearisation"] = RegulatedAgent(task, env)
    for name, each in agents.items():
        found[name] = collect(env, each, task.attempts, task.attempt)
        record[name] = report(name, task, *found[name])
    return found, record


def gathers(task, seed):
    """What maps a learner to some episodes of its agent, which explores."""
    env = task.make(seed, begin=False)

    def gather(learner):
        agent = Shown(env, partial(learner.agent, exploration=EXPLORATION))
        found = collect(env, agent, task.gathered, task.attempt)[0]
        totals = [round(episode.total) for episode in found]
        print("returns of episodes that join:", *totals, flush=True)
        return found

    return gather


def learn(task, frames, num_steps, seed):
    """Everything up to the agent: what learnt, and the time that it took."""
    episodes, _ = random_data(task, frames, seed + 100)
    pixels = episodes[0].observations.shape[-1]
    sizes = Sizes(pixels, task.actions, task.positions, task.noise)
    learner = Learner(sizes, num_steps, seed, horizon=task.horizon)
    began, cpu = time.perf_counter(), time.process_time()

    def watch(learner):
        done, loss = learner.done, learner.losses[-1]
        took = time.perf_counter() - began
        print(f"{done:6,} steps: loss {loss:8.1f} a picture; {took:.0f} s", flush=True)

    given = gathers(task, seed + 400), task.rounds
    learner.fit(episodes, *given, watch=watch)
    took = time.perf_counter() - began, time.process_time() - cpu
    record = dict(zip(("seconds", "cpu_seconds"), map(round, took)))
    return learner, record | {"frames": frames, "own_frames": learner.own_frames}


def pictures(task, episode, states):
    """What an episode showed from its second step on, with a pale goal."""
    real = np.reshape(task.film(episode.observations[1:]), (-1, SIZE, SIZE))
    if task.goal is None:
        return real
    return np.maximum(real, 0.3 * task.draw(task.goal(states[0])))


def main():
    """Learn, compare, and save figures, a film and the figures as numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS, nargs="?", default="pendulum")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=12_000, help="of random actions")
    parser.add_argument("--steps", type=int, default=10_000, help="of SVI")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    plt.switch_backend("agg")
    ended = "AutoSVAE: coordinate ascent"  # two sweeps are meant
    warnings.filterwarnings("ignore", ended)
    task, seed = TASKS[options.task], options.seed
    learner, record = learn(task, options.frames, options.steps, seed)
    record |= {"steps": options.steps, "positions": task.positions}
    found, record["agents"] = compare(task, learner.agent, seed)
    record["r2"] = r2(learner, task, *random_data(task, 4000, seed + 200)).tolist()
    print("R² of what is read off smoothed states:", np.round(record["r2"], 3))
    options.output.mkdir(parents=True, exist_ok=True)
    episodes, states = found["planner in the latent space"]
    real = pictures(task, episodes[0], states[0])
    imagined = task.film(learner.imagine(episodes[0]))
    name = options.output / options.task
    strip = film_strip(real, imagined, seconds=task.seconds)
    strip.savefig(name.with_suffix(".png"), dpi=130)
    save_gif(name.with_suffix(".gif"), real, imagined, seconds=task.seconds)
    name.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{record['seconds']} s of learning; results in {options.output}")


if __name__ == "__main__":
    main()
