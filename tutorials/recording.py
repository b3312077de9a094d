# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # A day at the physiotherapist: segmenting a real recording
#
# A smartwatch on the wrist records acceleration and rotation while somebody does one
# exercise after the other. Which exercises there were, when each began, and what they
# look like is to be found out without labels, by a *hidden Markov SVAE*: a Markov
# chain of hidden states picks a Gaussian for a latent vector at every moment, and a
# network turns that vector into what the watch has measured.
#
# The recordings are the shoulder exercises of D. Burns, N. Leung, M. Hardisty,
# C. Whyne, P. Henry and S. McLachlin (*Shoulder physiotherapy exercise recognition:
# machine learning the inertial signals from a smartwatch*, Physiological Measurement
# 39, 2018), which come with the package seglearn under the 3-clause BSD licence. The
# file is read from the installed package; nothing is downloaded.

# %% tags=["hide-input"]
from importlib.metadata import files
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

from flax import nnx
from jax import random
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO
import optax
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

import numpyro_svae as ns
from numpyro_svae.plots import plot_elbo, plot_segmentation

plt.rcParams.update({"figure.dpi": 110, "axes.titlesize": 11, "legend.frameon": False})

# %% [markdown]
# ## Data
#
# One recording of each of seven exercises by each of ten people, 50 samples a second.
# The exercises of a person are put one after the other, in an order of their own. What
# the model sees of every half second are the mean acceleration and the logarithms of
# the standard deviations of acceleration and rotation: nine numbers. Sessions differ in
# length; they are padded, and `lengths` says where they end.

# %%
WINDOW = 25
(source,) = (f for f in files("seglearn") if f.name == "watch_dataset.npy")
watch = np.load(source.locate(), allow_pickle=True).item()
names, subjects = watch["y_labels"], np.asarray(watch["subject"])
exercise, side = np.asarray(watch["y"]), np.asarray(watch["side"])


def features(recording):
    """Nine numbers for every half second."""
    count = len(recording) // WINDOW
    parts = recording[: count * WINDOW].reshape(count, WINDOW, 6)
    spread = np.log(parts.std(1) + 0.01)
    return np.concatenate([parts[..., :3].mean(1), spread], -1)


rng = np.random.default_rng(0)
sessions = []
for subject in np.unique(subjects):
    mine = rng.permutation(np.flatnonzero((subjects == subject) & (side == side[0])))
    parts = [features(watch["X"][n]) for n in mine]
    labels = [np.full(len(p), exercise[n]) for p, n in zip(parts, mine)]
    sessions.append((np.concatenate(parts), np.concatenate(labels)))

lengths = np.array([len(labels) for _, labels in sessions])
steps = lengths.max()
y = np.zeros((len(sessions), steps, 9), np.float32)
truth = np.full((len(sessions), steps), -1)
for n, (values, labels) in enumerate(sessions):
    y[n, : lengths[n]], truth[n, : lengths[n]] = values, labels
exists = np.arange(steps) < lengths[:, None]
y = np.where(exists[..., None], (y - y[exists].mean(0)) / y[exists].std(0), 0.0)
y, lengths = jnp.asarray(y), jnp.asarray(lengths)

# %% [markdown]
# ## The model
#
# $$
# z_t \sim \text{Markov}(\pi, P), \quad x_t \sim N(\mu_{z_t}, \Sigma_{z_t}), \quad
# y_t \sim N(f(x_t), s^2)
# $$
#
# A sticky prior says that an exercise goes on for a while. There are more states than
# exercises, since an exercise may look different from person to person.

# %%
STATES, DIM, HIDDEN = 10, 5, 32


def network(name, inputs, outputs, seed):
    rngs = nnx.Rngs(seed)
    layers = (
        nnx.Linear(inputs, HIDDEN, rngs=rngs),
        nnx.Linear(HIDDEN, outputs, rngs=rngs),
    )
    return nnx_module(name, nnx.Sequential(layers[0], nnx.tanh, layers[1]))


def model(y, lengths):
    sequences, steps, sensors = y.shape
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(STATES)))
    with numpyro.plate("states", STATES):
        sticky = jnp.ones(STATES) / STATES + 50.0 * jnp.eye(STATES)
        rows = numpyro.sample("rows", dist.Dirichlet(sticky))
        prior = ns.NormalInverseWishart(jnp.zeros(DIM), 0.1, DIM + 2.0, jnp.eye(DIM))
        loc, cov = ns.sample("look", prior)
    decoder = network("decoder", DIM, sensors, seed=0)
    with numpyro.plate("sessions", sequences):
        exists = jnp.arange(steps) < lengths[:, None]
        chain = ns.DiscreteMarkovChain(initial, rows, steps, lengths=lengths)
        z = numpyro.sample("z", chain)
        gaussian = dist.MultivariateNormal(loc[z], cov[z]).mask(exists)
        x = numpyro.sample("x", gaussian.to_event(1))
        seen = dist.Normal(decoder(x), 0.3).to_event(1).mask(exists)
        numpyro.sample("y", seen.to_event(1), obs=y)


def recognition(y, lengths):
    with numpyro.plate("sessions", len(y)):
        encoder = network("encoder", y.shape[-1], 2 * DIM, seed=1)
        loc, scale = jnp.split(encoder(y), 2, -1)
        return {"x": ns.GaussianPotential.from_loc_scale(loc, nnx.softplus(scale))}


# %% [markdown]
# ## Fit
#
# First the networks alone, under a standard normal prior: a plain VAE, which gives
# codes to start from. Then the whole model. States and codes have their exact joint
# posterior given what the encoder says.


# %%
def plain_model(y, lengths):
    decoder = network("decoder", DIM, y.shape[-1], seed=0)
    with numpyro.plate("sessions", len(y)):
        x = numpyro.sample(
            "x", dist.Normal(jnp.zeros((y.shape[1], DIM)), 1).to_event(2)
        )
        numpyro.sample("y", dist.Normal(decoder(x), 0.3).to_event(2), obs=y)


def plain_guide(y, lengths):
    potential = recognition(y, lengths)["x"]
    scale = 1 / jnp.sqrt(potential.precision)
    loc = potential.info_vector / potential.precision
    with numpyro.plate("sessions", len(y)):
        numpyro.sample("x", dist.Normal(loc, scale).to_event(2))


plain = SVI(plain_model, plain_guide, optax.adam(3e-3), TraceMeanField_ELBO())
networks = plain.run(random.key(0), 1000, y, lengths, progress_bar=False).params

guide = ns.AutoSVAE(model, recognition)
svi = SVI(model, guide, ns.svae_optimizer(optax.adam(1e-3), 0.2), ns.SVAE_ELBO())
state = svi.init(random.key(1), y, lengths, init_params=networks)
result = svi.run(None, 150, y, lengths, init_state=state, progress_bar=False)
local = guide.posterior_local(result.params, y, lengths)
found = np.argmax(local["z"].probs, -1)

# %% [markdown]
# ## What was found
#
# States have no names: each gets that of the exercise during which it is on most often.

# %%
table = np.zeros((STATES, len(names)))
np.add.at(table, (found[exists], truth[exists]), 1)
name_of = table.argmax(1)
score = normalized_mutual_info_score(truth[exists], found[exists])
purity = np.mean(name_of[found[exists]] == truth[exists])
mixture = GaussianMixture(STATES, n_init=3, random_state=0).fit_predict(y[exists])
alone = normalized_mutual_info_score(truth[exists], mixture)
print(
    f"mutual information {score:.2f}, of a Gaussian mixture of the windows {alone:.2f}"
)
print(f"share of the time in a state that is named after the exercise: {purity:.2f}")

figure, (losses, confusion) = plt.subplots(
    1, 2, figsize=(9, 3), layout="constrained", width_ratios=(1, 1.6)
)
plot_elbo(result.losses, losses, per=exists.sum())
losses.set(title="ELBO per window", ylabel="nats")
order = np.lexsort((-table.max(1), name_of))
share = table[order] / np.maximum(table[order].sum(1, keepdims=True), 1)
confusion.imshow(share.T, cmap="Blues", aspect="auto", vmin=0, vmax=1)
confusion.set(yticks=range(7), yticklabels=names, xticks=range(STATES))
confusion.set(title="share of each state's time", xlabel="state", xticklabels=order)
plt.show()

# %% [markdown]
# The sessions of three people: the recording, the exercises as they were, and as the
# states say they were.

# %%
colours = plt.get_cmap("Set2")(range(7))
figure, axes = plt.subplots(
    6, 1, figsize=(10, 6), layout="constrained", height_ratios=(2, 1) * 3
)
for n, (signal, parts) in enumerate(zip(axes[::2], axes[1::2])):
    end = int(lengths[n])
    minutes = np.arange(end) * WINDOW / 50 / 60
    signal.plot(minutes, y[n, :end, :3], lw=0.6)
    signal.set(xlim=(0, minutes[-1]), yticks=[], ylabel=f"person {n}")
    rows = {"true": truth[n, :end], "found": name_of[found[n, :end]]}
    plot_segmentation(rows, parts, colors=colours, time=(0, minutes[-1]))
    parts.set_xlabel("")
axes[-1].set_xlabel("minutes")
handles = [plt.Rectangle((0, 0), 1, 1, color=colours[k]) for k in range(7)]
figure.legend(handles, names, loc="outside upper center", ncols=7)
plt.show()

# %% [markdown]
# ## How long an exercise lasts
#
# The rows of the transition have a posterior, and so has all that follows from them,
# such as how long a state lasts: one over the probability of leaving it.

# %%
draws = guide.sample_posterior(random.key(2), result.params, sample_shape=(1000,))
stay = np.diagonal(draws["rows"], axis1=-2, axis2=-1)[:, order]
seconds = WINDOW / 50 / (1 - stay)
figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
ax.boxplot(seconds, whis=(5, 95), showfliers=False)
ax.set(yscale="log", xlabel="state", ylabel="seconds", title="expected duration")
ax.set_xticklabels([f"{k}\n{names[name_of[k]]}" for k in order])
plt.show()
