# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Handwritten digits: a mixture behind a decoder
#
# What `make demo` runs, step by step, for somebody who knows NumPyro and has not met
# structured variational autoencoders. A VAE has a standard normal prior over codes: it
# can compress digits, but says nothing of the kinds of digit that there are. Here the
# prior is a Bayesian Gaussian mixture, so that kinds (clusters), their number and their
# probabilities are latent variables with posteriors of their own.
#
# The functions that the demo consists of are imported from `digits_demo.py`, and shown
# where they matter.

# %% tags=["hide-input"]
import inspect
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

import digits_demo as demo
from IPython.display import Code
from jax import random
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from numpyro.infer import Predictive

plt.rcParams.update({"figure.dpi": 110, "axes.titlesize": 11})


def source(*functions):
    """The source of functions, for display."""
    return Code("\n\n".join(map(inspect.getsource, functions)), language="python")


# %% [markdown]
# ## Data
#
# 1797 images of 8 by 8 pixels, a copy of which comes with scikit-learn. The labels are
# never shown to the model: they serve to score the clusters at the end.

# %%
y, digit = demo.load()
figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
demo.show_images(ax, y[:48].reshape(3, 16, 64), "the first images")
plt.show()

# %% [markdown]
# ## The model
#
# An ordinary NumPyro program; nothing in it refers to inference.
#
# $$
# \pi \sim \text{Dirichlet}(0.1), \quad (\mu_k, \Sigma_k) \sim \text{NIW}, \quad
# z_n \sim \pi, \quad x_n \sim N(\mu_{z_n}, \Sigma_{z_n}), \quad
# y_n \sim N(f(x_n), 0.2^2)
# $$
#
# `ns.sample` draws from a normal inverse-Wishart distribution and returns the mean and
# the covariance. The plate over images takes a `subsample_size`, for minibatches.

# %%
source(demo.model, demo.decode)

# %% [markdown]
# ## The recognition function
#
# A VAE's encoder outputs the posterior of a code. Here it outputs a *Gaussian
# potential*: what the image alone says about the code, before the prior has its say.
# Recognition takes the same arguments as the model and returns a potential for each
# latent site that a network decodes, in the plates of that site.

# %%
source(demo.recognition, demo.encode)

# %% [markdown]
# ## The guide, the loss and the optimiser
#
# `AutoSVAE` reads the program and finds out what is conjugate. For every image, the
# posterior of $(z_n, x_n)$ is the exact one under the expected prior and the potential:
# a mixture of 15 Gaussians in closed form. The posteriors of $\pi$ and of each
# $(\mu_k, \Sigma_k)$ are a Dirichlet and normal inverse-Wisharts, and move along
# natural gradients; networks move by Adam. `SVAE_ELBO` samples only what has no closed
# form, which is the picture of a code. SVI is NumPyro's own.

# %%
source(demo.make_svi, demo.fit_svae)

# %% [markdown]
# ## Training
#
# Clusters are found where the encoder puts images that look alike, so it helps if the
# networks know what images look like: they are those of a plain VAE at first, trained
# for a few seconds. `init_params` hands them over. Components start by k-means++ on the
# codes of all images, since that is what `svi.init` is given; training continues from
# its state on batches, here for half as many steps as in the demo.

# %%
vae = demo.fit_vae(y, progress_bar=False)
svi = demo.make_svi()
result = demo.fit_svae(svi, vae.params, y, num_steps=500, progress_bar=False)

# %%
figure, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
demo.show_trace(ax, result.losses, len(y))
plt.show()

# %% [markdown]
# ## Reading the posterior: global sites
#
# `get_posterior` gives NumPyro distributions by the name of the site. Each has the
# methods that any distribution has: `mean`, `sample`, `log_prob`.

# %%
guide, params = svi.guide, result.params
posterior = guide.get_posterior(params)
for name, distribution in posterior.items():
    print(f"{name:8} {type(distribution).__name__}", end=" ")
    print(f"batch {distribution.batch_shape}, event {distribution.event_shape}")

weights = posterior["weights"].mean
draws = posterior["weights"].sample(random.key(0), (1000,))
low, high = np.quantile(draws, [0.05, 0.95], axis=0)

figure, ax = plt.subplots(figsize=(6, 2.4), layout="constrained")
order = np.argsort(-weights)
error = np.abs(np.stack([low, high]) - weights)[:, order]
ax.bar(range(len(order)), weights[order], yerr=error, color="C0", alpha=0.7)
ax.set(xlabel="cluster, by size", ylabel="weight", xticks=[])
ax.set_title("posterior mean and 90 % interval of the weights")
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## Reading the posterior: local sites
#
# `posterior_local` takes data and gives distributions of the sites in its plates: the
# responsibilities of the clusters, and a mixture of Gaussians for each code.

# %%
local = guide.posterior_local(params, y)
responsibilities = local["z"].probs
print("z:", responsibilities.shape, " x:", local["x"].mean.shape)

found = demo.most_probable_clusters(guide, params, y)
clusters, table = demo.by_digit(digit, found)
print("clusters in use:", len(clusters))
print(f"normalised mutual information with the digits: {demo.score(digit, found):.3f}")

figure, axes = plt.subplots(1, 3, figsize=(11, 5.6), layout="constrained")
demo.show_images(axes[0], demo.examples(y, found, clusters, 10), "images by cluster")
demo.label_rows(axes[0], clusters, weights)
demo.show_table(axes[1], table)
axes[1].set_box_aspect((9 * len(clusters) + 1) / 91)
new = demo.draw_from_clusters(params, posterior, random.key(1), 10)
demo.show_images(axes[2], new[clusters], "new images from each cluster")
plt.show()

# %% [markdown]
# Several clusters may share a digit: people write 1 and 4 in more than one way. The
# right panel draws codes from each component and decodes them.
#
# The responsibilities also say where the model is in doubt. These are the images with
# the highest entropy of $q(z_n)$:

# %%
entropy = -jnp.sum(responsibilities * jnp.log(responsibilities + 1e-30), -1)
doubtful = np.argsort(-entropy)[:16]
figure, ax = plt.subplots(figsize=(7, 1.0), layout="constrained")
demo.show_images(ax, y[doubtful][None], "the most doubtful images")
plt.show()
for n in doubtful[:4]:
    best = np.argsort(-responsibilities[n])[:2]
    kinds = [np.bincount(digit[found == k]).argmax() for k in best]
    shares = [f"{responsibilities[n, k]:.2f} one of {d}s" for k, d in zip(best, kinds)]
    print(f"a {digit[n]}, by its clusters:", ", ".join(shares))

# %% [markdown]
# ## Reconstructions, and new images from the posterior
#
# The decoder applied to the posterior mean of a code gives a reconstruction. For new
# images, draw the global sites from the guide (without data, it draws just those) and
# let NumPyro's `Predictive` run the model forward.

# %%
globals_ = guide.sample_posterior(random.key(2), params, sample_shape=(16,))
predictive = Predictive(demo.model, globals_, params=params)
drawn = predictive(random.key(3), size=3)

figure, axes = plt.subplots(
    2, 1, figsize=(7, 2.9), height_ratios=[2, 3], layout="constrained"
)
pairs = jnp.stack([y[:16], demo.reconstruct(guide, params, y)[:16]])
demo.show_images(axes[0], pairs, "images, and below each its reconstruction")
demo.show_images(
    axes[1], drawn["y"].swapaxes(0, 1), "the posterior predictive, with noise"
)
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - Another likelihood: replace `dist.Normal` in the model by any distribution. Pixels
#   are counts from 0 to 16 here, so `dist.Binomial(16, logits=...)` is one idea.
# - Another prior: a sequence of codes with linear dynamics (`ns.LinearGaussianChain`)
#   needs no other guide.
# - Clusters with long or curved shapes: see the pinwheel tutorial, which also gives the
#   clusters a start of its own.
