# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # A Gaussian-process VAE: irregular series with gaps
#
# Somebody walks about, and twelve beacons measure how strong the signal of a phone is.
# Measurements come at irregular times, beacons miss many of them, and for a while all
# but three hear nothing. Where the phone is, and where the beacons are, is unknown.
#
# A *Gaussian-process VAE* puts a Gaussian process behind a network. A Matern process is
# a Markov chain: its transition matrix is a known function of the time between two
# measurements, so that inference is exact given the messages of the network, and costs
# as many operations as there are times. No grid, no inducing points.

# %% tags=["hide-input"]
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

from flax import nnx
import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import gammainc
import matplotlib.pyplot as plt
import numpy as np
import numpyro
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

plt.rcParams.update({"figure.dpi": 110, "axes.titlesize": 11, "legend.frameon": False})

# %% [markdown]
# ## Data
#
# 72 walks of ten minutes; 8 of them are not fitted. Each has 30 measurements, of which
# each beacon misses four in ten, and two minutes in which three beacons hear something.
# Walks are drawn on a fine grid of times, which the model never sees.

# %%
WALKS, TIMES, BEACONS, TEST, NOISE, LENGTH = 72, 30, 12, 8, 0.1, 1.5
rng = np.random.default_rng(1)
fine = np.linspace(0, 10, 401)


def kernel(first, second, length):
    r = np.sqrt(3) * np.abs(first[:, None] - second) / length
    return (1 + r) * np.exp(-r)


root = np.linalg.cholesky(kernel(fine, fine, LENGTH) + 1e-9 * np.eye(len(fine)))
walk = np.einsum("ij,njd->nid", root, rng.standard_normal((WALKS, len(fine), 2)))
angle = 2 * np.pi * np.arange(BEACONS) / BEACONS
beacons = rng.uniform(1.0, 2.0, (BEACONS, 1)) * np.stack(
    [np.cos(angle), np.sin(angle)], -1
)
squares = np.sum((walk[:, :, None] - beacons) ** 2, -1)
signal = 2 * np.exp(-0.5 * squares / 1.5**2)  # (WALKS, 401, BEACONS)

even = np.arange(0, len(fine), 2)  # the other times are asked for below
index = np.sort([rng.choice(even, TIMES, replace=False) for _ in range(WALKS)])
times = fine[index].astype(np.float32)
y = np.take_along_axis(signal, index[..., None], 1)
y = (y + NOISE * rng.standard_normal(y.shape)).astype(np.float32)

starts = rng.uniform(2, 6, (WALKS, 1))  # of the two minutes
few = np.argsort(rng.random((WALKS, BEACONS)), -1) < 3
in_gap = np.abs(times - starts - 1) < 1
seen = (rng.random(y.shape) > 0.4) & (few[:, None] | ~in_gap[..., None])

# %% [markdown]
# ## A Matern process as a chain
#
# The state is the place and its speed. With $\lambda = \sqrt 3 / \ell$, a time $\Delta$
# later
#
# $$
# A = e^{-\lambda \Delta} \begin{pmatrix} 1 + \lambda \Delta & \Delta \\
# -\lambda^2 \Delta & 1 - \lambda \Delta \end{pmatrix}, \qquad
# Q = P - A P A^\top, \quad P = \mathrm{diag}(1, \lambda^2).
# $$
#
# For short times the difference leaves nothing but rounding in float32, so its entries
# are written without it, by an incomplete Gamma function.


# %%
def matern(gap, length):
    """Transition matrices and covariances (..., 2, 2) of a process of unit variance."""
    pull, gap = jnp.sqrt(3.0) / length, gap[..., None, None]
    rate = jnp.array([[0.0, 1.0], [0.0, 0.0]]) + pull * jnp.diag(jnp.array([1.0, -1.0]))
    rate = rate - pull**2 * jnp.array([[0.0, 0.0], [1.0, 0.0]])
    twice = 2 * pull * gap
    place, decay = gammainc(3.0, twice), jnp.exp(-twice)
    both = 0.5 * pull * twice**2 * decay
    speed = pull**2 * (place + 2 * twice * decay)
    return jnp.exp(-pull * gap) * (jnp.eye(2) + gap * rate), jnp.block(
        [[place, both], [both, speed]]
    )


def two(matrix):
    """The same for two coordinates: both places, then both speeds."""
    pair = jnp.einsum("...ij,kl->...ikjl", matrix, jnp.eye(2))
    return pair.reshape(*matrix.shape[:-2], 4, 4)


# %% [markdown]
# ## The model
#
# The length scale and the noise are parameters, the decoder sees the two places. The
# encoder sees what was heard at one time, and says nothing of speeds: their precision
# is zero.


# %%
def network(inputs, outputs, seed):
    rngs = nnx.Rngs(seed)
    first, last = nnx.Linear(inputs, 64, rngs=rngs), nnx.Linear(64, outputs, rngs=rngs)
    return nnx.Sequential(first, jnp.tanh, last)


decoder, encoder = network(2, BEACONS, 1), network(2 * BEACONS, 4, 2)


def model(times, y, seen):
    positive = dist.constraints.positive
    length = numpyro.param("length", 1.0, constraint=positive)
    noise = numpyro.param("noise", 0.3, constraint=positive)
    A, Q = matern(jnp.diff(times), length)
    start = two(jnp.diag(jnp.stack([1.0, 3.0 / length**2])))
    decode = nnx_module("decoder", decoder)
    with numpyro.plate("walks", len(y)):
        chain = ns.LinearGaussianChain(jnp.zeros(4), start, two(A), two(Q))
        x = numpyro.sample("x", chain)
        signal = dist.Normal(decode(x[..., :2]), noise)
        numpyro.sample("y", signal.mask(seen).to_event(2), obs=y)


def recognition(times, y, seen):
    heard = jnp.concatenate([jnp.where(seen, y, 0.0), seen], -1)
    info, precision = jnp.split(nnx_module("encoder", encoder)(heard), 2, -1)
    speeds = jnp.zeros_like(info)
    precision = jnp.concatenate([jax.nn.softplus(precision), speeds], -1)
    potential = ns.GaussianPotential(jnp.concatenate([info, speeds], -1), precision)
    return {"x": potential.mask(seen.any(-1))}


def fit(seed, steps=2000):
    data = times[TEST:], y[TEST:], seen[TEST:]
    guide = ns.AutoSVAE(model, recognition)
    rate = optax.cosine_decay_schedule(5e-3, steps)
    svi = SVI(model, guide, ns.svae_optimizer(optax.adam(rate)), ns.SVAE_ELBO())
    result = svi.run(random.key(seed), steps, *data, progress_bar=False)
    return guide, result.params


guide, params = fit(0)
print(f"length {params['length']:.2f}, noise {params['noise']:.3f}")

# %% [markdown]
# ## At any time
#
# To ask for another time, add it to the times, with nothing seen. Here that is a grid
# over the ten minutes, in walks that were not fitted.

# %%
grid = np.arange(1, len(fine), 4)
every = np.concatenate([index[:TEST], np.tile(grid, (TEST, 1))], 1)
order = np.argsort(every, 1, kind="stable")
asked = np.argsort(order, 1)[:, TIMES:]  # where the grid is among all times


def merged(values, blank):
    blanks = np.full((TEST, len(grid), *values.shape[2:]), blank, values.dtype)
    both = np.concatenate([values[:TEST], blanks], 1)
    return np.take_along_axis(
        both, order.reshape(*order.shape, *[1] * (both.ndim - 2)), 1
    )


when = fine[np.take_along_axis(every, order, 1)].astype(np.float32)
given = params, when, merged(y, 0.0), merged(seen, False)
decode = numpyro.handlers.substitute(
    lambda x: nnx_module("decoder", decoder)(x), data=params
)


def predict(guide):
    """Means and covariances of places, and draws of signals, on the grid."""
    x = guide.posterior_local(*given)["x"]
    place = np.take_along_axis(np.asarray(x.mean), asked[..., None], 1)[..., :2]
    spread = np.take_along_axis(np.asarray(x.covariance), asked[..., None, None], 1)
    spread = spread[..., :2, :2]
    draws = dist.MultivariateNormal(place, spread).sample(random.key(1), (500,))
    noise = random.normal(random.key(2), (*draws.shape[:-1], BEACONS))
    return place, spread, np.asarray(decode(draws) + params["noise"] * noise)


# %% [markdown]
# An encoder has to guess what to make of beacons that are missing. A few sweeps
# afterwards find the best Gaussian, whatever is missing.

# %%
_, _, amortised = predict(guide)
place, spread, new = predict(guide.refined(20))

# %% [markdown]
# ## Beside a Gaussian process for each beacon
#
# The usual answer is a Gaussian process for each beacon by itself, with the true noise,
# the mean and variance of the beacon, and the length scale that is likeliest for all
# beacons. It cannot know that they all hear the same phone.


# %%
def alone(n, b, length, asked):
    """Mean and variance of beacon b in walk n, and the log density of its data."""
    own, values = times[n, seen[n, :, b]], y[n, seen[n, :, b], b]
    mean, variance = signal[..., b].mean(), signal[..., b].var()
    cov = variance * kernel(own, own, length) + NOISE**2 * np.eye(len(own))
    cross, rest = variance * kernel(asked, own, length), values - mean
    gain = np.linalg.solve(cov, cross.T).T
    density = -0.5 * (rest @ np.linalg.solve(cov, rest) + np.linalg.slogdet(cov)[1])
    return mean + gain @ rest, variance - np.sum(gain * cross, -1) + NOISE**2, density


pairs = [(n, b) for n in range(TEST, TEST + 16) for b in range(BEACONS)]
lengths = np.arange(0.6, 3.0, 0.3)
likely = [sum(alone(n, b, own, fine[:1])[2] for n, b in pairs) for own in lengths]
length = lengths[np.argmax(likely)]
each = [
    [alone(n, b, length, fine[grid])[:2] for b in range(BEACONS)] for n in range(TEST)
]
middle, sure = np.moveaxis(each, (2, 3), (0, 2))  # (TEST, times, BEACONS)

truth = signal[:TEST, grid]
silent = np.abs(fine[grid] - starts[:TEST] - 1) < 1
silent = silent[..., None] & ~few[:TEST, None]  # of beacons that hear nothing there
others = ~(np.abs(fine[grid] - starts[:TEST] - 1) < 1)
unheard = truth + NOISE * rng.standard_normal(truth.shape)
bands = {
    name: (draws.mean(0), *np.quantile(draws, [0.05, 0.95], axis=0))
    for name, draws in (("encoder alone", amortised), ("one process, refined", new))
}
half = 1.645 * np.sqrt(sure)
bands["a process for each beacon"] = middle, middle - half, middle + half
for name, (mean, low, high) in bands.items():
    error = (mean - truth) ** 2
    inside = (low < unheard) & (unheard < high)
    print(
        f"{name:26s} rms error {np.sqrt(error[others].mean()):.3f}, "
        f"in gaps {np.sqrt(error[silent].mean()):.3f}; of 90% intervals hold "
        f"{inside[others].mean():.2f}, in gaps {inside[silent].mean():.2f}"
    )

# %%
n = 0
shown = np.flatnonzero(~few[n])[::3]
figure, axes = plt.subplots(
    3, 2, figsize=(10, 5), layout="constrained", sharex=True, sharey=True
)
for column, (name, (mean, low, high)) in zip(axes.T, list(bands.items())[1:]):
    column[0].set_title(name)
    for ax, b in zip(column, shown):
        ax.axvspan(starts[n, 0], starts[n, 0] + 2, color="#f6e3cf", lw=0)
        ax.fill_between(fine[grid], low[n, :, b], high[n, :, b], alpha=0.3, lw=0)
        ax.plot(fine[grid], mean[n, :, b])
        ax.plot(fine, signal[n, :, b], "k--", lw=0.8)
        ax.plot(times[n, seen[n, :, b]], y[n, seen[n, :, b], b], ".", color="0.3", ms=4)
for ax, b in zip(axes[:, 0], shown):
    ax.set_ylabel(f"beacon {b}")
for ax in axes[-1]:
    ax.set_xlabel("minutes")
plt.show()

# %% [markdown]
# Three beacons that hear nothing for two minutes (orange). Dots are what was heard,
# dashes are the truth. The other three beacons say where the phone is, and the network
# what these would have heard.
#
# ## Where the phone was
#
# Latent places are the true ones up to a smooth map. After the best affine one:

# %%
columns = np.concatenate([place, np.ones_like(place[..., :1])], -1)
target = walk[:TEST, grid]
back, *_ = np.linalg.lstsq(columns.reshape(-1, 3), target.reshape(-1, 2), rcond=None)
mapped = columns @ back
explained = 1 - np.sum((mapped - target) ** 2) / np.sum(
    (target - target.mean((0, 1))) ** 2
)
print(f"variance of the true place that is explained: {explained:.3f}")

circle = np.linspace(0, 2 * np.pi, 60)
circle = 2 * np.stack([np.cos(circle), np.sin(circle)], -1)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, n in zip(axes, range(3)):
    ax.plot(*target[n].T, "k--", lw=0.9, label="true")
    for t in range(0, len(grid), 4):
        factor = np.linalg.cholesky(spread[n, t]) @ np.eye(2)
        oval = mapped[n, t] + circle @ factor.T @ back[:2]
        ax.fill(*oval.T, color="tab:blue" if others[n, t] else "tab:orange", alpha=0.15)
    ax.plot(*mapped[n].T, color="tab:blue", lw=1.2, label="inferred")
    ax.scatter(*beacons.T, marker="^", s=18, color="0.6")
    ax.set(aspect="equal", xticks=[], yticks=[], title=f"walk {n}")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# Ovals hold two standard deviations, the orange ones where three beacons are left.
# Triangles are the beacons, of which the model was told nothing.
#
# All figures are of one set of walks and one fit. How much is gained depends on how
# little each beacon hears: from walks with more measurements, and without sweeps after
# the encoder, a process for each beacon had the smaller error.
