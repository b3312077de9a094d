# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forecasts of two oscillators whose vector fields are learnt, beside an LDS.

Van der Pol and FitzHugh-Nagumo, seen by twenty sensors with noise; both models have two
latent dimensions, and the same emission with its conjugate prior. The transition of the
one is ``x + network(x)``, with conjugate noise; that of the other is a matrix with its
conjugate prior. They forecast from 60 steps of sequences that they were not fitted to.
Writes ``benchmarks/results/nonlinear.json``.
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
SEEDS, STEPS, HIDDEN = 3, 600, 32
SEQUENCES, LENGTH, SEEN, HORIZONS = 24, 110, 60, (10, 25, 50)
SENSORS, SENSOR_NOISE, KICKS = 20, 0.3, 0.01


def van_der_pol(x: np.ndarray) -> np.ndarray:
    """Velocities, with a limit cycle that is no ellipse."""
    return np.stack([x[..., 1], 1.5 * (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1)


def fitzhugh_nagumo(x: np.ndarray) -> np.ndarray:
    """Velocities of a neuron that fires, three times as fast as is usual."""
    v, w = x[..., 0], x[..., 1]
    return 3 * np.stack([v - v**3 / 3 - w + 0.5, 0.08 * (v + 0.7 - 0.8 * w) * 4], -1)


def simulate(field: Callable, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Sensors of paths, and what they would be without noise."""
    x, paths = rng.uniform(-2.5, 2.5, (2 * SEQUENCES, 2)), []
    for _ in range(LENGTH):
        paths.append(x)
        for _ in range(5):
            half = x + 0.01 * field(x)
            x = x + 0.02 * field(half)
        x = x + KICKS * rng.standard_normal(x.shape)
    path = np.stack(paths, 1)
    loading = rng.standard_normal((SENSORS, 2))
    clean = path @ loading.T
    clean = (clean - clean.mean((0, 1))) / clean.std()
    return clean + SENSOR_NOISE * rng.standard_normal(clean.shape), clean


def emission_prior() -> dist.Distribution:
    """Of loadings and offsets of the sensors, and of their noise."""
    return ns.MatrixNormalInverseWishart(
        jnp.zeros((SENSORS, 3)), 0.1 * jnp.eye(3), SENSORS + 2.0, 0.1 * jnp.eye(SENSORS)
    )


def observe(x: Array, y: Array, weight: Array, cov: Array) -> None:
    """Sensors that are linear in the path."""
    mean = x @ weight[:, :2].T + weight[:, 2]
    numpyro.sample("y", dist.MultivariateNormal(mean, cov).to_event(1), obs=y)


def start_of_network(key: Array) -> dict[str, Array]:
    """Of a network that is zero at first."""
    first, bias = random.split(key)
    return {
        "in": random.normal(first, (HIDDEN, 2)),
        "bias": random.uniform(bias, (HIDDEN,), minval=-2.0, maxval=2.0),
        "out": jnp.zeros((2, HIDDEN)),
    }


def move(net: dict[str, Array], x: Array) -> Array:
    """The transition of one state."""
    return x + net["out"] @ jnp.tanh(net["in"] @ x + net["bias"])


def nonlinear(y: Array) -> None:
    """A path whose steps are a network."""
    net = numpyro.param("net", start_of_network)
    weight, cov = ns.sample("emission", emission_prior())
    variances = dist.InverseGamma(2.0, 0.01).expand([2]).to_event(1)
    noise = jnp.diag(numpyro.sample("noise", variances))
    chain = ns.NonlinearGaussianChain(
        jnp.zeros(2), jnp.eye(2), lambda x, u: move(net, x), noise, num_steps=y.shape[1]
    )
    with numpyro.plate("sequences", len(y)):
        observe(numpyro.sample("x", chain), y, weight, cov)


def linear(y: Array) -> None:
    """A linear dynamical system of the same size."""
    weight, cov = ns.sample("emission", emission_prior())
    prior = ns.MatrixNormalInverseWishart(
        jnp.eye(2), 0.1 * jnp.eye(2), 4.0, 0.02 * jnp.eye(2)
    )
    turn, noise = ns.sample("dynamics", prior)
    chain = ns.LinearGaussianChain(
        jnp.zeros(2), jnp.eye(2), turn, noise, num_steps=y.shape[1]
    )
    with numpyro.plate("sequences", len(y)):
        observe(numpyro.sample("x", chain), y, weight, cov)


def components(y: Array) -> dict[str, dist.Distribution]:
    """A start of the emission: principal components, in units of the path."""
    flat = np.asarray(y).reshape(-1, SENSORS)
    mean = flat.mean(0)
    _, sizes, directions = np.linalg.svd(flat - mean, full_matrices=False)
    loading = directions[:2].T * sizes[:2] / len(flat) ** 0.5
    weight = np.concatenate([loading, mean[:, None]], 1)
    left = (flat - mean) - (flat - mean) @ directions[:2].T @ directions[:2]
    cov = np.cov(left.T) + 1e-3 * np.eye(SENSORS)
    df = 200.0
    start = ns.MatrixNormalInverseWishart(
        jnp.asarray(weight, jnp.float32),
        df * jnp.eye(3),
        df,
        jnp.asarray(df * cov, jnp.float32),
    )
    return {"emission": start}


def fit_and_forecast(
    model: Callable, fitted: Array, seen: Array, seed: int
) -> tuple[np.ndarray, float]:
    """Draws of the sensors after what is seen, and seconds of a step of the fit."""
    options = {"fixed_point": ns.FixedPoint(max_sweeps=4)}
    guide = ns.AutoSVAE(model, init=components(fitted), **options)
    rate = optax.cosine_decay_schedule(1e-2, STEPS, 0.02)
    optimizer = ns.svae_optimizer(optax.adam(rate), 0.2)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    begun = time.perf_counter()
    result = svi.run(random.key(seed), STEPS, fitted, progress_bar=False)
    seconds = (time.perf_counter() - begun) / STEPS
    losses = np.asarray(result.losses)
    print(f"  {model.__name__}: {losses[0]:.0f} to {losses[-1]:.0f}", flush=True)
    draws = ns.forecast(
        model,
        guide,
        result.params,
        random.key(seed),
        seen,
        horizon=max(HORIZONS),
        num_samples=200,
    )
    return np.asarray(draws["y"]), seconds


def run(name: str, field: Callable, seed: int) -> dict:
    """Errors and coverage of both models on one data set."""
    y, clean = simulate(field, np.random.default_rng(seed))
    fitted, seen = (jnp.asarray(x, jnp.float32) for x in (y[:SEQUENCES], y[SEQUENCES:]))
    truth, future = (x[SEQUENCES:, SEEN:] for x in (clean, y))
    found: dict = {"system": name, "seed": seed}
    for model in (nonlinear, linear):
        draws, seconds = fit_and_forecast(model, fitted, seen[:, :SEEN], seed)
        errors = draws.mean(0) - truth
        rmse = [float(np.sqrt(np.mean(errors[:, h - 1] ** 2))) for h in HORIZONS]
        cover = {}
        for level in (0.5, 0.9):
            ends = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
            inside = (future >= ends[0]) & (future <= ends[1])
            cover[str(level)] = float(inside.mean())
        found[model.__name__] = {
            "rmse": dict(zip(map(str, HORIZONS), rmse)),
            "coverage": cover,
            "seconds_a_step": seconds,
        }
        print(f"  {name} {seed} {model.__name__} {rmse} {cover}", flush=True)
    return found


def main() -> None:
    warnings.simplefilter("ignore", RuntimeWarning)  # of sweeps that are few on purpose
    systems = {"van der pol": van_der_pol, "fitzhugh-nagumo": fitzhugh_nagumo}
    chosen = sys.argv[1:] or list(systems)
    runs = [run(n, systems[n], seed) for n in chosen for seed in range(SEEDS)]
    worst = {}
    for name in chosen:
        own = [r for r in runs if r["system"] == name]
        worst[name] = {
            str(h): max(
                r["nonlinear"]["rmse"][str(h)] / r["linear"]["rmse"][str(h)]
                for r in own
            )
            for h in HORIZONS
        }
    result = {
        "device": str(jax.devices()[0]),
        "versions": {"jax": jax.__version__},
        "steps": STEPS,
        "worst_ratio_of_errors": worst,
        "runs": runs,
    }
    path = HERE / "results" / "nonlinear.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(worst))


if __name__ == "__main__":
    main()
