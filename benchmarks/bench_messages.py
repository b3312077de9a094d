# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Spike counts of a linear system whose log rates are linear in its state.

Twenty sequences of 100 steps, 30 neurons, three states. At the parameters that made the
data: how far the bound is from where sweeps end, and states and times beside those of
dynamax's conditional-moments smoother and of Laplace's method (Newton's, on the path,
with banded matrices). With everything learnt: the bound of a guide without a network,
beside a recognition network and free potentials that are trained ten times as long.
Writes ``benchmarks/results/messages.json``, after each run.

    python benchmarks/bench_messages.py [number of seeds]
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
import json
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple

from dynamax.generalized_gaussian_ssm import (
    EKFIntegrals,
    ParamsGGSSM,
    conditional_moments_gaussian_smoother,
)
import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
from scipy.linalg import solveh_banded
import tensorflow_probability.substrates.jax.distributions as tfd

import numpyro_svae as ns

N, T, D, P = 20, 100, 3, 30
STEPS = 300
REPEATS = 5
OUT = Path(__file__).parent / "results" / "messages.json"


class System(NamedTuple):
    """The system and its data."""

    matrix: np.ndarray
    loading: np.ndarray
    offset: np.ndarray
    states: np.ndarray
    counts: np.ndarray


NOISE = 0.1  # variance of each step


def system(seed: int) -> System:
    """A damped rotation that neurons see."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((D, D)))[0]
    turn = np.eye(D)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    matrix = 0.97 * basis @ turn @ basis.T
    loading = 0.4 * rng.standard_normal((P, D))
    states = np.zeros((N, T, D))
    states[:, 0] = rng.standard_normal((N, D))
    for t in range(1, T):
        noise = np.sqrt(NOISE) * rng.standard_normal((N, D))
        states[:, t] = states[:, t - 1] @ matrix.T + noise
    offset = np.zeros(P)
    return System(
        matrix, loading, offset, states, 1.0 * rng.poisson(np.exp(states @ loading.T))
    )


# at known parameters


def known(counts: Any, truth: System) -> None:
    """The program that made the data."""
    first, step = (jnp.zeros(D), jnp.eye(D)), (truth.matrix, NOISE * jnp.eye(D))
    with numpyro.plate("sequences", len(counts)):
        x = numpyro.sample("x", ns.LinearGaussianChain(*first, *step, num_steps=T))
        rate = jnp.exp(x @ truth.loading.T + truth.offset)
        numpyro.sample("y", dist.Poisson(rate).to_event(2), obs=counts)


def gap(truth: System, sweeps: int) -> tuple[float, int]:
    """The bound of a sequence after some sweeps, and how many there were."""
    guide = ns.AutoSVAE(known, fixed_point=ns.FixedPoint(max_sweeps=sweeps))
    svi = SVI(known, guide, optax.sgd(0.1), ns.SVAE_ELBO())
    data = jnp.asarray(truth.counts), truth
    state = svi.init(random.key(0), *data)
    bound = -float(svi.evaluate(state, *data)) / N
    return bound, int(guide.convergence({}, *data)["x"].sweeps)


def smoothed(truth: System) -> Any:
    """A compiled smoother of this package."""
    guide = ns.AutoSVAE(known)
    guide.posterior_local({}, jnp.asarray(truth.counts), truth)
    return jax.jit(lambda y: guide.posterior_local({}, y, truth)["x"].mean)


def moments(truth: System) -> Any:
    """A compiled smoother of dynamax, which takes counts to be independent."""
    loading, offset = jnp.asarray(truth.loading), jnp.asarray(truth.offset)

    def rate(x: Any) -> Any:
        return jnp.exp(loading @ x + offset)

    params = ParamsGGSSM(
        initial_mean=jnp.zeros(D),
        initial_covariance=jnp.eye(D),
        dynamics_function=lambda x: jnp.asarray(truth.matrix) @ x,
        dynamics_covariance=NOISE * jnp.eye(D),
        emission_mean_function=rate,
        emission_cov_function=lambda x: jnp.diag(rate(x)),
        emission_dist=lambda mean, cov: tfd.Poisson(mean),
    )
    smooth = partial(conditional_moments_gaussian_smoother, params, EKFIntegrals())
    return jax.jit(jax.vmap(lambda y: smooth(y).smoothed_means))


def laplace(truth: System, counts: Any) -> np.ndarray:
    """The modes of the paths, by Newton's method with steps that are halved."""
    return np.stack([_mode(truth, np.asarray(y)) for y in counts])


def _mode(truth: System, y: np.ndarray) -> np.ndarray:
    A, C, x = truth.matrix, truth.loading, np.zeros((T, D))
    diagonal = np.tile((np.eye(D) + A.T @ A) / NOISE, (T, 1, 1))
    diagonal[0] += np.eye(D) - np.eye(D) / NOISE
    diagonal[-1] -= A.T @ A / NOISE

    def prior(x: np.ndarray) -> np.ndarray:
        """Its precision times a path."""
        found = np.einsum("tij,tj->ti", diagonal, x)
        found[1:] -= x[:-1] @ A.T / NOISE
        found[:-1] -= x[1:] @ A / NOISE
        return found

    def value(x: np.ndarray) -> float:
        eta = x @ C.T + truth.offset
        return float(np.sum(y * eta - np.exp(eta)) - 0.5 * np.sum(x * prior(x)))

    for _ in range(50):
        rate = np.exp(x @ C.T + truth.offset)
        gradient = (y - rate) @ C - prior(x)
        blocks = diagonal + np.einsum("pi,tp,pj->tij", C, rate, C)
        move = solveh_banded(_bands(blocks, -A / NOISE), gradient.ravel(), lower=True)
        move, size = move.reshape(T, D), 1.0
        while value(x + size * move) < value(x) and size > 1e-6:
            size /= 2
        x = x + size * move
        if np.sum(gradient * move) < 1e-6:
            break
    return x


def _bands(blocks: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The lower bands of a block-tridiagonal matrix."""
    bands = np.zeros((2 * D, T * D))
    for i in range(D):
        for j in range(i + 1):
            bands[i - j, j::D] = blocks[:, i, j]
        for j in range(D):
            bands[D + i - j, j : (T - 1) * D : D] = below[i, j]
    return bands


def determination(states: np.ndarray, found: Any) -> list[float]:
    """R2 of each state."""
    error = np.sum((states - np.asarray(found)) ** 2, (0, 1))
    found = 1 - error / np.sum((states - states.mean((0, 1))) ** 2, (0, 1))
    return [round(float(r), 3) for r in found]


def beside_smoothers(truth: System, seed: int) -> list[dict]:
    """States and seconds of each smoother, in turn."""
    y = jnp.asarray(truth.counts)
    ways = {
        "numpyro_svae": partial(smoothed(truth), y),
        "dynamax, moments (EKF)": partial(moments(truth), y),
        "Laplace, NumPy": partial(laplace, truth, truth.counts),
    }
    found = {name: jax.block_until_ready(way()) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(way())
            seconds[name].append(time.perf_counter() - start)
    own = min(seconds["numpyro_svae"])
    return [
        {
            "method": name,
            "seed": seed,
            "R2": [
                round(float(r), 3) for r in determination(truth.states, found[name])
            ],
            "seconds": min(seconds[name]),
            "ratio": min(seconds[name]) / own,
        }
        for name in ways
    ]


# with everything learnt


def learnt(counts: Any) -> None:
    """Dynamics with their conjugate priors, and neurons of unknown loadings."""
    prior = ns.NormalInverseWishart(jnp.zeros(D), 0.5, D + 2.0, jnp.eye(D))
    eye = jnp.eye(D)
    step = ns.MatrixNormalInverseWishart(0.9 * eye, eye, D + 2.0, 0.3 * eye)
    init, dynamics = ns.sample("init", prior), ns.sample("dynamics", step)
    begin = 0.3 * random.normal(random.key(7), (P, D))
    loading = numpyro.param("loading", begin)
    offset = numpyro.param("offset", jnp.log(counts.mean((0, 1)) + 0.1))
    with numpyro.plate("sequences", len(counts)):
        chain = ns.LinearGaussianChain(*init, *dynamics, num_steps=T)
        x = numpyro.sample("x", chain)
        rate = jnp.exp(x @ loading.T + offset)
        numpyro.sample("y", dist.Poisson(rate).to_event(2), obs=counts)


def network(counts: Any) -> dict[str, ns.GaussianPotential]:
    """A recognition network of one hidden layer, position by position."""
    sizes = (P, 64, 2 * D)
    hidden = jnp.log1p(counts)
    for i, (m, n) in enumerate(pairwise(sizes)):
        weight = random.normal(random.key(i), (m, n)) / jnp.sqrt(m)
        hidden = hidden @ numpyro.param(f"weight_{i}", weight)
        hidden = hidden + numpyro.param(f"bias_{i}", jnp.zeros(n))
        hidden = jnp.tanh(hidden) if i == 0 else hidden
    loc, raw = jnp.split(hidden, 2, -1)
    precision = jax.nn.softplus(raw)
    return {"x": ns.GaussianPotential(precision * loc, precision)}


def free(counts: Any) -> dict[str, ns.GaussianPotential]:
    """A potential for each position, which is a parameter."""
    info = numpyro.param("info", jnp.zeros((*counts.shape[:2], D)))
    raw = numpyro.param("raw", jnp.zeros((*counts.shape[:2], D)))
    return {"x": ns.GaussianPotential(info, jax.nn.softplus(raw))}


def whole_fit(truth: System, recognition: Any, steps: int, seed: int) -> dict:
    """The bound after training; the mean of the last losses, as some are sampled."""
    guide = ns.AutoSVAE(learnt, recognition)
    optimizer = ns.svae_optimizer(optax.adam(1e-2), 0.3)
    svi = SVI(learnt, guide, optimizer, ns.SVAE_ELBO())
    y, start = jnp.asarray(truth.counts), time.perf_counter()
    result = svi.run(random.key(seed), steps, y, progress_bar=False)
    losses = np.asarray(result.losses)
    seconds = time.perf_counter() - start
    x = np.asarray(guide.posterior_local(result.params, y)["x"].mean)
    design = np.concatenate([x, np.ones((N, T, 1))], -1).reshape(N * T, -1)
    weights = np.linalg.lstsq(design, truth.states.reshape(N * T, D))[0]
    found = (design @ weights).reshape(N, T, D)
    return {
        "steps": steps,
        "bound": -float(losses[-50:].mean()) / N,
        "R2": determination(truth.states, found),
        "seconds": seconds,
    }


def main(seeds: int) -> None:
    """Run all of it, and write after each run."""
    runs: list[dict] = []

    def add(**run: Any) -> None:
        runs.append(run)
        print(run, flush=True)
        versions = {"jax": jax.__version__}
        found = {"device": str(jax.devices()[0]), "versions": versions, "runs": runs}
        OUT.write_text(json.dumps(found, indent=1) + "\n")

    for seed in range(seeds):
        truth = system(seed)
        best, most = gap(truth, 300)
        for sweeps in (10, 25):
            bound, _ = gap(truth, sweeps)
            add(method=f"{sweeps} sweeps", seed=seed, gap=best - bound, most=most)
        for row in beside_smoothers(truth, seed):
            add(**row)
        recognitions = {"no network": None, "network": network, "free": free}
        for name, recognition in recognitions.items():
            steps = STEPS if recognition is None else 10 * STEPS
            add(method=name, seed=seed, **whole_fit(truth, recognition, steps, seed))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
