# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forecasts of three systems whose vector fields are learnt, beside an LDS.

Van der Pol, FitzHugh-Nagumo and Lorenz, seen by twenty noisy sensors. Both models have
as many latent dimensions as the system, and the same emission with its conjugate prior.
The transition of the one is ``x + F phi(x)`` with random features phi and a conjugate
prior on F and the noise; that of the other is a matrix with its conjugate prior. All is
learnt by natural steps. They forecast from 60 steps of sequences that they were not
fitted to. Writes ``benchmarks/results/nonlinear.json``; arguments are seeds with commas
between them, and systems, all of them by default.
"""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import sys
import time
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
STEPS, RATE, FEATURES = 150, 0.5, 24
SEQUENCES, LENGTH, SEEN, HORIZONS = 16, 110, 60, (10, 25, 50)
SENSORS, SENSOR_NOISE, KICKS = 20, 0.3, 0.005


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
    clean = path @ rng.standard_normal((size, SENSORS))
    clean = clean / clean.std()
    return clean + SENSOR_NOISE * rng.standard_normal(clean.shape), clean


def components(y: Array, size: int) -> dict[str, dist.Distribution]:
    """A start of the emission: principal components, in units of the path."""
    flat = np.asarray(y).reshape(-1, SENSORS)
    mean = flat.mean(0)
    _, sizes, directions = np.linalg.svd(flat - mean, full_matrices=False)
    directions = directions[:size]
    loading = directions.T * sizes[:size] / len(flat) ** 0.5
    left = (flat - mean) - (flat - mean) @ directions.T @ directions
    cov, df = np.cov(left.T) + 1e-3 * np.eye(SENSORS), 200.0
    start = np.concatenate([loading, mean[:, None]], 1), df * np.eye(size + 1)
    loc, columns, scale = (jnp.asarray(x, jnp.float32) for x in (*start, df * cov))
    return {"emission": ns.MatrixNormalInverseWishart(loc, columns, df, scale)}


def observe(chain: dist.Distribution, y: Array, size: int) -> None:
    """Sensors that are linear in the path."""
    width = size + 1
    prior = ns.MatrixNormalInverseWishart(
        jnp.zeros((SENSORS, width)),
        0.1 * jnp.eye(width),
        SENSORS + 2.0,
        0.1 * jnp.eye(SENSORS),
    )
    weight, cov = ns.sample("emission", prior)
    with numpyro.plate("sequences", len(y)):
        x = numpyro.sample("x", chain)
        mean = x @ weight[:, :size].T + weight[:, size]
        numpyro.sample("y", dist.MultivariateNormal(mean, cov).to_event(1), obs=y)


def nonlinear(y: Array, size: int) -> None:
    """A path whose steps are a sum of features."""
    first, second = random.split(random.key(1))
    slopes = random.normal(first, (FEATURES, size))
    biases = random.uniform(second, (FEATURES,), minval=-2.0, maxval=2.0)
    width = FEATURES + size + 1
    prior = ns.MatrixNormalInverseWishart(
        jnp.zeros((size, width)), jnp.eye(width), size + 2.0, 0.02 * jnp.eye(size)
    )
    weight, noise = ns.sample("dynamics", prior)

    def move(x: Array, u: Array) -> Array:
        bent = jnp.tanh(slopes @ x + biases)
        return x + weight @ jnp.concatenate([bent, x, jnp.ones(1)])

    known = jnp.zeros(size), jnp.eye(size)
    chain = ns.NonlinearGaussianChain(*known, move, noise, num_steps=y.shape[1])
    observe(chain, y, size)


def linear(y: Array, size: int) -> None:
    """A linear dynamical system of the same size."""
    prior = ns.MatrixNormalInverseWishart(
        jnp.eye(size), jnp.eye(size), size + 2.0, 0.02 * jnp.eye(size)
    )
    turn, noise = ns.sample("dynamics", prior)
    known = jnp.zeros(size), jnp.eye(size)
    chain = ns.LinearGaussianChain(*known, turn, noise, num_steps=y.shape[1])
    observe(chain, y, size)


def fit_and_forecast(
    model: Callable, fitted: Array, seen: Array, size: int, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Draws of the sensors after what is seen, and seconds of the fit."""
    guide = ns.AutoSVAE(
        model,
        fixed_point=ns.FixedPoint(max_sweeps=5),
        cubature=ns.Cubature("hermite", num_points=3),
        init=components(fitted, size),
        num_starts=1,
    )
    optimizer = ns.svae_optimizer(optax.adam(1e-3), RATE)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    state = svi.init(random.key(seed), fitted, size)
    update, losses = jax.jit(lambda state: svi.update(state, fitted, size)), []
    clock = time.perf_counter()
    for step in range(STEPS):
        state, loss = update(state)
        losses.append(float(loss))
        if step == 0:
            compiled, clock = time.perf_counter() - clock, time.perf_counter()
    seconds = {
        "compile": round(compiled, 2),
        "a_step": round((time.perf_counter() - clock) / (STEPS - 1), 4),
    }
    course = " ".join(f"{loss:.0f}" for loss in losses[:: STEPS // 6])
    print(f"  {model.__name__}: {course} {losses[-1]:.0f}", seconds, flush=True)
    draws = ns.forecast(
        model,
        guide,
        svi.get_params(state),
        random.key(seed),
        seen,
        size,
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
    found: dict = {"system": name, "seed": seed}
    for model in (nonlinear, linear):
        args = model, fitted, seen[:, :SEEN], size, seed
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
