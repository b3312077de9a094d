# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of forecasts from 1,000 origins of one series: time and memory of each.

A linear dynamical system of 16 dimensions is learnt from 1,200 steps of 20 sensors, and
ten steps are scored from each of the last thousand. The origin is an argument, the
length of what is seen, so that one program is compiled. Writes
``benchmarks/results/origins.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
import resource
import time

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

DIM, SENSORS, STEPS, HORIZON, ORIGINS, DRAWS = 16, 20, 1_200, 10, 1_000, 50


def simulate(rng: np.random.Generator) -> np.ndarray:
    """A rotating path, seen through noise: ``(1, STEPS + HORIZON, SENSORS)``."""
    matrix = 0.97 * np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    loading, x, path = rng.normal(size=(SENSORS, DIM)), np.zeros(DIM), []
    for _ in range(STEPS + HORIZON):
        x = matrix @ x + 0.3 * rng.normal(size=DIM)
        path.append(x)
    noise = 0.5 * rng.normal(size=(STEPS + HORIZON, SENSORS))
    return np.asarray(np.stack(path) @ loading.T + noise, np.float32)[None]


def system(y, lengths):
    eye, seen = jnp.eye(DIM), jnp.eye(SENSORS)
    prior = ns.MatrixNormalInverseWishart(0.9 * eye, eye, DIM + 2.0, 0.3 * eye)
    matrix, noise = ns.sample("dynamics", prior)
    zeros = jnp.zeros((SENSORS, DIM))
    prior = ns.MatrixNormalInverseWishart(zeros, eye, SENSORS + 2.0, 0.5 * seen)
    loading, spread = ns.sample("emission", prior)
    steps = y.shape[1]
    exists = jnp.arange(steps) < lengths[:, None]
    with numpyro.plate("sequences", len(y)):
        chain = ns.LinearGaussianChain(
            jnp.zeros(DIM), eye, matrix, noise, num_steps=steps, lengths=lengths
        )
        x = numpyro.sample("x", chain)
        fn = dist.MultivariateNormal(x @ loading.T, spread).mask(exists)
        numpyro.sample("y", fn.to_event(1), obs=y)


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    whole = simulate(np.random.default_rng(0))
    y, lengths = whole[:, :STEPS], jnp.array([STEPS])
    guide = ns.AutoSVAE(system, num_starts=1)
    optimizer = ns.svae_optimizer(optax.adam(1e-3))
    svi = SVI(system, guide, optimizer, ns.SVAE_ELBO())
    result = svi.run(random.key(0), 30, y, lengths, progress_bar=False)
    fit = system, guide, result.params
    scores, rows = [], []
    began = time.perf_counter()
    for count, origin in enumerate(range(STEPS - ORIGINS, STEPS), 1):
        future = {"y": whole[:, origin : origin + HORIZON]}
        args = y, jnp.array([origin])
        found = ns.log_score(
            *fit, random.key(1), *args, future=future, num_samples=DRAWS
        )
        scores.append(np.asarray(found["y"]))
        if count in (1, 10, 100, ORIGINS):
            seconds = time.perf_counter() - began
            rows.append({"origins": count, "seconds": seconds, "peak_MiB": peak()})
    record = {
        "jax": jax.__version__,
        "rows": rows,
        "score_by_step": np.mean(scores, (0, 1)).tolist(),
    }
    path = Path(__file__).parent / "results" / "origins.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
