# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forecasts of three systems whose vector fields are learnt, beside an LDS.

Van der Pol, FitzHugh-Nagumo and Lorenz, seen by twenty noisy sensors that are random
networks of the state. Both models have as many latent dimensions as the system, and the
same decoder, a network with a learnt noise of each sensor, which starts where a
variational autoencoder of single frames has it. The transition of the one is ``x + F
phi(x)`` with random features phi and a conjugate prior on F and the noise; that of the
other is a matrix with its conjugate prior. There is no recognition network: paths are
found by sweeps. They forecast from 60 steps of sequences that they were not fitted to.
Writes ``benchmarks/results/nonlinear.json``; arguments are seeds with commas between
them, and systems, all of them by default.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
import json
from pathlib import Path
import sys
import time
from typing import Any
import warnings

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

HERE = Path(__file__).parent
STEPS, RATE, FEATURES, HIDDEN = 300, 0.5, 24, 24
SEQUENCES, LENGTH, SEEN, HORIZONS = 16, 110, 60, (10, 25, 50)
SENSORS, SENSOR_NOISE, KICKS = 20, 0.3, 0.005
SWEEPS, ADAM, FRAMES_STEPS, RIDGE = 5, 2e-3, 3000, 0.1


def van_der_pol(x: np.ndarray) -> np.ndarray:
    """Velocities, with a limit cycle that is no ellipse."""
    return np.stack([x[..., 1], 1.5 * (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1)


def fitzhugh_nagumo(x: np.ndarray) -> np.ndarray:
    """Velocities of a neuron that fires, three times as fast as is usual."""
    v, w = x[..., 0], x[..., 1]
    return 3 * np.stack([v - v**3 / 3 - w + 0.5, 0.08 * (v + 0.7 - 0.8 * w) * 4], -1)


def lorenz(x: np.ndarray) -> np.ndarray:
    """Velocities of a tenth of the path of Lorenz, a quarter as fast."""
    a, b, c = np.moveaxis(10 * x, -1, 0)
    found = np.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)
    return found / 40


SYSTEMS = {  # with the number of dimensions, and the steps before the first one
    "van der pol": (van_der_pol, 2, 0),
    "fitzhugh-nagumo": (fitzhugh_nagumo, 2, 0),
    "lorenz": (lorenz, 3, 400),
}


def simulate(name: str, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Sensors of paths, and what they would be without noise."""
    field, size, before = SYSTEMS[name]
    x, paths = rng.uniform(-2.5, 2.5, (2 * SEQUENCES, size)), []
    for step in range(before + LENGTH):
        if step >= before:
            paths.append(x)
        for _ in range(5):
            half = x + 0.01 * field(x)
            x = x + 0.02 * field(half)
        x = x + KICKS * rng.standard_normal(x.shape)
    path = np.stack(paths, 1)
    path = (path - path.mean((0, 1))) / path.std((0, 1))
    inner = rng.standard_normal((size + 1, HIDDEN)) / np.sqrt(size)
    bent = np.tanh(path @ inner[:-1] + inner[-1])
    clean = bent @ rng.standard_normal((HIDDEN, SENSORS))
    clean = (clean - clean.mean((0, 1))) / clean.std()
    return clean + SENSOR_NOISE * rng.standard_normal(clean.shape), clean


def layers(key: Array, sizes: tuple[int, int, int]) -> dict[str, Array]:
    """A network with one layer of hidden units, at random."""
    first, second, third = random.split(key, 3)
    start, middle, end = sizes
    return {
        "in": random.normal(first, (start, middle)) / start**0.5,
        "bias": random.uniform(second, (middle,), minval=-2.0, maxval=2.0),
        "out": random.normal(third, (middle, end)) / middle,
        "mean": jnp.zeros(end),
    }


def apply(net: dict[str, Array], x: Array) -> Array:
    """The network."""
    return jnp.tanh(x @ net["in"] + net["bias"]) @ net["out"] + net["mean"]


@partial(jax.jit, static_argnames="size")
def autoencoder(y: Array, size: int, key: Array) -> tuple[dict, Array, Array]:
    """The decoder of a variational autoencoder of frames, paths, and its loss."""
    frames = y.reshape(-1, SENSORS)
    first, second = random.split(key)
    nets = {
        "encoder": layers(first, (SENSORS, 2 * HIDDEN, 2 * size)),
        "decoder": layers(second, (size, HIDDEN, SENSORS)),
        "noise": jnp.zeros(SENSORS),
    }
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, FRAMES_STEPS, 0.01))

    def loss(nets: dict, key: Array) -> Array:
        mean, spread = jnp.split(apply(nets["encoder"], frames), 2, -1)
        x = mean + jnp.exp(spread) * random.normal(key, mean.shape)
        sensors = dist.Normal(apply(nets["decoder"], x), jnp.exp(nets["noise"]))
        divergence = jnp.sum(mean**2 + jnp.exp(2 * spread), -1) / 2 - jnp.sum(
            spread, -1
        )
        return jnp.mean(divergence - sensors.log_prob(frames).sum(-1))

    def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
        nets, state = carry
        value, gradient = jax.value_and_grad(loss)(nets, key)
        change, state = adam.update(gradient, state)
        return (optax.apply_updates(nets, change), state), value

    begin = nets, adam.init(nets)
    keys = random.split(key, FRAMES_STEPS)
    (nets, _), losses = jax.lax.scan(step, begin, keys)
    paths = apply(nets["encoder"], y)[..., :size]
    return nets["decoder"] | {"noise": nets["noise"]}, paths, losses[-1]


def features(x: Array) -> Array:
    """Random features of states ``(..., D)``, and these themselves."""
    first, second = random.split(random.key(1))
    slopes = random.normal(first, (x.shape[-1], FEATURES))
    biases = random.uniform(second, (FEATURES,), minval=-2.0, maxval=2.0)
    one = jnp.ones_like(x[..., :1])
    return jnp.concatenate([jnp.tanh(x @ slopes + biases), x, one], -1)


def dynamics(size: int, loc: Array) -> ns.MatrixNormalInverseWishart:
    """The prior of the weights of a transition and its noise."""
    columns = RIDGE * jnp.eye(loc.shape[-1])
    return ns.MatrixNormalInverseWishart(loc, columns, size + 2.0, 0.02 * jnp.eye(size))


def regression(paths: Array) -> dict[str, dist.Distribution]:
    """A start of a linear transition: a regression on the paths of the autoencoder."""
    size = paths.shape[-1]
    ends = np.asarray(paths, np.float64)
    u, v = (x.reshape(-1, size) for x in (ends[:, :-1], ends[:, 1:]))
    columns = RIDGE * np.eye(size) + u.T @ u
    weight = np.linalg.solve(columns, RIDGE * np.eye(size) + u.T @ v).T
    left = v - u @ weight.T
    scale, df = 0.02 * np.eye(size) + left.T @ left, size + 2.0 + len(u)
    found = (jnp.asarray(x, jnp.float32) for x in (weight, columns, df, scale))
    return {"dynamics": ns.MatrixNormalInverseWishart(*found)}


def observe(chain: dist.Distribution, y: Array, start: Any) -> None:
    """Sensors that are a network of the path, with a noise each."""
    net = numpyro.param("decoder", start)
    with numpyro.plate("sequences", len(y)):
        x = numpyro.sample("x", chain)
        sensors = dist.Normal(apply(net, x), jnp.exp(net["noise"]))
        numpyro.sample("y", sensors.to_event(2), obs=y)


def nonlinear(y: Array, size: int, start: Any) -> None:
    """A path whose steps are a sum of features."""
    prior = dynamics(size, jnp.zeros((size, FEATURES + size + 1)))
    weight, noise = ns.sample("dynamics", prior)

    def move(x: Array, u: Array) -> Array:
        return x + weight @ features(x)

    known = jnp.zeros(size), jnp.eye(size)
    chain = ns.NonlinearGaussianChain(*known, move, noise, num_steps=y.shape[1])
    observe(chain, y, start)


def linear(y: Array, size: int, start: Any) -> None:
    """A linear dynamical system of the same size."""
    turn, noise = ns.sample("dynamics", dynamics(size, jnp.eye(size)))
    known = jnp.zeros(size), jnp.eye(size)
    chain = ns.LinearGaussianChain(*known, turn, noise, num_steps=y.shape[1])
    observe(chain, y, start)


def svi_of(model: Callable, size: int, start: dict | None = None) -> SVI:
    """How a model is fitted.

    :param start: where its transition starts, if that is known.
    """
    few = ns.FixedPoint(max_sweeps=SWEEPS)  # they go on in the next step
    guide = ns.AutoSVAE(model, fixed_point=few, cubature=points(size), init=start)
    adam = optax.adam(optax.cosine_decay_schedule(ADAM, STEPS, 0.02))
    return SVI(model, guide, ns.svae_optimizer(adam, RATE), ns.SVAE_ELBO())


def points(size: int) -> ns.Cubature:
    """Of expectations: nine in two dimensions, eight in three."""
    return ns.Cubature("hermite", num_points=3 if size == 2 else 2)


@cache
def guide_of_forecasts(model: Callable, size: int) -> ns.AutoSVAE:
    """With as many sweeps as they take, from a start."""
    return ns.AutoSVAE(model, cubature=points(size))


STEP: dict = {}  # of a fit, by model and size: it is compiled once


def fit_and_forecast(
    model: Callable, fitted: Array, seen: Array, start: Any, paths: Array, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Draws of the sensors after what is seen, and seconds of processor time."""
    size = paths.shape[-1]
    svi = svi_of(model, size, regression(paths) if model is linear else None)
    clock = time.process_time()
    args = fitted, size, start
    state = svi.init(random.key(seed), *args)
    update = STEP.setdefault((model, size), jax.jit(svi.update, static_argnums=2))
    begun, losses = time.process_time(), []
    for step in range(STEPS):
        state, loss = update(state, *args)
        losses.append(float(loss))
        if step == 0:
            first = time.process_time()
    seconds = {
        "init": round(begun - clock, 2),
        "first_step": round(first - begun, 2),  # compiled once for systems of a size
        "a_step": round((time.process_time() - first) / (STEPS - 1), 4),
    }
    course = " ".join(f"{loss:.0f}" for loss in losses[:: STEPS // 6])
    print(f"  {model.__name__}: {course} {losses[-1]:.0f}", seconds, flush=True)
    draws = ns.forecast(
        model,
        guide_of_forecasts(model, size),
        svi.get_params(state),
        random.key(seed),
        seen,
        *args[1:],
        horizon=max(HORIZONS),
        num_samples=200,
    )
    return np.asarray(draws["y"]), seconds


def run(name: str, seed: int) -> dict:
    """Errors and coverage of both models on one data set."""
    y, clean = simulate(name, np.random.default_rng(seed))
    fitted, seen = (jnp.asarray(x, jnp.float32) for x in (y[:SEQUENCES], y[SEQUENCES:]))
    size = SYSTEMS[name][1]
    truth, future = (x[SEQUENCES:, SEEN:] for x in (clean, y))
    start, paths, per_frame = autoencoder(fitted, size, random.key(seed))
    print(f"  {name} {seed} loss of a frame {per_frame:.3f}", flush=True)
    found: dict = {"system": name, "seed": seed}
    for model in (nonlinear, linear):
        args = model, fitted, seen[:, :SEEN], start, paths, seed
        draws, seconds = fit_and_forecast(*args)
        errors = draws.mean(0) - truth
        rmse = [float(np.sqrt(np.mean(errors[:, h - 1] ** 2))) for h in HORIZONS]
        cover = {}
        for level in (0.5, 0.9):
            ends = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
            inside = (future >= ends[0]) & (future <= ends[1])
            cover[str(level)] = round(float(inside.mean()), 3)
        found[model.__name__] = {
            "rmse": {str(h): round(e, 4) for h, e in zip(HORIZONS, rmse)},
            "coverage": cover,
            "seconds": seconds,
        }
        print(f"  {name} {seed} {model.__name__} {rmse} {cover}", flush=True)
    return found


def main() -> None:
    warnings.simplefilter("ignore", RuntimeWarning)  # of sweeps that are few on purpose
    seeds, *chosen = sys.argv[1:] or ["0,1,2"]
    chosen = chosen or list(SYSTEMS)
    runs = []
    for seed in map(int, seeds.split(",")):
        for name in chosen:
            runs.append(run(name, seed))
            write(runs)


def write(runs: list[dict]) -> None:
    """The results so far, with the worst of the ratios of errors."""
    worst: dict[str, dict[str, float]] = {}
    for found in runs:
        own = worst.setdefault(found["system"], {})
        ours, theirs = (found[n]["rmse"] for n in ("nonlinear", "linear"))
        for h, error in theirs.items():
            own[h] = max(own.get(h, 0.0), round(ours[h] / error, 3))
    result = {
        "device": str(jax.devices()[0]),
        "versions": {"jax": jax.__version__},
        "steps": STEPS,
        "worst_ratio_of_errors": worst,
        "runs": runs,
    }
    path = HERE / "results" / "nonlinear.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
