# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # The pinwheel: clusters that are not Gaussian
#
# A Gaussian mixture needs several components for one curved cluster. A *mixture SVAE*
# (Johnson et al., NIPS 2016) keeps the mixture, but puts it in a latent space: a
# decoder network bends each Gaussian into the shape of a cluster, an encoder network
# says where in the latent space each observation comes from, and the mixture is
# inferred by conjugate message passing with natural gradients.
#
# This tutorial reproduces the best known figure of that paper, and then asks what the
# exact joint posterior of cluster and position is worth.

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
from numpyro import handlers
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.infer import SVI, Predictive
import optax

import numpyro_svae as ns
from numpyro_svae.plots import plot_clusters
from numpyro_svae.training import merge_components

plt.rcParams.update({"figure.dpi": 110, "axes.titlesize": 11, "legend.frameon": False})

# %% [markdown]
# ## Data
#
# Five arms of 100 points. Each arm starts as a narrow Gaussian on the horizontal axis
# and is then rotated, the further out the more.


# %%
def pinwheel(rng, arms=5, per_arm=100, radial=0.3, tangential=0.05, rate=0.25):
    """Points of a pinwheel, and the arm that each of them belongs to."""
    labels = np.repeat(np.arange(arms), per_arm)
    noise = rng.standard_normal((len(labels), 2))
    radius, offset = 1 + radial * noise[:, 0], tangential * noise[:, 1]
    angle = 2 * np.pi * labels / arms + rate * np.exp(radius)
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([cos * radius - sin * offset, sin * radius + cos * offset], -1)
    return 10 * points, labels


y, arm = pinwheel(np.random.default_rng(0))
y = jnp.asarray(y, jnp.float32)

# %% [markdown]
# ## The model
#
# An ordinary NumPyro program. There are 15 components, three times as many as arms; a
# sparse Dirichlet prior leaves it to the data how many are used.
#
# $$
# \pi \sim \text{Dirichlet}(\alpha), \quad
# (\mu_k, \Sigma_k) \sim \text{NIW}, \quad
# z_n \sim \pi, \quad x_n \sim N(\mu_{z_n}, \Sigma_{z_n}), \quad
# y_n \sim N(m(x_n), \text{diag}\, s(x_n)^2)
# $$
#
# Both networks have two layers of 40 units and add a correction to the identity, so
# that training starts from a latent space that is a scaled copy of the data.

# %%
COMPONENTS, DIM, UNIT = 15, 2, 10.0


class Bend(nnx.Module):
    """Location and scale: a small correction of the identity, by 40-40 tanh units."""

    def __init__(self, rngs):
        small = nnx.initializers.normal(0.01)
        self.first = nnx.Linear(DIM, 40, rngs=rngs)
        self.second = nnx.Linear(40, 40, rngs=rngs)
        self.loc = nnx.Linear(40, DIM, kernel_init=small, rngs=rngs)
        self.scale = nnx.Linear(40, DIM, kernel_init=small, rngs=rngs)

    def __call__(self, x):
        h = jnp.tanh(self.second(jnp.tanh(self.first(x))))
        return x + self.loc(h), 0.01 + 0.3 * nnx.softplus(self.scale(h))


decoder, encoder = Bend(nnx.Rngs(0)), Bend(nnx.Rngs(1))


def decode(x):
    loc, scale = nnx_module("decoder", decoder)(x)
    return UNIT * loc, UNIT * scale


def model(y=None, size=1):
    size = size if y is None else len(y)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(COMPONENTS, 0.1)))
    with numpyro.plate("clusters", COMPONENTS):
        prior = ns.NormalInverseWishart(
            jnp.zeros(DIM), 0.1, DIM + 2.0, 0.5 * jnp.eye(DIM)
        )
        loc, cov = ns.sample("cluster", prior)
    with numpyro.plate("points", size):
        z = numpyro.sample("z", dist.Categorical(weights))
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov[z]))
        numpyro.sample("y", dist.Normal(*decode(x)).to_event(1), obs=y)


# %% [markdown]
# ## Recognition and guide
#
# The recognition function takes the arguments of the model and returns, for each
# latent site that a network decodes, a Gaussian potential: what this observation
# alone says about $x_n$. `AutoSVAE` multiplies it with the expected prior, so that
# the posterior of $(z_n, x_n)$ is exact given the potential and the posterior of the
# mixture.
#
# Components start by k-means++ on the encoded data: fifteen of them tile each arm with
# three. Gradients move components, but they do not join two that share an arm: each is
# happy where it is, and the networks then bend thirds of arms. So states are merged
# where the bound is the better for it, before training: `merge_components` tries pairs
# that share data, adds what was seen of either, and keeps a merge if the loss is lower.
# At the start that is cheap to have: the decoder is a scaled identity with much noise,
# and one broad Gaussian explains an arm as well as three do.


# %%
def recognition(y=None):
    loc, scale = nnx_module("encoder", encoder)(y / UNIT)
    return {"x": ns.GaussianPotential.from_loc_scale(loc, scale)}


STEPS = 1500
guide = ns.AutoSVAE(model, recognition)
neural = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))
optimiser = ns.svae_optimizer(neural=neural, natural=0.1)
svi = SVI(model, guide, optimiser, loss=ns.SVAE_ELBO())

initial = svi.init(random.key(1), y)
merges = merge_components(svi, initial, y)
result = svi.run(None, STEPS, y, init_state=merges.state, progress_bar=False)
start, merged = svi.get_params(initial), svi.get_params(merges.state)
print(len(merges.pairs), "merges, loss by merge:", np.round(merges.losses, 1))

# %% [markdown]
# ## Reading the posterior
#
# `get_posterior` returns distributions of the global sites, `posterior_local` those
# of the local sites for given data.

# %%
posterior = guide.get_posterior(result.params)
local = guide.posterior_local(result.params, y)
weights = posterior["weights"].mean
used = np.flatnonzero(weights > 0.01)
print("clusters in use:", len(used), "of", COMPONENTS)
print("their weights:  ", np.round(weights[used], 3))

assigned = np.argmax(local["z"].probs, -1)
print("points of each arm (rows) in each cluster (columns):")
print(np.stack([np.bincount(assigned[arm == a], minlength=15)[used] for a in range(5)]))

# %% [markdown]
# ## The figure
#
# On the right, the latent space: the posterior mean of each $x_n$ and the components,
# drawn at one and two standard deviations. On the left, the data, with the same
# ellipses pushed through the decoder. Before training, the clusters are ellipses in
# both spaces, 15 at first, then as many as there are arms; afterwards, the decoder
# bends one ellipse into each arm.
#
# Ellipses are wider than the points in them: a component holds the whole posterior of
# its $x_n$, of which a point shows the mean only. Across an arm, where the noise of the
# decoder explains the data, the means line up and the rest is uncertainty.


# %%
def both_spaces(axes, guide, params):
    posterior, local = guide.get_posterior(params), guide.posterior_local(params, y)
    loc, cov = posterior["cluster"].unpack(posterior["cluster"].mean)
    style = {
        "weights": posterior["weights"].mean,
        "labels": np.argmax(local["z"].probs, -1),
    }
    decoded = handlers.substitute(lambda x: decode(x)[0], data=params)
    plot_clusters(y, loc, cov, axes[0], transform=decoded, **style)
    plot_clusters(local["x"].mean, loc, cov, axes[1], **style)
    for ax in axes:
        ax.set(xticks=[], yticks=[])


stages = {"start": start, "merged": merged, "trained": result.params}
figure, axes = plt.subplots(3, 2, figsize=(7.5, 11), layout="constrained")
for row, (when, params) in zip(axes, stages.items()):
    both_spaces(row, guide, params)
    row[0].set_ylabel(when, fontsize=11)
axes[0, 0].set_title("data space")
axes[0, 1].set_title("latent space")
plt.show()

# %% [markdown]
# ## New data
#
# Without data, the guide draws the global sites from their posterior, and NumPyro's
# `Predictive` runs the model forward from there.

# %%
draws = guide.sample_posterior(random.key(2), result.params, sample_shape=(500,))
generate = Predictive(model, draws, params=result.params, return_sites=["y"])
new = generate(random.key(3), size=100)["y"].reshape(-1, 2)

figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.7), layout="constrained")
axes[0].scatter(*y.T, s=5, color="0.2", lw=0)
axes[0].set_title("the 500 observations")
box = [-22, 22]
axes[1].hist2d(*new.T, bins=110, range=[box, box], cmap="magma_r", norm="asinh")
axes[1].set_title("posterior predictive density")
for ax in axes:
    ax.set(xlim=box, ylim=box, xticks=[], yticks=[], aspect="equal")
plt.show()

# %% [markdown]
# ## Exact joint or mean field?
#
# Given the potential, $q(z_n, x_n)$ is tractable: a Gaussian for each of the 15 states
# of $z_n$. That is the default. The paper, and most code since, assumes instead that
# $z_n$ and $x_n$ are independent, $q(z_n)\, q(x_n)$, found by coordinate ascent; here
# that is `mean_field=True`. What it saves is decoding: one sample of $x_n$, not one for
# each state of $z_n$. What it costs shows where clusters overlap: it cannot say that a
# point is here if it belongs to this cluster and there if it belongs to that one.
#
# Both guides have the same parameters, so one can be evaluated at what the other has
# learnt.


# %%
def elbo(guide, count=100):
    """ELBO of parameters, nats a point: the mean of some one-sample estimates."""
    loss = ns.SVAE_ELBO(num_particles=count, vectorize_particles=False)
    evaluate = jax.jit(lambda params: loss.loss(random.key(4), params, model, guide, y))
    return lambda params: -float(evaluate(params)) / len(y)


field = ns.AutoSVAE(model, recognition, mean_field=True)
bounds = {"exact joint": elbo(guide), "mean field": elbo(field)}
for when, params in (("start", start), ("trained", result.params)):
    for name, bound in bounds.items():
        print(f"{when:7}, {name:11}: {bound(params):.3f} nats a point")

# %%
# how sure each guide is of the cluster of each point
entropies = [
    jax.scipy.special.entr(one.posterior_local(result.params, y)["z"].probs).sum(-1)
    for one in (guide, field)
]
style = {"cmap": "magma_r", "vmin": 0, "vmax": 0.7, "ec": "0.5", "lw": 0.2}
figure, axes = plt.subplots(1, 2, figsize=(7.9, 3.6), layout="constrained")
for ax, name, entropy in zip(axes, ("exact joint", "mean field"), entropies):
    order = np.argsort(entropy)
    shown = ax.scatter(*y[order].T, s=12, c=entropy[order], **style)
    title = f"{name}: {entropy.mean():.3f} nats on average"
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.set_title(title, fontsize=10)
figure.colorbar(shown, ax=axes, label="entropy of $q(z_n)$, nats", shrink=0.8)
plt.show()

# %% [markdown]
# ## What to take away
#
# - The model names no variational family: swap the likelihood, the networks or the
#   prior, and the same guide serves.
# - Clusters in the latent space are as interpretable as those of a Gaussian mixture,
#   with a posterior over how many are needed, and their shape in the data space is
#   learnt.
# - More components than clusters do no harm where they can be merged. Merge once the
#   encoder says something: here at the start, as both networks begin near the identity;
#   behind networks that begin at random, after some hundred steps.
