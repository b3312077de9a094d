# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forecasts of a nonlinear observation: an LDS SVAE, a VAR, and an LDS fitted by EM.

A noisy rotation in the plane is seen by eight units with bell-shaped responses. All
methods learn from the same 1000 steps and forecast 100 other sequences, 10 steps from
50. The order of the VAR is chosen by BIC, the dimension of the LDS by its log score on
20 more sequences. Writes ``benchmarks/results/forecast.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
import time
from typing import NamedTuple

import dynamax.linear_gaussian_ssm as dynamax
import jax
from jax import random
import jax.numpy as jnp
from models import lds_svae
import numpy as np
from numpyro.infer import SVI
import optax
from scipy.stats import multivariate_normal, norm
import scoringrules

import numpyro_svae as ns

UNITS, PAST, HORIZON, TEST, VALIDATION = 8, 50, 10, 100, 20
LEVELS = (0.5, 0.9)


class Forecasts(NamedTuple):
    """Gaussian forecasts ``(N, H, P)`` and their covariances ``(N, H, P, P)``."""

    mean: np.ndarray
    covariance: np.ndarray


def simulate(key, count: int, steps: int) -> np.ndarray:
    """Sequences of the eight units, each from a stationary start."""
    ours, noise_key = random.split(key)
    decay, turn = 0.98, 0.35
    c, s = decay * np.cos(turn), decay * np.sin(turn)
    matrix, noise = np.array([[c, -s], [s, c]]), np.sqrt(1 - decay**2)
    drive = random.normal(ours, (steps, count, 2))

    def step(x, e):
        x = x @ matrix.T + noise * e
        return x, x

    _, path = jax.lax.scan(step, drive[0], drive)
    angle = 2 * np.pi * np.arange(UNITS) / UNITS
    centres = 1.2 * np.stack([np.cos(angle), np.sin(angle)], -1)
    square = jnp.sum((path[:, :, None] - centres) ** 2, -1)
    response = 2 * jnp.exp(-0.5 * square / 0.8**2)
    seen = response + 0.1 * random.normal(noise_key, response.shape)
    return np.asarray(jnp.swapaxes(seen, 0, 1))


def gaussian_scores(forecasts: Forecasts, future: np.ndarray) -> dict:
    """Mean scores of Gaussian forecasts."""
    away, cov = future - forecasts.mean, forecasts.covariance
    pairs = zip(away.reshape(-1, UNITS), cov.reshape(-1, UNITS, UNITS))
    logs = [multivariate_normal.logpdf(a, cov=c) for a, c in pairs]
    scale = np.sqrt(np.diagonal(cov, axis1=-2, axis2=-1))
    inside = {q: np.abs(away) < norm.ppf(0.5 + q / 2) * scale for q in LEVELS}
    crps = scoringrules.crps_normal(future, forecasts.mean, scale)
    return summary(np.reshape(logs, future.shape[:2]), np.asarray(crps), inside)


def summary(logs: np.ndarray, crps: np.ndarray, inside: dict) -> dict:
    """Means over sequences; the log score by step as well."""
    return {
        "log_score": float(logs.mean()),
        "log_score_by_step": np.round(logs.mean(0), 3).tolist(),
        "crps": float(crps.mean()),
        "coverage": {str(q): float(np.mean(hit)) for q, hit in inside.items()},
    }


def var_forecasts(train: np.ndarray, past: np.ndarray) -> tuple[int, Forecasts]:
    """A vector autoregression by least squares, with its order by BIC."""

    def fit(order: int) -> tuple[float, np.ndarray, np.ndarray]:
        rows = [train[0, order - k - 1 : -k - 1] for k in range(order)]
        x = np.concatenate([np.ones((len(rows[0]), 1)), *rows], 1)
        y = train[0, order:]
        weight = np.linalg.lstsq(x, y)[0]
        residual = y - x @ weight
        cov = residual.T @ residual / len(y)
        penalty = weight.size * np.log(len(y)) / len(y)
        return np.linalg.slogdet(cov)[1] + penalty, weight, cov

    order = min(range(1, 11), key=lambda p: fit(p)[0])
    _, weight, cov = fit(order)
    size = UNITS * order
    matrix = np.zeros((size, size))
    matrix[:UNITS] = weight[1:].T
    matrix[UNITS:, :-UNITS] = np.eye(size - UNITS)
    state = past[:, : -order - 1 : -1].reshape(len(past), size)
    spread, means, covs = np.zeros((size, size)), [], []
    for _ in range(HORIZON):
        state = state @ matrix.T
        state[:, :UNITS] += weight[0]
        spread = matrix @ spread @ matrix.T
        spread[:UNITS, :UNITS] += cov
        means.append(state[:, :UNITS])
        covs.append(np.broadcast_to(spread[:UNITS, :UNITS], (len(past), UNITS, UNITS)))
    return order, Forecasts(np.stack(means, 1), np.stack(covs, 1))


def lds_fit(dim: int, train: np.ndarray):
    """An LDS fitted by EM; it starts new sequences from a wide prior."""
    model = dynamax.LinearGaussianSSM(dim, UNITS)
    weights = random.normal(random.key(dim), (UNITS, dim))
    centre = jnp.asarray(train[0].mean(0))
    params, props = model.initialize(
        random.PRNGKey(0), emission_weights=weights, emission_bias=centre
    )
    params, _ = model.fit_em(
        params, props, jnp.asarray(train[0]), num_iters=100, verbose=False
    )
    wide = params.initial._replace(mean=jnp.zeros(dim), cov=10 * jnp.eye(dim))
    return params._replace(initial=wide)


@jax.jit
def lds_forecasts(params, past: jax.Array) -> Forecasts:
    """Closed-form forecasts from the filtered last state."""
    dynamics, emissions = params.dynamics, params.emissions

    def one(y):
        found = dynamax.lgssm_filter(params, y)

        def step(state, _):
            mean, cov = state
            mean = dynamics.weights @ mean + dynamics.bias
            cov = dynamics.weights @ cov @ dynamics.weights.T + dynamics.cov
            loc = emissions.weights @ mean + emissions.bias
            spread = emissions.weights @ cov @ emissions.weights.T + emissions.cov
            return (mean, cov), (loc, spread)

        last = found.filtered_means[-1], found.filtered_covariances[-1]
        return jax.lax.scan(step, last, None, HORIZON)[1]

    return Forecasts(*jax.vmap(one)(past))


def lds_scores(train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> dict:
    """Scores of the LDS whose dimension did best on the validation sequences."""

    def scores(params, data: np.ndarray) -> dict:
        found = lds_forecasts(params, jnp.asarray(data[:, :PAST]))
        return gaussian_scores(Forecasts(*map(np.asarray, found)), data[:, PAST:])

    fits = {dim: lds_fit(dim, train) for dim in (2, 4, 8)}
    tried = {d: scores(params, validation)["log_score"] for d, params in fits.items()}
    best = max(tried, key=lambda dim: tried[dim])
    return {"dim": best, "validation": tried, **scores(fits[best], test)}


def svae_scores(train: np.ndarray, test: np.ndarray, steps: int = 2000) -> dict:
    """Scores of the LDS SVAE, with two dimensions, from draws of its forecasts."""
    model, recognition = lds_svae(2, (32, 32), UNITS)
    guide = ns.AutoSVAE(model, recognition)
    rate = optax.cosine_decay_schedule(1e-2, steps)
    optimizer = ns.svae_optimizer(optax.adam(rate))
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    pieces = jnp.asarray(train.reshape(-1, PAST, UNITS))
    result = svi.run(random.key(0), steps, pieces, progress_bar=False)
    past, future = jnp.asarray(test[:, :PAST]), jnp.asarray(test[:, PAST:])
    data = model, guide, result.params, random.key(1), past
    paths = ns.forecast(*data, horizon=HORIZON, num_samples=1000)["y"]
    logs = ns.log_score(*data, future={"y": future}, num_samples=1000)["y"]
    inside = {q: np.asarray(ns.coverage(paths, future, q)) for q in LEVELS}
    return summary(np.asarray(logs), np.asarray(ns.crps(paths, future)), inside)


def timed(name: str, run) -> dict:
    """The scores of a method, printed, with the seconds that it took."""
    start = time.time()
    found = run()
    found["seconds"] = round(time.time() - start, 1)
    short = {k: v for k, v in found.items() if k != "log_score_by_step"}
    print(f"{name}: {json.dumps(short)}", flush=True)
    return found


def main() -> None:
    keys = random.split(random.key(0), 3)
    train = simulate(keys[0], 1, 1000)
    validation = simulate(keys[1], VALIDATION, PAST + HORIZON)
    test = simulate(keys[2], TEST, PAST + HORIZON)

    def var() -> dict:
        order, forecasts = var_forecasts(train, test[:, :PAST])
        return {"order": order, **gaussian_scores(forecasts, test[:, PAST:])}

    found = {
        "device": str(jax.devices()[0]),
        "var": timed("VAR", var),
        "dynamax_em": timed("LDS by EM", lambda: lds_scores(train, validation, test)),
        "lds_svae": timed("LDS SVAE", lambda: svae_scores(train, test)),
    }
    path = Path(__file__).parent / "results" / "forecast.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
