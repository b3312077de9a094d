# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""An iteration of variational message passing, beside BayesPy, in float64.

A mixture of 10,000 points and 15 components, from the same start: responsibilities,
the bound, and the posteriors of weights and components. The points have one dimension,
because the Gaussian-Wishart node of BayesPy 0.6.6 does not run. All bounds are
compared.

A linear dynamical system of 1,000 steps and 8 dimensions, whose transition matrix has
precisions of its columns to be learnt: smoothing, the bound, and the posteriors of
both. BayesPy updates one after the other and we all at once, so what both converge to
is compared. Iterations alternate. Writes ``benchmarks/results/vmp.json`` and its table.
"""

from __future__ import annotations

from collections.abc import Callable
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import timing

import numpyro_svae as ns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bayespy.inference import VB
    from bayespy.nodes import (
        Categorical,
        Dirichlet,
        Gamma,
        Gaussian,
        GaussianARD,
        GaussianGamma,
        GaussianMarkovChain,
        Mixture,
        SumMultiply,
    )

STEPS, DIM, NOISE = 1000, 8, 0.5
SWEEPS = 100
POINTS, COUNT, KAPPA, ALPHA = 10_000, 15, 0.5, 0.7


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(COUNT, ALPHA)))
    with numpyro.plate("components_plate", COUNT):
        prior = ns.NormalInverseWishart(jnp.zeros(1), KAPPA, 3.0, jnp.eye(1))
        loc, cov = ns.sample("components", prior)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=y)


def start(y: np.ndarray, labels: np.ndarray) -> dict:
    """The posterior given hard labels."""
    hot = np.eye(COUNT)[labels]
    counts, sums, squares = hot.sum(0), hot.T @ y[:, 0], hot.T @ y[:, 0] ** 2
    kappa = KAPPA + counts
    components = ns.NormalInverseWishart(
        jnp.asarray(sums / kappa)[:, None],
        jnp.asarray(kappa),
        3.0 + counts,
        jnp.asarray(1.0 + squares - sums**2 / kappa)[:, None, None],
    )
    return {"components": components, "weights": dist.Dirichlet(ALPHA + counts)}


def dynamics(y):
    columns = dist.Gamma(2.0, 1.0).expand([DIM]).to_event(1)
    alpha = numpyro.sample("alpha", columns)
    prior = dist.Normal(jnp.zeros((DIM, DIM)), alpha**-0.5).to_event(2)
    matrix = numpyro.sample("matrix", prior)
    eye = jnp.eye(DIM)
    chain = ns.LinearGaussianChain(jnp.zeros(DIM), eye, matrix, eye, num_steps=STEPS)
    x = numpyro.sample("x", chain)
    numpyro.sample("y", dist.Normal(x, NOISE).to_event(2), obs=y)


def ours(model: Callable, y: np.ndarray, rate: float, init: dict | None) -> tuple:
    """An iteration, which returns the bound, and what the compiled step costs."""
    data = jnp.asarray(y)
    guide = ns.AutoSVAE(model, init=init)
    optimizer = ns.svae_optimizer(optax.adam(1e-3), rate)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    state = svi.init(jax.random.key(0), data)
    lowered = jax.jit(svi.update).lower(state, data)
    began = time.perf_counter()
    step = lowered.compile()
    seconds = time.perf_counter() - began

    def iterate() -> float:
        nonlocal state
        state, loss = step(state, data)
        return -float(loss)

    size = step.memory_analysis().temp_size_in_bytes
    return iterate, {"compile_s": seconds, "temporaries_KiB": size / 1024}


def bayespy_mixture(y: np.ndarray, labels: np.ndarray) -> Callable:
    alpha = Dirichlet(ALPHA * np.ones(COUNT))
    z = Categorical(alpha, plates=(len(y),))
    prior = np.zeros(1), KAPPA * np.eye(1), 1.5, 0.5
    theta = GaussianGamma(*prior, plates=(COUNT,))
    node = Mixture(z, Gaussian, theta, np.eye(1))
    node.observe(y)
    inference = VB(node, theta, z, alpha)
    z.initialize_from_value(labels)
    theta.update()
    alpha.update()

    def iterate() -> float:
        inference.update(z, verbose=False)
        theta.update()
        alpha.update()
        return float(inference.L[inference.iter - 1])

    return iterate


def bayespy_dynamics(y: np.ndarray) -> Callable:
    alpha = Gamma(2.0, 1.0, plates=(DIM,))
    matrix = GaussianARD(0, alpha, shape=(DIM,), plates=(DIM,))
    x = GaussianMarkovChain(np.zeros(DIM), np.eye(DIM), matrix, np.ones(DIM), n=STEPS)
    node = GaussianARD(SumMultiply("i,i", np.eye(DIM)[:, None], x), NOISE**-2)
    node.observe(y.T)
    matrix.initialize_from_value(0.5 * np.eye(DIM))
    inference = VB(node, x, matrix, alpha)

    def iterate() -> float:
        inference.update(verbose=False)
        return float(inference.L[inference.iter - 1])

    return iterate


def compare(work: str, here: tuple, there: Callable, count: int, last: int) -> list:
    """Rows of both; of the bounds, the last ones are compared."""
    runs = {"numpyro_svae": here[0], "bayespy": there}
    costs = {"numpyro_svae": here[1], "bayespy": dict.fromkeys(here[1])}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    bounds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, iterate in runs.items():
            began = time.perf_counter()
            bounds[name].append(iterate())
            seconds[name].append(time.perf_counter() - began)
    fastest = min(seconds["numpyro_svae"])
    return [
        {
            "work": work,
            "way": name,
            "median_ms": 1e3 * float(np.median(seconds[name])),
            "min_ms": 1e3 * min(seconds[name]),
            "ratio": min(seconds[name]) / fastest,
            **costs[name],
            "difference": timing.difference(
                bounds[name][-last:], bounds["numpyro_svae"][-last:]
            ),
        }
        for name in runs
    ]


def points(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of a mixture, with labels of which some are wrong."""
    labels = rng.integers(COUNT, size=POINTS)
    y = (2.0 * labels + 0.5 * rng.normal(size=POINTS))[:, None]
    guess = np.where(rng.random(POINTS) < 0.3, rng.integers(COUNT, size=POINTS), labels)
    return y, guess


def series(rng: np.random.Generator) -> np.ndarray:
    """A path of stable dynamics, seen through noise."""
    matrix = 0.95 * np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    path = [rng.normal(size=DIM)]
    for _ in range(STEPS - 1):
        path.append(matrix @ path[-1] + rng.normal(size=DIM))
    return np.stack(path) + NOISE * rng.normal(size=(STEPS, DIM))


def main() -> None:
    rng = np.random.default_rng(0)
    y, labels = points(rng)
    here = ours(mixture, y, 1.0, start(y, labels))
    there = bayespy_mixture(y, labels)
    repeats = timing.REPEATS
    rows = compare(f"mixture {(POINTS, COUNT)}", here, there, repeats, repeats)
    y = series(rng)
    work = f"dynamics {(STEPS, DIM)}"
    here, there = ours(dynamics, y, 0.5, None), bayespy_dynamics(y)
    rows += compare(work, here, there, SWEEPS, 1)
    timing.write("vmp", rows)


if __name__ == "__main__":
    with jax.enable_x64(True):
        warnings.simplefilter("ignore")
        main()
