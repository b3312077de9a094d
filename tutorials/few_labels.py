# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # A few labels: semi-supervised digits
#
# The mixture of `digits.py` finds kinds of digit without labels. Here a few images of
# each digit have a label. In a NumPyro program that is `obs_mask`: the site of the
# cluster is observed where the mask says so, and inferred everywhere else. Neither the
# guide nor the loss changes: known labels enter the same message passing as potentials
# that rule out the other clusters.

# %% tags=["hide-input"]
from functools import partial
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

import digits_demo as demo
import jax
from jax import random
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
from sklearn.linear_model import LogisticRegression

import numpyro_svae as ns

plt.rcParams.update({"figure.dpi": 110, "axes.titlesize": 11, "legend.frameon": False})

# %% [markdown]
# ## Data
#
# 1797 images of 8 by 8 pixels. Of each digit, the first few images of a random order
# keep their label.

# %%
y, digit = demo.load()
order = np.random.default_rng(0).permutation(len(y))


def known_labels(per_digit):
    """Which images keep their label."""
    known = np.zeros(len(y), bool)
    for k in range(10):
        known[order[digit[order] == k][:per_digit]] = True
    return known


# %% [markdown]
# ## The model
#
# Ten clusters, one for each digit. The decoder and the encoder are those of the plain
# VAE that `make demo` starts from.

# %%
CLUSTERS = 10


def model(y, labels, known, batch_size=None):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(CLUSTERS)))
    with numpyro.plate("clusters", CLUSTERS):
        prior = ns.NormalInverseWishart(
            jnp.zeros(demo.DIM), 0.1, demo.DIM + 2.0, jnp.eye(demo.DIM)
        )
        loc, cov = ns.sample("cluster", prior)
    with numpyro.plate("images", len(y), subsample_size=batch_size) as index:
        z = numpyro.sample(
            "z", dist.Categorical(weights), obs=labels[index], obs_mask=known[index]
        )
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov[z]))
        image = dist.Normal(demo.decode(x), demo.NOISE).to_event(1)
        numpyro.sample("y", image, obs=y[index])


def recognition(y, labels, known, batch_size=None):
    return demo.recognition(y, batch_size=batch_size)


networks = demo.fit_vae(y, progress_bar=False).params

# %%
labels = jnp.asarray(digit)


guide = ns.AutoSVAE(model, recognition)
optimiser = ns.svae_optimizer(neural=optax.adam(1e-3), natural=0.1)
svi = SVI(model, guide, optimiser, ns.SVAE_ELBO())
update = jax.jit(partial(svi.update, batch_size=demo.BATCH))  # compiled once


def fit(per_digit, num_steps=200):
    """Parameters, and probabilities of the digits for all images."""
    data = y, labels, jnp.asarray(known_labels(per_digit))
    state = svi.init(random.key(0), *data, init_params=networks)
    for _ in range(num_steps):
        state, _ = update(state, *data)
    params = svi.get_params(state)
    return params, guide.posterior_local(params, *data)["z"].probs


COUNTS = (1, 3, 10)
fits = {count: fit(count) for count in COUNTS}

# %% [markdown]
# ## How many labels are needed?
#
# Accuracy on the images without a label, beside logistic regression on the pixels of
# the images with one.

# %%
accuracy = {"SVAE": [], "logistic regression": []}
for count in COUNTS:
    known = known_labels(count)
    found = np.argmax(fits[count][1], -1)
    accuracy["SVAE"].append(np.mean(found[~known] == digit[~known]))
    regression = LogisticRegression(max_iter=1000).fit(y[known], digit[known])
    accuracy["logistic regression"].append(regression.score(y[~known], digit[~known]))

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for name, values in accuracy.items():
    ax.plot(COUNTS, values, "o-", label=name)
ax.set(xscale="log", xticks=COUNTS, xticklabels=COUNTS, ylim=(0, 1))
ax.set(xlabel="labels of each digit", ylabel="accuracy on the others")
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## What the model is unsure of
#
# The posterior of a label is a distribution. These are the images where it is spread
# out most.

# %%
count = COUNTS[-1]
params, probs = fits[count]
probs = np.asarray(probs)
unsure = np.argsort(probs.max(-1))[:12]
figure, axes = plt.subplots(2, 12, figsize=(11, 2.4), layout="constrained")
for n, image, bars in zip(unsure, axes[0], axes[1]):
    image.imshow(y[n].reshape(8, 8), cmap="gray_r")
    image.set(xticks=[], yticks=[], title=str(digit[n]))
    bars.bar(np.arange(10), probs[n], color="tab:blue")
    bars.set(xticks=(0, 5), yticks=[], ylim=(0, 1))
plt.show()

# %% [markdown]
# Titles are the true digits. Below each image, the probabilities of the ten labels.
#
# ## Pictures of each digit
#
# Clusters have names now: row $k$ shows draws of the digit $k$ from its component.

# %%
posterior = guide.get_posterior(params)
drawn = demo.draw_from_clusters(params, posterior, random.key(1), 12)
figure, ax = plt.subplots(figsize=(5.5, 4.6), layout="constrained")
demo.show_images(ax, jax.device_get(drawn), "draws from the ten clusters")
plt.show()
