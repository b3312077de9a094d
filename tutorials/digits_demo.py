# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Cluster handwritten digits without their labels, and draw new ones.

A mixture SVAE on the 1797 digits of scikit-learn's own copy. ``make demo`` runs this
script; ``digits.py`` explains it step by step.
"""

import argparse
from pathlib import Path
import time

from flax import nnx
from jax import random
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO
import optax
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

import numpyro_svae as ns

PIXELS, HIDDEN, DIM, COMPONENTS = 64, 64, 10, 15
NOISE = 0.2  # standard deviation of a pixel, whose values are between 0 and 1
BATCH = 128


def load():
    """Images (N, 64) with values between 0 and 1, and the digit that each one shows."""
    digits = load_digits()
    return jnp.asarray(digits.data / 16, jnp.float32), digits.target


class MLP(nnx.Module):
    """Two hidden layers."""

    def __init__(self, inputs, outputs, seed):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(inputs, HIDDEN, rngs=rngs)
        self.second = nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)
        self.last = nnx.Linear(HIDDEN, outputs, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.gelu(self.second(nnx.gelu(self.first(x)))))


def encode(y):
    """What an image says of its code: location and scale."""
    output = nnx_module("encoder", MLP(PIXELS, 2 * DIM, seed=0))(y)
    loc, scale = jnp.split(output, 2, -1)
    return loc, 0.01 + nnx.softplus(scale)


def decode(x):
    """The image that a code stands for."""
    return nnx.sigmoid(nnx_module("decoder", MLP(DIM, PIXELS, seed=1))(x))


def model(y=None, batch_size=None, size=1):
    """A Gaussian mixture of codes, and a picture of each code."""
    size = size if y is None else len(y)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(COMPONENTS, 0.1)))
    with numpyro.plate("clusters", COMPONENTS):
        prior = ns.NormalInverseWishart(jnp.zeros(DIM), 0.1, DIM + 2.0, jnp.eye(DIM))
        loc, cov = ns.sample("cluster", prior)
    with numpyro.plate("images", size, subsample_size=batch_size) as index:
        z = numpyro.sample("z", dist.Categorical(weights))
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov[z]))
        image = dist.Normal(decode(x), NOISE).to_event(1)
        numpyro.sample("y", image, obs=None if y is None else y[index])


def recognition(y=None, batch_size=None):
    """A Gaussian potential for the code of each image."""
    with numpyro.plate("images", len(y), subsample_size=batch_size) as index:
        return {"x": ns.GaussianPotential.from_loc_scale(*encode(y[index]))}


def vae_model(y, batch_size=None):
    """The same decoder under a standard normal prior: a plain VAE."""
    with numpyro.plate("images", len(y), subsample_size=batch_size) as index:
        x = numpyro.sample("x", dist.Normal(jnp.zeros(DIM), 1).to_event(1))
        numpyro.sample("y", dist.Normal(decode(x), NOISE).to_event(1), obs=y[index])


def vae_guide(y, batch_size=None):
    """The same encoder as the posterior of a plain VAE."""
    with numpyro.plate("images", len(y), subsample_size=batch_size) as index:
        numpyro.sample("x", dist.Normal(*encode(y[index])).to_event(1))


def fit_vae(y, seed=0, num_steps=2000, **options):
    """Train the plain VAE: a baseline, and a start for the networks of the SVAE."""
    svi = SVI(vae_model, vae_guide, optax.adam(2e-3), TraceMeanField_ELBO())
    return svi.run(random.key(seed), num_steps, y, batch_size=BATCH, **options)


def make_svi():
    """Stock SVI with the three parts of this package."""
    guide = ns.AutoSVAE(model, recognition)
    optimiser = ns.svae_optimizer(neural=optax.adam(1e-3), natural=0.1)
    return SVI(model, guide, optimiser, loss=ns.SVAE_ELBO())


def fit_svae(svi, networks, y, seed=0, num_steps=1000, **options):
    """Train the SVAE on batches.

    It is initialised on all images: the components start by k-means++ on their codes.
    """
    state = svi.init(random.key(seed), y, init_params=networks)
    return svi.run(None, num_steps, y, batch_size=BATCH, init_state=state, **options)


def most_probable_clusters(guide, params, y):
    """The most probable cluster of each image."""
    return np.argmax(guide.posterior_local(params, y)["z"].probs, -1)


def score(digit, found):
    """Normalised mutual information with the digits that the images show."""
    return normalized_mutual_info_score(digit, found)


def baselines(y, digit, networks, seed=0):
    """Scores of two-step methods with the same number of clusters."""
    with handlers.block(), handlers.substitute(data=networks):
        codes = np.asarray(encode(y)[0])
    kmeans = KMeans(COMPONENTS, n_init=5, random_state=seed)
    gaussians = GaussianMixture(COMPONENTS, n_init=5, random_state=seed)
    return {
        "k-means on the pixels": score(digit, kmeans.fit_predict(y)),
        "plain VAE, then k-means": score(digit, kmeans.fit_predict(codes)),
        "plain VAE, then a Gaussian mixture": score(
            digit, gaussians.fit_predict(codes)
        ),
    }


# what the figures are made of


def draw_from_clusters(params, posterior, key, count):
    """New images (K, count, 64) of each cluster, at the posterior mean."""
    loc, cov = posterior["cluster"].unpack(posterior["cluster"].mean)
    x = dist.MultivariateNormal(loc, cov).sample(key, (count,))
    return handlers.substitute(decode, data=params)(jnp.swapaxes(x, 0, 1))


def reconstruct(guide, params, y):
    """The images of the posterior mean codes."""
    x = guide.posterior_local(params, y)["x"].mean
    return handlers.substitute(decode, data=params)(x)


def mosaic(images):
    """One picture (rows * 9 + 1, columns * 9 + 1) of images (rows, columns, 64)."""
    rows, columns = images.shape[:2]
    tiles = np.asarray(images).reshape(rows, columns, 8, 8)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=np.nan)
    picture = tiles.swapaxes(1, 2).reshape(rows * 9, columns * 9)
    return np.pad(picture, [(1, 0), (1, 0)], constant_values=np.nan)


def show_images(ax, images, title):
    """Draw images (rows, columns, 64) in a grid."""
    colours = plt.get_cmap("gray_r").with_extremes(bad="#c8d6e5")
    ax.imshow(mosaic(images), cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)


def examples(y, found, clusters, count, seed=0):
    """Random images (len(clusters), count, 64) of each cluster; blank if it has few."""
    rng = np.random.default_rng(seed)
    grid = np.zeros((len(clusters), count, PIXELS))
    for row, cluster in zip(grid, clusters):
        members = rng.permutation(np.flatnonzero(found == cluster))[:count]
        row[: len(members)] = y[members]
    return grid


def by_digit(digit, found):
    """Clusters in use, ordered by the digit that most of their images show."""
    used = np.unique(found)
    table = np.stack([np.bincount(digit[found == k], minlength=10) for k in used])
    order = np.lexsort((-table.sum(1), table.argmax(1)))
    return used[order], table[order]


def label_rows(ax, clusters, weights):
    """Write the weight of each cluster beside its row."""
    ax.set_yticks(9 * np.arange(len(clusters)) + 4.5)
    ax.set_yticklabels([f"{weights[k]:.2f}" for k in clusters], fontsize=9)
    ax.tick_params(length=0)
    ax.set_ylabel("weight of the cluster")


def show_trace(ax, losses, size, window=50):
    """ELBO by step: each batch, and a running mean."""
    elbo = -np.asarray(losses) / size
    mean = np.convolve(elbo, np.ones(window) / window, "valid")
    ax.plot(elbo, color="0.8", lw=0.7)
    ax.plot(np.arange(len(mean)) + window - 1, mean, lw=1.8)
    low, high = np.quantile(elbo, [0.03, 1.0])
    ax.set(xlabel="step", ylabel="nats an image", ylim=(low, high + 0.5))
    ax.set_title(f"ELBO: batches, and their mean of {window}")
    ax.spines[["top", "right"]].set_visible(False)


def show_table(ax, table):
    """Counts of digits (columns) by cluster (rows)."""
    share = table / table.sum(1, keepdims=True)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (row, column), count in np.ndenumerate(table):
        if count:
            colour = "white" if share[row, column] > 0.6 else "black"
            ax.text(
                column, row, count, ha="center", va="center", fontsize=8, color=colour
            )
    ax.set(xticks=range(10), yticks=[], title="images by true digit")
    ax.tick_params(length=0)


def show_reconstructions(ax, guide, params, y, count, seed=0):
    """Three rows of ``count`` random images, and below each its reconstruction."""
    some = np.random.default_rng(seed).choice(len(y), (3, count), replace=False)
    pairs = np.stack([y[some], reconstruct(guide, params, y)[some]], 1)
    show_images(ax, pairs.reshape(6, count, PIXELS), "images and reconstructions")
    ax.set_yticks(9 * np.arange(6) + 4.5, ["image", "rec."] * 3, fontsize=8)
    ax.tick_params(length=0)


def figure_of(guide, result, y, digit, seed=0):
    """Everything in one figure."""
    params, posterior = result.params, guide.get_posterior(result.params)
    found = most_probable_clusters(guide, params, y)
    clusters, table = by_digit(digit, found)
    new = draw_from_clusters(params, posterior, random.key(seed), 10)

    figure = plt.figure(figsize=(11, 8.3), layout="constrained")
    rows = [["clusters", "table", "new"], ["trace", "pairs", "pairs"]]
    axes = figure.subplot_mosaic(rows, height_ratios=[2.2, 1])
    show_images(axes["clusters"], examples(y, found, clusters, 10), "images by cluster")
    label_rows(axes["clusters"], clusters, posterior["weights"].mean)
    show_table(axes["table"], table)
    # the rows of the table are those of the images beside it
    axes["table"].set_box_aspect((9 * len(clusters) + 1) / 91)
    show_images(axes["new"], new[clusters], "new images from each cluster")
    show_trace(axes["trace"], result.losses, len(y))
    show_reconstructions(axes["pairs"], guide, params, y, 18, seed)
    return figure


def run(seed=0):
    """Fit, print the scores and return what the figure needs."""
    y, digit = load()
    print("Plain VAE, for comparison and as a start:")
    vae = fit_vae(y, seed)
    print("Structured VAE:")
    svi = make_svi()
    result = fit_svae(svi, vae.params, y, seed)
    scores = baselines(y, digit, vae.params, seed)
    found = most_probable_clusters(svi.guide, result.params, y)
    scores["structured VAE"] = score(digit, found)
    print(f"\nNormalised mutual information with the digits, {COMPONENTS} clusters")
    for name, value in scores.items():
        print(f"  {name:36} {value:.3f}")
    print(f"clusters in use: {len(np.unique(found))}")
    return svi.guide, result, y, digit


def main():
    """Run the demo and save its figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/digits.png"))
    options = parser.parse_args()
    plt.switch_backend("agg")
    began = time.perf_counter()
    figure = figure_of(*run(options.seed), seed=options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=130)
    print(f"{options.output} written; {time.perf_counter() - began:.0f} seconds in all")


if __name__ == "__main__":
    main()
