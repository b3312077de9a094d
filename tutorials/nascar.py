# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # NASCAR: a switching linear dynamical system
#
# A car drives laps: two straights and two bends. Each part of the track has linear
# dynamics of its own, and ten noisy sensors see the position through a linear map
# (Linderman et al., *Bayesian learning and inference in recurrent switching linear
# dynamical systems*, AISTATS 2017). Which part of the track the car is on, where it is,
# how it moves in each part and what the sensors measure are all unknown.
#
# The whole model is conjugate, so no network and no recognition function is needed:
# states and paths are inferred by coordinate ascent, and every parameter has a
# posterior that natural gradients update.

# %% tags=["hide-input"]
import inspect
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

from IPython.display import Code
from jax import random
import matplotlib.pyplot as plt
import numpy as np
from numpyro.infer import SVI
import optax
import track

import numpyro_svae as ns
from numpyro_svae.plots import plot_segmentation, plot_vector_field

plt.rcParams.update(track.STYLE)

# %% [markdown]
# ## Data
#
# Eight cars, 300 steps each. The program sees the ten sensors only.

# %%
laps = track.drive(0, sequences=8, steps=300)
y = track.scaled(laps)

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3), layout="constrained", width_ratios=(1, 1.4)
)
left.scatter(*laps.position[0].T, s=4, c=track.COLORS[laps.states[0]])
left.set(title="position of one car, by part of the track", aspect="equal")
right.plot(y[0] + 4.0 * np.arange(10), lw=0.7, color="0.3")
right.set(title="what its sensors say", xlabel="step", yticks=[])
plt.show()

# %% [markdown]
# ## The model
#
# $$
# z_t \sim \text{Markov}(\pi, P), \quad
# x_{t+1} \sim N(A_{z_{t+1}} x_t + b_{z_{t+1}}, Q_{z_{t+1}}), \quad
# y_t \sim N(C x_t + d, R)
# $$
#
# In the program, the state of the chain picks the dynamics of each step by plain
# indexing, and the drift $b$ is the weight of an input that is always one.

# %%
Code(inspect.getsource(track.switching_lds), language="python")

# %% [markdown]
# ## Fit
#
# The posterior of states and paths together is intractable. The guide makes them
# independent of each other, keeps both chains whole, and finds the best such product by
# coordinate ascent, in every step of SVI. Before the first step it has made several
# guesses, followed each for a few sweeps, and kept the one with the best bound: little
# is left for the steps to gain.

# %%
sweeps = ns.FixedPoint(max_sweeps=400)  # where a part ends settles slowly
guide = ns.AutoSVAE(track.switching_lds, fixed_point=sweeps)
optimizer = ns.svae_optimizer(optax.adam(1e-3), 0.5)
svi = SVI(track.switching_lds, guide, optimizer, ns.SVAE_ELBO())
result = svi.run(random.key(0), 10, y, progress_bar=False)
local = guide.posterior_local(result.params, y)
found = np.argmax(local["z"].probs, -1)

first, *_, last = -np.asarray(result.losses) / y.size
print(f"ELBO               {first:.4f} to {last:.4f} nats per observed number")
print(f"accuracy           {track.accuracy(laps.states, found):.3f}")
print(f"mutual information {track.mutual_information(laps.states, found):.3f}")

# %% [markdown]
# States have no names, so the ones that were found are renamed to agree best with the
# true ones. `benchmarks/bench_nascar.py` has the figures for 20 cars and five seeds,
# beside those of two hidden Markov models.

# %%
states = track.matched(laps.states, found)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for ax, colours, title in (
    (left, laps.states[0], "true parts of the track"),
    (right, states[0], "states that were found"),
):
    ax.scatter(*laps.position[0].T, s=4, c=track.COLORS[colours])
    ax.set(title=title, aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
cars = range(4)
bands = {"true": laps.states, "found": states}
rows = {f"car {n}, {name}": band[n] for n in cars for name, band in bands.items()}
plot_segmentation(rows, colors=track.COLORS)
plt.show()

# %% [markdown]
# ## Where the car is
#
# Latent coordinates are free up to an affine map. After the best one, the smoothed path
# lies on the track.

# %%
mean = np.asarray(local["x"].mean)
design = np.concatenate([mean, np.ones((*mean.shape[:2], 1))], -1).reshape(-1, 3)
affine, *_ = np.linalg.lstsq(design, laps.position.reshape(-1, 2), rcond=None)
recovered = (design @ affine).reshape(laps.position.shape)

figure, ax = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
ax.plot(*laps.position[1].T, color="0.8", lw=4, label="true")
ax.plot(*recovered[1].T, color="k", lw=0.8, label="smoothed")
ax.set(aspect="equal", title="path of another car")
ax.legend(loc="center")
plt.show()

# %% [markdown]
# ## How it moves
#
# The posterior mean of the dynamics of each state, as the displacement in one step,
# drawn where the state was found.

# %%
dynamics = guide.get_posterior(result.params)["dynamics"].mean[..., :3]
figure, axes = plt.subplots(1, 4, figsize=(11, 2.8), layout="constrained")
for k, ax in enumerate(axes):
    here = mean[found == k][::25]
    name = int(np.bincount(states[found == k]).argmax())
    turn, drift = dynamics[k, :, :2], dynamics[k, :, 2]
    plot_vector_field(
        turn, ax, bias=drift, paths=mean[0], at=here, color=track.COLORS[name]
    )
    ax.set(title=f"state {k}", aspect="equal", xticks=[], yticks=[])
plt.show()
