# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # A non-linear oscillator: a vector field that is learnt
#
# An oscillator of Van der Pol runs round a cycle from wherever it starts: slowly along
# its sides, quickly across. A linear dynamical system can only spiral in or out. Here
# the step of a latent path is a network,
#
# $$ x_{t+1} \sim N(x_t + f(x_t), Q), $$
#
# and the oscillator is seen by twenty noisy sensors. `NonlinearGaussianChain` is an
# ordinary distribution; the guide finds the best Gaussian path by sweeps in which the
# steps are linear where the path is, and that is all the inference that there is: no
# recognition network, and natural steps for the sensors and for the noise.

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
# 32 sequences of 100 steps from all over the plane. The first 16 are fitted; of the
# others 50 steps are shown, and the rest is to be forecast.

# %%
SEQUENCES, STEPS, SEEN, SENSORS, HIDDEN = 32, 100, 50, 20, 32


def field(x):
    return np.stack([x[..., 1], 1.5 * (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1)


rng = np.random.default_rng(4)
x, path = rng.uniform(-2.5, 2.5, (SEQUENCES, 2)), []
for _ in range(STEPS):
    path.append(x)
    for _ in range(5):
        x = x + 0.02 * field(x + 0.01 * field(x))
    x = x + 0.01 * rng.standard_normal(x.shape)
path = np.stack(path, 1)
clean = path @ rng.standard_normal((2, SENSORS))
clean = (clean - clean.mean((0, 1))) / clean.std()
sensors = (clean + 0.3 * rng.standard_normal(clean.shape)).astype(np.float32)
fitted, others = jnp.asarray(sensors[:16]), jnp.asarray(sensors[16:])

# %% [markdown]
# ## Two models
#
# They differ in the step alone. Loadings, offsets and noise of the sensors have their
# conjugate prior, and start at principal components.


# %%
def move(net, x):
    return x + net["out"] @ jnp.tanh(net["in"] @ x + net["bias"])


def observe(x, y):
    prior = ns.MatrixNormalInverseWishart(
        jnp.zeros((SENSORS, 3)), 0.1 * jnp.eye(3), SENSORS + 2.0, 0.1 * jnp.eye(SENSORS)
    )
    weight, cov = ns.sample("sensors", prior)
    with numpyro.plate("sequences", len(y)):
        path = numpyro.sample("x", x)
        mean = path @ weight[:, :2].T + weight[:, 2]
        numpyro.sample("y", dist.MultivariateNormal(mean, cov).to_event(1), obs=y)


def nonlinear(y):
    first, second = random.split(random.key(1))
    start = {
        "in": random.normal(first, (HIDDEN, 2)),
        "bias": random.uniform(second, (HIDDEN,), minval=-2.0, maxval=2.0),
        "out": jnp.zeros((2, HIDDEN)),
    }
    net = numpyro.param("net", start)
    variances = dist.InverseGamma(2.0, 0.01).expand([2]).to_event(1)
    noise = jnp.diag(numpyro.sample("noise", variances))
    chain = ns.NonlinearGaussianChain(
        jnp.zeros(2), jnp.eye(2), lambda x, u: move(net, x), noise, num_steps=y.shape[1]
    )
    observe(chain, y)


def linear(y):
    prior = ns.MatrixNormalInverseWishart(
        jnp.eye(2), 0.1 * jnp.eye(2), 4.0, 0.02 * jnp.eye(2)
    )
    turn, noise = ns.sample("dynamics", prior)
    observe(
        ns.LinearGaussianChain(
            jnp.zeros(2), jnp.eye(2), turn, noise, num_steps=y.shape[1]
        ),
        y,
    )


def components(y):
    flat = np.asarray(y).reshape(-1, SENSORS)
    mean = flat.mean(0)
    _, sizes, directions = np.linalg.svd(flat - mean, full_matrices=False)
    loading = directions[:2].T * sizes[:2] / len(flat) ** 0.5
    rest = flat - mean - (flat - mean) @ directions[:2].T @ directions[:2]
    weight = jnp.asarray(np.concatenate([loading, mean[:, None]], 1))
    cov, df = jnp.asarray(np.cov(rest.T) + 1e-3 * np.eye(SENSORS)), 200.0
    return ns.MatrixNormalInverseWishart(weight, df * jnp.eye(3), df, df * cov)


def fit(model, steps=300):
    guide = ns.AutoSVAE(
        model,
        init={"sensors": components(fitted)},
        fixed_point=ns.FixedPoint(max_sweeps=6),
    )
    rate = optax.cosine_decay_schedule(1e-2, steps, 0.02)
    svi = SVI(model, guide, ns.svae_optimizer(optax.adam(rate), 0.2), ns.SVAE_ELBO())
    result = svi.run(random.key(0), steps, fitted, progress_bar=False)
    print(f"{model.__name__:10s} loss {result.losses[-1]:.0f}")
    return guide, result.params


guide, params = fit(nonlinear)
other, of_linear = fit(linear, 100)

# %% [markdown]
# ## The vector field
#
# Latent coordinates are the truth up to an affine map, which is found here by a
# regression of the true path on the smoothed one. In true coordinates, the field that
# was learnt stands beside the true one. It is known where paths have been.

# %%
smoothed = np.asarray(guide.posterior_local(params, fitted)["x"].mean)
columns = np.concatenate([smoothed, np.ones_like(smoothed[..., :1])], -1)
back, *_ = np.linalg.lstsq(columns.reshape(-1, 3), path[:16].reshape(-1, 2), rcond=None)
turn, shift = back[:2], back[2]

across, up = np.meshgrid(np.linspace(-2.5, 2.5, 15), np.linspace(-4, 4, 15))
grid = np.stack([across, up], -1)
latent = np.linalg.solve(turn.T, (grid - shift)[..., None])[..., 0]
step = jax.vmap(jax.vmap(lambda x: move(params["net"], x) - x))(jnp.asarray(latent))
learnt = np.asarray(step) @ turn / 0.1

figure, axes = plt.subplots(1, 2, figsize=(8.5, 4), layout="constrained", sharey=True)
for ax, arrows, title in zip(axes, (field(grid), learnt), ("true", "learnt")):
    for own in path[:16]:
        ax.plot(*own.T, color="0.85", lw=0.7)
    speed = 1e-6 + np.linalg.norm(arrows, axis=-1, keepdims=True)
    ax.quiver(across, up, *np.moveaxis(arrows / np.sqrt(speed), -1, 0), color="C0")
    ax.set(title=f"vector field, {title}", xlim=(-2.7, 2.7), ylim=(-4.3, 4.3))
plt.show()

# %% [markdown]
# ## Forecasts
#
# 50 steps of sequences that were not fitted are shown, and both models go on. Bands
# hold 90 per cent of the draws.

# %%
found = {}
for model, own, known in ((nonlinear, guide, params), (linear, other, of_linear)):
    draws = ns.forecast(
        model, own, known, random.key(2), others[:, :SEEN], horizon=50, num_samples=200
    )
    found[model.__name__] = np.asarray(draws["y"])

future = clean[16:, SEEN:]
print("root mean squared error of the forecast mean, by how far ahead it is")
for name, draws in found.items():
    errors = np.sqrt(np.mean((draws.mean(0) - future) ** 2, (0, 2)))
    print(
        f"{name:10s}"
        + "".join(f"  {h} steps {errors[h - 1]:.2f}" for h in (10, 25, 50))
    )

figure, axes = plt.subplots(2, 2, figsize=(9, 4.5), layout="constrained", sharex="col")
for column, sequence in enumerate((0, 5)):
    for ax, (name, draws) in zip(axes[:, column], found.items()):
        ends = np.quantile(draws[:, sequence, :, 0], [0.05, 0.95], axis=0)
        ahead = np.arange(SEEN, STEPS)
        ax.plot(others[sequence, :SEEN, 0], ".", color="0.6", ms=3)
        ax.plot(clean[16 + sequence, :, 0], "k--", lw=0.8)
        ax.fill_between(ahead, *ends, alpha=0.3)
        ax.plot(ahead, draws[:, sequence, :, 0].mean(0))
        ax.set_title(f"{name}, sequence {sequence}, first sensor")
for ax in axes[-1]:
    ax.set_xlabel("step")
plt.show()

# %% [markdown]
# The linear system forgets: its forecasts shrink to the mean, because a matrix that
# keeps the size of the cycle would let small paths stay small. The network brings all
# of them to the cycle, and what is uncertain is only where they are on it.
