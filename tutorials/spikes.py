# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Spike trains: a Poisson system, without a network and with one
#
# Neurons of a population fire together, because few things drive them all. A latent
# path moves by linear dynamics, and each neuron fires at a rate that is log-linear in
# it. The Poisson likelihood is not conjugate, but nothing has to be returned for the
# path: without a recognition network the guide finds its best Gaussian by a few sweeps
# in each step of `SVI`. Beside it stands the same model with a recognition network.
#
# How good a latent path is can be measured where it was not fitted: the spikes of
# neurons that it has not seen, in *bits per spike* (co-smoothing, as in the Neural
# Latents Benchmark; Pei et al., 2021).

# %% tags=["hide-input"]
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

from flax import nnx
import jax
from jax import random
import jax.numpy as jnp
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
# 24 trials of 1.6 seconds, counts of 30 neurons in bins of 20 ms. What drives them is a
# rhythm of two cycles a second, whose phase and size wander.

# %%
TRIALS, BINS, NEURONS, D, BIN = 24, 80, 30, 2, 0.02
FITTED, HELD_OUT = slice(0, 16), slice(16, 24)  # trials

rng = np.random.default_rng(2)
turn = 2 * np.pi * 2.0 * BIN
A = 0.98 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
path = np.zeros((TRIALS, BINS, D))
path[:, 0] = rng.standard_normal((TRIALS, D))
for t in range(1, BINS):
    path[:, t] = path[:, t - 1] @ A.T + 0.2 * rng.standard_normal((TRIALS, D))
true_loading = 0.5 * rng.standard_normal((D, NEURONS))
true_offset = np.log(rng.uniform(4.0, 20.0, NEURONS) * BIN)  # spikes per bin
rates = np.exp(path @ true_loading + true_offset)
counts = rng.poisson(rates).astype(np.float32)
print(f"{counts[FITTED].sum():.0f} spikes, {counts.mean() / BIN:.1f} a second")

# %% [markdown]
# ## The model
#
# `seen` says which neurons are recorded. A neuron that is not has a mask, and takes no
# part in the inference.


# %%
def model(y, seen):
    dynamics = ns.MatrixNormalInverseWishart(
        jnp.eye(D), jnp.eye(D), D + 2.0, 0.1 * jnp.eye(D)
    )
    first = ns.NormalInverseWishart(jnp.zeros(D), 1.0, D + 2.0, jnp.eye(D))
    chain = ns.LinearGaussianChain(
        *ns.sample("first", first), *ns.sample("dynamics", dynamics), num_steps=BINS
    )
    start = 0.3 * random.normal(random.key(3), (D, NEURONS))
    loading = numpyro.param("loading", start)
    offset = numpyro.param("offset", jnp.full(NEURONS, -2.0))
    with numpyro.plate("trials", len(y)):
        x = numpyro.sample("x", chain)
        fires = dist.Poisson(jnp.exp(x @ loading + offset))
        numpyro.sample("y", fires.mask(seen).to_event(2), obs=y)


everything = jnp.ones(NEURONS, bool)
y = jnp.asarray(counts[FITTED])


def fit(recognition, steps, rate):
    guide = ns.AutoSVAE(model, recognition)
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = ns.svae_optimizer(optax.adam(schedule), 0.3)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    result = svi.run(random.key(0), steps, y, everything, progress_bar=False)
    return guide, result


# %% [markdown]
# ## Without a network
#
# Loadings and offsets are `numpyro.param`, the dynamics are learnt by natural steps.

# %%
guide, result = fit(None, 100, 0.1)
print(guide.convergence(result.params, y, everything)["x"])

# %% [markdown]
# ## With a network
#
# The encoder sees one bin at a time and returns a Gaussian potential of the state in
# it. It has to learn what the sweeps find by themselves.

# %%
rngs = nnx.Rngs(4)
encoder = nnx.Sequential(
    nnx.Linear(NEURONS, 64, rngs=rngs), jnp.tanh, nnx.Linear(64, 2 * D, rngs=rngs)
)


def recognition(y, seen):
    network = nnx_module("encoder", encoder)
    info, precision = jnp.split(network(y * seen), 2, -1)
    return {"x": ns.GaussianPotential(info, jax.nn.softplus(precision))}


amortised, trained = fit(recognition, 600, 1e-2)

figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
for losses, label in (
    (result.losses, "no network"),
    (trained.losses, "with a network"),
):
    ax.plot(np.arange(1, 1 + len(losses)), -np.asarray(losses) / y.size, label=label)
ax.set(xscale="log", xlabel="step", ylabel="bound, nats a bin")
ax.legend()
plt.show()

# %% [markdown]
# ## Spikes of neurons that were not seen
#
# On trials that were not fitted, six neurons are hidden, and the path is inferred from
# the others. The rate that is expected of a hidden neuron has a closed form. Its log
# likelihood beyond that of a constant rate, by spike and in bits, is the score; that of
# the true rates is what can be reached at best.

# %%
hidden = np.arange(NEURONS) % 5 == 0
held_out, rest = jnp.asarray(counts[HELD_OUT]), jnp.asarray(~hidden)
target = counts[HELD_OUT][..., hidden]


def expected_rates(guide, params):
    x = guide.posterior_local(params, held_out, rest)["x"]
    loading, offset = params["loading"], params["offset"]
    spread = jnp.einsum("ntij,ip,jp->ntp", x.covariance, loading, loading)
    return np.asarray(jnp.exp(x.mean @ loading + offset + 0.5 * spread))


constant = counts[FITTED].mean((0, 1))[hidden]
found = {
    "no network": expected_rates(guide, result.params)[..., hidden],
    "with a network": expected_rates(amortised, trained.params)[..., hidden],
    "true rates": rates[HELD_OUT][..., hidden],
}
for name, value in found.items():
    bits = ns.bits_per_spike(value, target, constant)
    print(f"{name:15s} {bits:.3f} bits a spike")

# %% [markdown]
# The sweeps leave out what is not seen. The encoder was trained on all neurons, and
# takes those that are hidden for silent: a network must be trained for what it will
# miss, a message need not be.

# %%
trial, busiest = 0, np.argsort(target.sum((0, 1)))[::-1][:3]
clock = np.arange(BINS) * BIN
figure, axes = plt.subplots(
    4,
    1,
    figsize=(7, 6.5),
    layout="constrained",
    sharex=True,
    height_ratios=[2, 1, 1, 1],
)
order = np.argsort(np.angle(true_loading[0] + 1j * true_loading[1]))
axes[0].imshow(
    counts[HELD_OUT][trial][:, order].T,
    aspect="auto",
    cmap="Greys",
    extent=(0, BINS * BIN, 0, NEURONS),
    vmax=2,
)
axes[0].set(title="a trial that was not fitted", ylabel="neuron, by phase")
for ax, n in zip(axes[1:], busiest):
    for (name, value), style in zip(found.items(), ("C0-", "C1-", "k--")):
        ax.plot(clock, value[trial, :, n] / BIN, style, lw=1.2, label=name)
    when = clock[target[trial, :, n] > 0]
    ax.plot(when, np.zeros_like(when), "|", color="0.4")
    ax.set_ylabel("rate, 1/s")
axes[1].legend(ncols=3, fontsize=8)
axes[1].set_title("neurons that were hidden: rates, and spikes (ticks)")
axes[-1].set_xlabel("time, s")
plt.show()

# %% [markdown]
# ## The dynamics
#
# What was learnt is the truth up to a change of coordinates, which leaves the
# eigenvalues as they are: how fast the rhythm turns, and how fast it is forgotten.

# %%
learnt = np.asarray(guide.get_posterior(result.params)["dynamics"].mean[:, :D])
for name, matrix in (("true", A), ("learnt", learnt)):
    value = np.linalg.eigvals(matrix)[0]
    turns = abs(np.angle(value)) / (2 * np.pi * BIN)
    print(f"{name:7s} {turns:.2f} cycles a second, {abs(value):.3f} kept a bin")
