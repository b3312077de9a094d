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
# # A pendulum from pictures: a linear dynamical system with actions
#
# A camera films a pendulum while a motor pushes it. We know the torque of the motor and
# we have the pictures; nobody tells us the angle or the velocity, and one picture alone
# does not even show the velocity. From this we learn
#
# - a **state** for each picture, with its uncertainty, that evolves linearly:
#   $x_{t+1} \sim N(A x_t + B a_t + c, \; Q)$ with action $a_t$;
# - a network that draws the picture from the state (the **decoder**), and one that says
#   what a single picture tells about the state (the **encoder**).
#
# The encoder never sees a sequence. Whatever takes more than one picture to find out,
# such as the velocity, comes from exact smoothing in the linear dynamical system. With
# the model learnt, we predict the pictures to come under given actions.

# %% tags=["hide-input"]
import os
from pathlib import Path
import warnings

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draw without a screen
warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

from flax import nnx
import gymnasium
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

plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False})
plt.rcParams.update({"axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## The pictures
#
# Gymnasium's `Pendulum-v1` supplies the physics and the drawing. Each sequence starts
# near the hanging position, and the torque runs along straight lines between random
# values; the swings stay modest, as a linear model asks for. The camera's picture is
# cut to the pendulum, averaged to 16 x 16 pixels in grey, and noise of standard
# deviation 0.1 is added. (The environment also draws an arrow for the torque. We leave
# it out: the model is given the actions, and the pictures should not give them away.)

# %%
SIZE, NUM_TRAIN, NUM_TEST, NUM_FRAMES = 16, 128, 32, 50


def render(env):
    """A grey picture, 0 for the background and 1 for the pendulum."""
    env.last_u = None  # no arrow
    green = env.render()[61:189, 61:189, 1].astype(np.float32)
    ink = np.clip((255 - green) / 178, 0, 1)
    return ink.reshape(SIZE, 128 // SIZE, SIZE, 128 // SIZE).mean((1, 3))


def film(num_sequences, num_frames, seed):
    """Pictures, actions, and the angle and velocity that we shall not use to learn."""
    rng = np.random.default_rng(seed)
    env = gymnasium.make("Pendulum-v1", render_mode="rgb_array").unwrapped
    env.screen_dim = 250
    env.reset(seed=0)
    frames, actions, states = [], [], []
    for _ in range(num_sequences):
        env.state = np.array([np.pi + rng.uniform(-0.6, 0.6), rng.uniform(-2, 2)])
        knots = rng.uniform(-1.5, 1.5, num_frames // 8 + 2)
        torque = np.interp(np.arange(num_frames - 1) / 8, np.arange(len(knots)), knots)
        for t in range(num_frames):
            frames.append(render(env))
            states.append(env.state - [np.pi, 0])
            if t < num_frames - 1:
                env.step(torque[t : t + 1])
        actions.append(torque[:, None])
    shape = (num_sequences, num_frames)
    clean = np.reshape(frames, (*shape, SIZE**2))
    noisy = clean + 0.1 * rng.standard_normal(clean.shape)
    return {
        "clean": clean.astype(np.float32),
        "frames": noisy.astype(np.float32),
        "states": np.reshape(states, (*shape, 2)).astype(np.float32),
        "actions": np.array(actions, np.float32),
    }


cache = Path("data/pendulum.npz")
if not cache.exists():
    cache.parent.mkdir(exist_ok=True)
    np.savez_compressed(cache, **film(NUM_TRAIN + NUM_TEST, NUM_FRAMES, seed=0))
with np.load(cache) as file:
    data = {name: file[name] for name in file.files}
train = {name: value[:NUM_TRAIN] for name, value in data.items()}
test = {name: value[NUM_TRAIN:] for name, value in data.items()}
angle = data["states"][..., 0]
print(f"{len(angle)} sequences of {NUM_FRAMES} pictures; angles between")
print(f"{angle.min():.2f} and {angle.max():.2f} rad", end=", ")
print(f"95% within {np.quantile(abs(angle), 0.95):.2f} rad")


# %%
def strip(rows, labels, title):
    """Show rows of pictures, one row for each label."""
    height = 0.62 * len(rows) + 0.4
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, height))
    for axis, row, label in zip(np.atleast_1d(axes), rows, labels):
        tiles = np.reshape(row, (-1, SIZE, SIZE))
        tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1)), constant_values=0.4)
        wall = tiles.transpose(1, 0, 2).reshape(SIZE, -1)
        axis.imshow(wall, cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        axis.spines[:].set_visible(False)
    figure.suptitle(title)
    figure.tight_layout(h_pad=0.1)
    plt.show()


strip(train["frames"][:3, ::3], ["1", "2", "3"], "Three sequences, every third picture")

# %% [markdown]
# ## The model
#
# An ordinary NumPyro program. The initial state and the dynamics have conjugate priors;
# `ns.sample` hands us their two parts. The transition matrix acts on the state, the
# action and a constant: `[x, a, 1]`. Each picture is the decoder's drawing plus noise
# whose size is learnt.
#
# The state has two halves, here of one number each: *positions*, which the decoder
# draws, and *velocities*, which no picture shows. Nothing forces the second half to be
# a velocity; it can only be of use through the dynamics, and so it becomes what the
# dynamics need. (How many positions to take is a choice. When we tried two, the
# pictures lay on a curve in the plane of the positions, linear forecasts left the
# curve, and the decoder drew ghosts there.)
#
# The recognition function returns, for each picture, a Gaussian potential: "this
# picture says that the position is about `loc`, give or take `scale`", and nothing at
# all, precision zero, about the velocity. The encoder starts from principal components
# of blurred pictures, which vary smoothly with whatever moves in them; its network
# starts at zero and learns the correction. Started at random, an encoder may fold the
# swing over on itself, and the dynamics cannot undo that.

# %%
NUM_POSITIONS, HIDDEN = 1, 128
DIM = 2 * NUM_POSITIONS  # positions and velocities


def principal_axes(frames, count, width=4.0):
    """Principal axes of blurred pictures, for coordinates of unit variance."""
    grid = np.arange(SIZE)
    blur = np.exp(-0.5 * ((grid[:, None] - grid) / width) ** 2)
    blur = np.kron(blur, blur)
    blurred = frames.reshape(-1, SIZE**2) @ blur
    values, vectors = np.linalg.eigh(np.cov(blurred.T))
    axes = vectors[:, ::-1][:, :count] / np.sqrt(values[::-1][:count])
    return blur @ axes, blurred.mean(0) @ axes


AXES, CENTRE = principal_axes(train["frames"], NUM_POSITIONS)


class Network(nnx.Module):
    """A perceptron with two hidden layers; its output starts at zero."""

    def __init__(self, num_in, num_out, spread, *, rngs):
        first, zeros = nnx.initializers.normal(spread), nnx.initializers.zeros
        self.layers = nnx.List(
            [
                nnx.Linear(
                    num_in, HIDDEN, kernel_init=first, bias_init=first, rngs=rngs
                ),
                nnx.Linear(HIDDEN, HIDDEN, rngs=rngs),
            ]
        )
        self.out = nnx.Linear(HIDDEN, num_out, kernel_init=zeros, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.gelu(layer(x))
        return self.out(x)


def decode(x):
    """The mean picture for each state: it shows positions, not velocities."""
    network = nnx_module(
        "decoder", Network(NUM_POSITIONS, SIZE**2, 3.0, rngs=nnx.Rngs(0))
    )
    return jax.nn.sigmoid(network(x[..., :NUM_POSITIONS]) - 2.0)


def encode(frames):
    """Where each picture says that the positions are, and how well it can tell."""
    network = Network(SIZE**2, 2 * NUM_POSITIONS, 0.1, rngs=nnx.Rngs(1))
    change, scale = jnp.split(nnx_module("encoder", network)(frames), 2, -1)
    return frames @ AXES - CENTRE + change, jax.nn.softplus(scale - 2.0) + 1e-2


def with_constant(actions):
    return jnp.concatenate([actions, jnp.ones_like(actions[..., :1])], -1)


def prior_transition(turn=0.1):
    """Each position swings with its velocity; actions and the constant do nothing."""
    swing = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return jnp.pad(np.kron(swing, np.eye(NUM_POSITIONS)), ((0, 0), (0, 2)))


def model(frames, actions, batch_size=None):
    num_sequences, num_frames, _ = frames.shape
    eye = jnp.eye(DIM)
    initial_prior = ns.NormalInverseWishart(jnp.zeros(DIM), 1.0, DIM + 2.0, eye)
    initial_loc, initial_cov = ns.sample("initial", initial_prior)
    dynamics_prior = ns.MatrixNormalInverseWishart(
        prior_transition(), jnp.eye(DIM + 2), DIM + 2.0, 0.1 * eye
    )
    weight, cov = ns.sample("dynamics", dynamics_prior)
    noise = numpyro.param("noise", 0.2, constraint=dist.constraints.positive)
    with numpyro.plate("sequences", num_sequences, batch_size) as index:
        inputs = with_constant(actions[index])
        chain = ns.LinearGaussianChain(
            initial_loc, initial_cov, weight, cov, inputs=inputs, num_steps=num_frames
        )
        x = numpyro.sample("x", chain)
        pictures = dist.Normal(decode(x), noise).to_event(2)
        numpyro.sample("frames", pictures, obs=frames[index])


def recognition(frames, actions, batch_size=None):
    with numpyro.plate("sequences", len(frames), batch_size) as index:
        loc, scale = encode(frames[index])
        precision = 1 / scale**2
        silent = jnp.zeros_like(loc)  # about the velocities
        vector = jnp.concatenate([precision * loc, silent], -1)
        precision = jnp.concatenate([precision, silent], -1)
        return {"x": ns.GaussianPotential(vector, precision)}


# %% [markdown]
# ## Learning
#
# Stock `SVI`, with minibatches of 16 sequences. `svae_optimizer` gives the posterior of
# the dynamics and of the initial state natural-gradient steps of size 0.1, and
# everything else to Adam.

# %%
NUM_STEPS = 800
guide = ns.AutoSVAE(model, recognition)
rate = optax.cosine_decay_schedule(2e-3, NUM_STEPS)
optimizer = ns.svae_optimizer(optax.adam(rate), natural=0.1)
svi = SVI(model, guide, optimizer, loss=ns.SVAE_ELBO())
inputs = (jnp.asarray(train["frames"]), jnp.asarray(train["actions"]))
result = svi.run(random.key(0), NUM_STEPS, *inputs, batch_size=16, progress_bar=False)
params = result.params

pixels = train["frames"].size
figure, axis = plt.subplots(figsize=(6, 2.6))
axis.plot(-np.asarray(result.losses) / pixels, lw=0.7)
axis.set(xlabel="step", ylabel="ELBO per pixel (nats)", ylim=(0, None))
figure.tight_layout()
plt.show()
print(f"ELBO per pixel: {-result.losses[-100:].mean() / pixels:.3f} nats")
print(f"noise of a pixel: {params['noise']:.3f}")

# %% [markdown]
# ## Smoothed states
#
# From here on we look at the 32 sequences that were not used to learn.
# `guide.posterior_local` returns the posterior of the states as a distribution, here a
# chain with a `mean` and `covariance` for each picture.
#
# The state has its own units: any invertible linear map of it would do as well. So we
# look for the angle and the velocity with a linear regression from the smoothed state,
# fitted on the training sequences, and report $R^2$ on the others. For comparison, the
# same regression from the encoder's output alone, which has seen one picture and not
# the sequence: it can tell no velocity, and smoothing makes the angle better too.


# %%
@jax.jit
def smooth(frames, actions):
    return guide.posterior_local(params, frames, actions)["x"]


def add_one(x):
    return np.concatenate([x, np.ones_like(x[..., :1])], -1)


def read_out(x_train, x_test):
    """Linear regression of angle and velocity on the states; R² on the test set."""
    x, y = (np.reshape(v, (-1, v.shape[-1])) for v in (x_train, train["states"]))
    weight = np.linalg.lstsq(add_one(x), y, rcond=None)[0]
    truth = test["states"]
    error = truth - add_one(x_test) @ weight
    return weight, 1 - error.var((0, 1)) / truth.var((0, 1))


posterior = smooth(data["frames"], data["actions"])
train_means, means = np.split(np.asarray(posterior.mean), [NUM_TRAIN])
weight, smoothed_r2 = read_out(train_means, means)
with numpyro.handlers.substitute(data=params):
    encoded = [np.asarray(encode(split["frames"])[0]) for split in (train, test)]
_, encoded_r2 = read_out(*encoded)
print("R² of           angle  velocity")
print("smoothed state  " + "  ".join(f"{r:5.3f}" for r in smoothed_r2))
print("encoder alone   " + "  ".join(f"{r:5.3f}" for r in encoded_r2))

# %% [markdown]
# The ribbons are $\pm 2$ posterior standard deviations of the smoothed state, carried
# through the linear read-out. They are the uncertainty of the state in the model, not
# the error of the read-out.

# %%
sequences = [0, 1, 2]
figure, axes = plt.subplots(
    2, len(sequences), figsize=(10, 4), sharex=True, sharey="row"
)
time = np.arange(NUM_FRAMES) * 0.05
covariances = posterior.covariance[NUM_TRAIN:]
for column, i in zip(axes.T, sequences):
    for axis, target, truth in zip(column, (0, 1), test["states"][i].T):
        centre = add_one(np.asarray(means[i])) @ weight[:, target]
        direction = weight[:DIM, target]
        deviation = np.sqrt(direction @ np.asarray(covariances[i]) @ direction)
        axis.plot(time, truth, "k--", lw=1, label="true")
        axis.plot(time, centre, label="smoothed")
        axis.fill_between(
            time, centre - 2 * deviation, centre + 2 * deviation, alpha=0.3
        )
    column[0].set_title(f"test sequence {i}")
    column[1].set_xlabel("time (s)")
axes[0, 0].set_ylabel("angle (rad)")
axes[1, 0].set_ylabel("velocity (rad/s)")
axes[0, 0].legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# The two numbers of the state themselves, against what they turned out to be, for all
# pictures of the test sequences.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3))
for k, (axis, name) in enumerate(zip(axes, ["angle (rad)", "velocity (rad/s)"])):
    axis.plot(test["states"][..., k].ravel(), means[..., k].ravel(), ".", ms=2)
    axis.set(xlabel=f"true {name}", ylabel=f"state $x_{k}$")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Reconstructions
#
# The decoder is a part of the model. To use it alone, run it with the learnt parameters
# substituted: `decode` above is a NumPyro program like any other.


# %%
@jax.jit
def draw(x):
    with numpyro.handlers.substitute(data=params):
        return decode(x)


drawn = draw(means)
strip(
    [test["frames"][0, ::3], drawn[0, ::3], test["frames"][1, ::3], drawn[1, ::3]],
    ["real", "drawn", "real", "drawn"],
    "Two test sequences, and the decoder's pictures of the smoothed states",
)

# %% [markdown]
# ## The dynamics
#
# `guide.get_posterior` returns a matrix normal inverse Wishart distribution for the
# dynamics. Left: the eigenvalues of its mean transition matrix. A pair near the unit
# circle is an oscillation that hardly decays, and its angle is the frequency. Right:
# what a unit torque, held for one step, does to the angle according to the learnt
# dynamics and the linear read-out, beside the real pendulum started from rest.
#
# The learnt oscillation is a little slower than that of small swings: a real pendulum
# slows down as it swings wider, and a linear system has one frequency for all of them.

# %%
dynamics = guide.get_posterior(params)["dynamics"]
weight_mean, cov_mean = dynamics.unpack(dynamics.mean)
A, B = np.asarray(weight_mean[:, :DIM]), np.asarray(weight_mean[:, DIM])
eigenvalues = np.linalg.eigvals(A)
for value in eigenvalues[eigenvalues.imag > 0]:
    period = 2 * np.pi / np.angle(value) * 0.05
    print(f"|eigenvalue| {abs(value):.3f}, period {period:.2f} s")
natural_period = 2 * np.pi / np.sqrt(15)
print(f"period of the real pendulum for small swings: {natural_period:.2f} s")

response, kick = [], B
for _ in range(NUM_FRAMES):
    response.append(kick @ weight[:DIM, 0])
    kick = A @ kick
# The environment's own steps, for small angles: first the velocity, then the angle.
swing, real = np.array([0.0, 0.0]), []
for t in range(NUM_FRAMES):
    speed = swing[1] + 0.05 * (-15 * np.sin(swing[0]) + 3 * (t == 0))
    swing = np.array([swing[0] + 0.05 * speed, speed])
    real.append(swing[0])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=[1, 1.8])
circle = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
left.plot(circle.real, circle.imag, "0.7", lw=1)
left.plot(eigenvalues.real, eigenvalues.imag, "o")
left.set(aspect="equal", xlabel="real part", ylabel="imaginary part")
right.plot(time + 0.05, real, "k--", lw=1, label="real")
right.plot(time + 0.05, response, label="learnt")
right.set(xlabel="time after the kick (s)", ylabel="angle (rad)")
right.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# ## The next 20 pictures
#
# We stop the film after 30 pictures. The posterior of the last state, the dynamics and
# the actions to come make a new `LinearGaussianChain`, and that is the forecast: its
# mean drawn by the decoder, or samples of it. Each sample has its own dynamics, drawn
# from their posterior, so every source of uncertainty takes part.

# %%
SEEN, AHEAD = 30, NUM_FRAMES - 30


def forecast(past, actions, weight, cov):
    """The states after the last smoothed one, under given actions."""
    return ns.LinearGaussianChain(
        past.mean[:, -1],
        past.covariance[:, -1],
        weight,
        cov,
        inputs=with_constant(actions),
        num_steps=AHEAD + 1,
    )


past = smooth(test["frames"][:, :SEEN], test["actions"][:, : SEEN - 1])
future_actions = test["actions"][:, SEEN - 1 :]
future = test["clean"][:, SEEN:]
ahead = forecast(past, future_actions, weight_mean, cov_mean)
predicted = draw(ahead.mean[:, 1:])


def sample_future(key):
    key_dynamics, key_chain = random.split(key)
    weight, cov = dynamics.unpack(dynamics.sample(key_dynamics))
    return forecast(past, future_actions, weight, cov).sample(key_chain)[:, 1:]


samples = jax.vmap(sample_future)(random.split(random.key(1), 200))

for i in (0, 1, 2):
    strip(
        [future[i], predicted[i], *draw(samples[:2, i])],
        ["real", "predicted", "a sample", "another"],
        f"Test sequence {i}: the next {AHEAD} pictures, under the true actions",
    )

# %% [markdown]
# The same forecasts as angles, with the ribbon between the 2.5% and 97.5% quantiles of
# 200 samples. It knows of the noise, and of what is uncertain in the last state and in
# the dynamics. It does not know that the real pendulum is not linear, and so it is
# somewhat too narrow.

# %%
figure, axes = plt.subplots(1, len(sequences), figsize=(10, 2.6), sharey=True)
past_means = np.asarray(past.mean)
for axis, i in zip(axes, sequences):
    axis.plot(time, test["states"][i, :, 0], "k--", lw=1, label="true")
    axis.plot(time[:SEEN], add_one(past_means[i]) @ weight[:, 0], label="smoothed")
    paths = add_one(np.asarray(samples[:, i])) @ weight[:, 0]
    low, high = np.quantile(paths, [0.025, 0.975], axis=0)
    centre = add_one(np.asarray(ahead.mean[i, 1:])) @ weight[:, 0]
    axis.plot(time[SEEN:], centre, "C1", label="predicted")
    axis.fill_between(time[SEEN:], low, high, color="C1", alpha=0.3)
    axis.axvline(time[SEEN - 1], color="0.7", lw=1)
    axis.set(title=f"test sequence {i}", xlabel="time (s)")
axes[0].set_ylabel("angle (rad)")
axes[0].legend(loc="upper left", fontsize="small")
figure.tight_layout()
plt.show()
truth = test["states"][:, SEEN:, 0]
paths = add_one(np.asarray(samples)) @ weight[:, 0]
low, high = np.quantile(paths, [0.025, 0.975], axis=0)
print(f"true angle within the ribbon: {np.mean((truth > low) & (truth < high)):.0%}")

# %% [markdown]
# How good is it? The root mean squared error of a pixel, against pictures without
# noise, for each picture ahead and over all test sequences. Beside it: two predictions
# that need no model, a forecast that is told that all actions are zero, and the
# reconstruction, which has seen the picture that it draws. The reconstruction gets
# worse towards the end because swings grow under the torque, to angles that are rare in
# the data.


# %%
def error(pictures):
    return np.sqrt(np.mean((np.asarray(pictures) - future) ** 2, (0, 2)))


idle = forecast(past, 0 * future_actions, weight_mean, cov_mean)
curves = {
    "mean picture": error(train["frames"].mean((0, 1))),
    "last picture repeated": error(test["clean"][:, SEEN - 1 : SEEN]),
    "prediction, actions withheld": error(draw(idle.mean[:, 1:])),
    "prediction": error(predicted),
    "reconstruction": error(drawn[:, SEEN:]),
}
figure, axis = plt.subplots(figsize=(6.5, 3.4))
styles = ["0.7", "0.4", "C2", "C1", "C0"]
for (label, curve), colour in zip(curves.items(), styles):
    axis.plot(np.arange(1, AHEAD + 1), curve, color=colour, label=label)
    print(f"{label:30s} 5 ahead {curve[4]:.3f}   20 ahead {curve[-1]:.3f}")
axis.set(xlabel="pictures ahead", ylabel="error of a pixel (rms)", ylim=(0, None))
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
figure.tight_layout()
plt.show()
