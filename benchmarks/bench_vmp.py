# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""An iteration of variational message passing in a mixture, beside BayesPy.

10,000 points and 15 components, float64 both, from the same start: responsibilities,
the bound, and the posteriors of weights and components. The points have one dimension,
because the Gaussian-Wishart node of BayesPy 0.6.6 does not run. Iterations alternate,
and the bounds must agree. Writes ``benchmarks/results/vmp.json`` and its table.
"""

from __future__ import annotations

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
    from bayespy.nodes import Categorical, Dirichlet, Gaussian, GaussianGamma, Mixture

POINTS, COUNT, KAPPA, ALPHA = 10_000, 15, 0.5, 0.7


def model(y):
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


def ours(y: np.ndarray, labels: np.ndarray) -> tuple:
    """An iteration, which returns the bound, and what the compiled step costs."""
    data = jnp.asarray(y)
    guide = ns.AutoSVAE(model, init=start(y, labels))
    svi = SVI(model, guide, ns.svae_optimizer(optax.adam(1e-3), 1.0), ns.SVAE_ELBO())
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


def bayespy(y: np.ndarray, labels: np.ndarray) -> tuple:
    """The same; nothing is compiled."""
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

    return iterate, {"compile_s": None, "temporaries_KiB": None}


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(COUNT, size=POINTS)
    y = (2.0 * labels + 0.5 * rng.normal(size=POINTS))[:, None]
    guess = np.where(rng.random(POINTS) < 0.3, rng.integers(COUNT, size=POINTS), labels)
    runs = {way.__name__: way(y, guess) for way in (ours, bayespy)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    bounds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(timing.REPEATS):
        for name, (iterate, _) in runs.items():
            began = time.perf_counter()
            bounds[name].append(iterate())
            seconds[name].append(time.perf_counter() - began)
    fastest = min(seconds["ours"])
    rows = [
        {
            "work": f"mixture {(POINTS, COUNT)}",
            "way": name.replace("ours", "numpyro_svae"),
            "median_ms": 1e3 * float(np.median(seconds[name])),
            "min_ms": 1e3 * min(seconds[name]),
            "ratio": min(seconds[name]) / fastest,
            **costs,
            "difference": timing.difference(bounds[name], bounds["ours"]),
        }
        for name, (_, costs) in runs.items()
    ]
    timing.write("vmp", rows)


if __name__ == "__main__":
    with jax.enable_x64(True):
        warnings.simplefilter("ignore")
        main()
