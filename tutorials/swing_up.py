# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Swinging a pendulum up from camera pictures
#
# The [pendulum from pictures](pendulum) swung near its hanging position while someone
# else pushed it. Now we push it ourselves, and want it to stand on its head. The motor
# is too weak to lift it: it has to swing to and fro until it gets there. All that we
# have are pictures of 32 x 32 pixels, the torques, and a reward for each step.
#
# The functions are in three files beside this page: `pendulum_camera.py` (the
# environment and what we compare with), `pendulum_swing_up.py` (the model, learning and
# planning; it is also the script that does everything at full length), and
# `film.py`. This page goes through the first part of it with a small budget
# and then shows what the script found.

# %% tags=["hide-input"]
import inspect
import json
from pathlib import Path
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pendulum_swing_up as demo
from pendulum_swing_up import Camera, Learner, RandomTorque, evaluate, report

plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False})
plt.rcParams.update({"axes.spines.right": False, "legend.frameon": False})


def show(*functions):
    """Print the source of functions."""
    print("\n\n".join(inspect.getsource(function) for function in functions))


# %% [markdown]
# ## Random torques
#
# `Camera` wraps gymnasium's `Pendulum-v1`: pictures in the place of the state, and the
# pendulum hangs at first. An *agent* has `reset(seed)` and `act(observation)`; the
# first one holds random torques for a while. `control.run_episode` lets it act, and
# records it.

# %%
env = Camera(seed=0)
episodes, states = evaluate(env, RandomTorque(0), 12)
record = report("random torques", episodes, states)

# %% [markdown]
# ## A map of pictures
#
# Where is the pendulum in a picture? We take 128 pictures, each as different as
# possible from those before it, so that the hanging position, which fills most of the
# film, counts no more than others. The two principal components of these (blurred)
# pictures are the *positions*. They form a ring, without anyone having said that there
# is an angle. The first 16 of the pictures are *anchors*: each other picture belongs to
# the nearest.

# %%
learner = Learner(episodes, first=600)
where = learner.where
pictures = np.concatenate([e.observations[::5] for e in episodes])
places, pieces = where.positions(pictures), np.asarray(where.pieces(pictures))
figure, ax = plt.subplots(figsize=(4.2, 4))
ax.scatter(*places.T, c=pieces, cmap="twilight", s=6)
ax.plot(*where.places.T, "k+", ms=9, label="anchors")
ax.set(xlabel="first position", ylabel="second position", aspect="equal")
ax.legend(loc="center")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## A model that is linear in pieces
#
# A pendulum that goes round is far from linear. But near each anchor it nearly is: so
# we let the anchor of a picture pick the linear dynamics of the step that follows,
#
# $$x_{t+1} \sim N(F_{k_t} [x_t; a_t; 1], \; Q_{k_t}), \qquad k_t \text{ the piece of
# picture } t.$$
#
# This is a switching linear dynamical system whose regimes are seen. Its 16 dynamics
# have conjugate posteriors, and smoothing and filtering stay exact. The state has the
# two positions and one number more, which no picture shows: a velocity along the ring.
# The prior says as much: positions move along the ring with it, and stay on the ring.
#
# Three networks look at the state: the decoder draws the picture, the *reward head*
# says what a state is worth, and the *gate* says which piece it is in. The last two are
# there for planning, when there are no pictures of the future. The recognition function
# takes the positions from the map, with a precision that a network gives, and is silent
# about the velocity. (We tried networks that also correct the positions. They had less
# regular dynamics, and forecasts got worse.)

# %%
show(demo.make_model, demo.decode, demo.reward_of, demo.piece_logits)

# %% [markdown]
# ## Learning
#
# Stock `SVI` on random windows of 30 pictures. `fit` returns an agent.

# %%
agent = learner.fit(episodes)
first, last = learner.losses[:50].mean(), learner.losses[-50:].mean()
print(
    f"loss per picture, in the first and in the last 50 steps: {first:.1f}, {last:.1f}"
)
r2 = demo.velocity_r2(learner, episodes, states)
print(f"R² of the velocity, linearly read from the smoothed state: {r2:.3f}")

# %% [markdown]
# ## Planning
#
# A `Tracker` filters each new picture; from what it knows, the policy `RecedingHorizon`
# plans 25 steps ahead, takes the first action and starts the next plan from the rest.
# The plan is judged by the mean of the learnt reward over samples of the dynamics, from
# their posterior, and of the state, from the filter; `plan_by_sampling` (the
# cross-entropy method) looks for the best.

# %%
show(Learner.make_agent, Learner.problem, Learner.problem_of, demo.search)

# %% [markdown]
# This is its first attempt, after two minutes of random torques, in which the upright
# position was hardly seen. Below each picture is what the model imagined: from what the
# filter knew, with the torques that followed, for up to 1.25 seconds and then anew.

# %%
first, first_states = evaluate(env, agent, 1)
record = report("first attempt", first, first_states)
film = demo.film_strip(first[0].observations[1:], learner.imagine(first[0]))
plt.show()

# %% [markdown]
# ## The loop
#
# An agent goes where its model promises much, and sees what is there. So its episodes
# join the data, and the model is fitted again: `control.aggregate`. The script
# `pendulum_swing_up.py` does this for four rounds of four episodes, with ten episodes
# of each agent at the end. What it found, from `benchmarks/results/swing_up.json`:

# %%
path = Path("../benchmarks/results/swing_up.json")
found = json.loads(path.read_text())
figure, ax = plt.subplots(figsize=(6, 3.4))
for seed, record in found.items():
    returns = [np.mean(each["returns"]) for each in record["rounds"]]
    final = np.mean(record["agents"]["planner in the latent space"]["returns"])
    rounds = jnp.arange(1, len(returns) + 2)
    ax.plot(rounds, [*returns, final], "o-", label=f"latent planner, {seed}")
names = ["planner that sees the true state", "random torque", "no torque"]
for name, style in zip(names, ("--", ":", "-.")):
    level = np.mean([np.mean(r["agents"][name]["returns"]) for r in found.values()])
    ax.axhline(level, color="0.4", ls=style, lw=1, label=name)
ax.set(xlabel="agent (the last one: ten episodes)", ylabel="return of 200 steps")
ax.set_xticks(rounds)
ax.legend(fontsize=8, loc="center right")
figure.tight_layout()
plt.show()
for seed, record in found.items():
    print(f"{seed}: {record['environment_steps']} steps in all, ", end="")
    print(f"{record['seconds']} s; R² of the velocity {record['velocity_r2']:.3f}")
    for name, each in record["agents"].items():
        line = (
            f"{np.mean(each['returns']):8.0f}   upright at the end: {each['upright']}"
        )
        print(f"  {name:34} {line} of {len(each['returns'])}")

# %% [markdown]
# The planner that only ever saw pictures does about as well as the one that knows the
# physics and sees the state. What helped it was chosen by us: a state of three numbers,
# a ring on which the velocity moves the positions, and pieces.
