# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Groups and members: a hierarchical model, inferred exactly
#
# Members of a group have something in common: pupils of a school, cells of an animal,
# trials of a session. A latent vector of each group and one of each member around it
# make a tree, with plates in plates. The guide sees that the sites depend on each
# other, turns their factors into a graph, and lets funsor eliminate it exactly: no
# factorisation is assumed, and members of a group share their strength by themselves.
#
# Here each member is a noisy curve, a mixture of a few known bumps. Some groups have
# many members and some have few.

# %% tags=["hide-input"]
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

import jax
from jax import random
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

plt.rcParams.update({"figure.dpi": 110, "axes.titlesize": 11, "legend.frameon": False})

# %% [markdown]
# ## Data
#
# Weights of the group are drawn around those of the population, weights of a member
# around those of its group.

# %%
GROUPS, MEMBERS, POINTS, BUMPS = 6, 8, 25, 4
BETWEEN, WITHIN, NOISE = 1.0, 0.3, 0.4

rng = np.random.default_rng(1)
time = np.linspace(0, 1, POINTS)
bumps = np.exp(-0.5 * ((time[:, None] - np.linspace(0.1, 0.9, BUMPS)) / 0.12) ** 2)
population = np.array([2.0, 0.5, 1.5, -1.0])
group = population + BETWEEN * rng.standard_normal((GROUPS, BUMPS))
member = group + WITHIN * rng.standard_normal((MEMBERS, GROUPS, BUMPS))
curves = member @ bumps.T + NOISE * rng.standard_normal((MEMBERS, GROUPS, POINTS))
seen = np.arange(MEMBERS)[:, None] < np.array([8, 8, 4, 2, 1, 1])  # members that exist

# %% [markdown]
# ## The model
#
# The population has a normal-inverse-Wishart prior; its covariance is that between
# groups, and it is learnt from few groups. Nothing in the program refers to inference.

# %%
basis = jnp.asarray(bumps)


def model(y, mask):
    prior = ns.NormalInverseWishart(jnp.zeros(BUMPS), 0.1, BUMPS + 2.0, jnp.eye(BUMPS))
    loc, cov = ns.sample("population", prior)
    with numpyro.plate("groups", GROUPS, dim=-1):
        shared = numpyro.sample("shared", dist.MultivariateNormal(loc, cov))
        with numpyro.plate("members", MEMBERS, dim=-2):
            within = WITHIN**2 * jnp.eye(BUMPS)
            own = numpyro.sample("own", dist.MultivariateNormal(shared, within))
            curve = dist.Normal(own @ basis.T, NOISE).to_event(1)
            numpyro.sample("y", curve.mask(mask), obs=y)


y, mask = jnp.asarray(curves), jnp.asarray(seen)
guide = ns.AutoSVAE(model)
svi = SVI(model, guide, ns.svae_optimizer(optax.adam(1e-3), 1.0), ns.SVAE_ELBO())
result = svi.run(random.key(0), 40, y, mask, progress_bar=False)
local = guide.posterior_local(result.params, y, mask)

# %% [markdown]
# ## Sharing strength
#
# The mean of a group lies between what its members say alone and the population. The
# fewer members it has, the closer it is to the population and the wider its posterior.

# %%
columns = np.moveaxis(curves, -1, 0).reshape(POINTS, -1)
alone, *_ = np.linalg.lstsq(bumps, columns, rcond=None)
alone = np.where(seen[..., None], alone.T.reshape(member.shape), np.nan)
shown = guide.get_posterior(result.params)["population"].mean[..., 0]
spread = np.sqrt(np.asarray(local["shared"].variance))

figure, axes = plt.subplots(
    1, BUMPS, figsize=(11, 3), layout="constrained", sharey=True
)
for d, ax in enumerate(axes):
    for g in range(GROUPS):
        ax.scatter(np.full(MEMBERS, g), alone[:, g, d], s=9, color="0.7")
    ax.errorbar(
        np.arange(GROUPS), local["shared"].mean[:, d], 2 * spread[:, d], fmt="o", ms=4
    )
    ax.plot(np.arange(GROUPS), group[:, d], "x", color="k")
    ax.axhline(shown[d], color="tab:orange", lw=1)
    ax.set(title=f"bump {d}", xlabel="group", xticks=range(GROUPS))
axes[0].set_ylabel("weight")
plt.show()

# %% [markdown]
# Grey: each member fitted alone. Blue: the group, with two standard deviations.
# Crosses: the truth. Orange: the population.
#
# ## A joint sample
#
# Groups and members are drawn together, so that a function of both has its posterior.
# Here: by how much the members of a group that do not exist yet may differ from it.

# %%
draws = guide.sample_posterior(
    random.key(1), result.params, y, mask, sample_shape=(200,)
)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained", sharey=True)
for ax, g in zip(axes, (0, 3, 5)):
    ax.plot(time, curves[seen[:, g], g].T, color="0.8", lw=0.8)
    ax.plot(time, bumps @ draws["shared"][:40, g].T, color="tab:blue", lw=0.4)
    ax.plot(time, bumps @ group[g], color="k", ls="--", lw=1)
    ax.set(title=f"group {g}: {seen[:, g].sum()} members", xlabel="time")
plt.show()

# %% [markdown]
# ## It is exact
#
# With the population fixed, the model is one large Gaussian. Its evidence, computed
# densely, is the ELBO to rounding.

# %%
LOC, COV = jnp.asarray(population), BETWEEN**2 * jnp.eye(BUMPS)


def known(y):
    with numpyro.plate("groups", GROUPS, dim=-1):
        shared = numpyro.sample("shared", dist.MultivariateNormal(LOC, COV))
        with numpyro.plate("members", MEMBERS, dim=-2):
            within = WITHIN**2 * jnp.eye(BUMPS)
            own = numpyro.sample("own", dist.MultivariateNormal(shared, within))
            curve = dist.Normal(own @ basis.T, NOISE).to_event(1)
            numpyro.sample("y", curve, obs=y)


with jax.enable_x64(True):
    exact = ns.AutoSVAE(known)
    loss = ns.SVAE_ELBO().loss(random.key(0), {}, known, exact, y)
    same, own = np.ones((MEMBERS, MEMBERS)), np.eye(MEMBERS)
    cov = np.kron(BETWEEN**2 * same + WITHIN**2 * own, bumps @ bumps.T)
    dense = dist.MultivariateNormal(
        jnp.tile(bumps @ population, MEMBERS), cov + NOISE**2 * np.eye(len(cov))
    )
    flat = jnp.moveaxis(jnp.asarray(y, float), 1, 0).reshape(GROUPS, -1)
    print(f"ELBO     {-loss:.5f}")
    print(f"evidence {dense.log_prob(flat).sum():.5f}")
