# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How cost grows with sequences, steps, dimensions and components, and the exponents.

The value and gradient of ``bench_gaussian_chain`` with all but one size fixed, and an
iteration of a mixture of 10,000 points. Processor time, the shortest of several runs,
which other jobs on the machine disturb least. An exponent is fitted to the larger
half of the sizes, where fixed costs weigh less. Writes ``results/scaling.json``, its
table and ``results/scaling.png``.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import time

from bench_gaussian_chain import gradient, our_value, problem
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import timing

import numpyro_svae as ns

REPEATS = 7
POINTS, POINT_DIM = 10_000, 2
CHAINS = {
    "sequences": [(n, 50, 4) for n in (64, 128, 256, 512, 1024)],
    "steps": [(64, t, 4) for t in (50, 100, 200, 400, 800)],
    "dimensions": [(64, 50, d) for d in (2, 4, 6, 8, 12, 16)],
}
COMPONENTS = [8, 16, 32, 64, 128]


def processor_ms(function: Callable, *args: object) -> float:
    """The least processor time of a run of what has been compiled."""
    step, found = jax.jit(function).lower(*args).compile(), []
    for _ in range(REPEATS):
        start = time.process_time()
        jax.block_until_ready(step(*args))
        found.append(time.process_time() - start)
    return 1e3 * min(found)


def chain_ms(size: tuple[int, int, int]) -> float:
    return processor_ms(gradient(our_value), *problem(*size))


def mixture(components: int) -> Callable:
    """A Bayesian mixture of Gaussians."""
    eye = jnp.eye(POINT_DIM)

    def model(y: jax.Array) -> None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
        with numpyro.plate("components_plate", components):
            zeros = jnp.zeros(POINT_DIM)
            prior = ns.NormalInverseWishart(zeros, 0.1, POINT_DIM + 2.0, eye)
            loc, cov = ns.sample("components", prior)
        with numpyro.plate("points", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights, validate_args=False))
            numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=y)

    return model


def mixture_ms(components: int) -> float:
    rng = np.random.default_rng(0)
    centres = 6 * rng.normal(size=(components, POINT_DIM))
    labels = rng.integers(components, size=POINTS)
    y = jnp.asarray(centres[labels] + rng.normal(size=(POINTS, POINT_DIM)))
    model = mixture(components)
    optimizer = ns.svae_optimizer(optax.sgd(0.0), 1.0)
    svi = SVI(model, ns.AutoSVAE(model), optimizer, ns.SVAE_ELBO())
    return processor_ms(svi.update, svi.init(jax.random.key(0), y), y)


def exponent(sizes: list[int], ms: list[float]) -> float:
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(ms[half:]), 1)[0])


def measure() -> dict[str, dict]:
    found = {}
    for axis, (name, sizes) in enumerate(CHAINS.items()):
        ms = [chain_ms(size) for size in sizes]
        found[name] = {"sizes": [size[axis] for size in sizes], "ms": ms}
        print(name, found[name], flush=True)
    ms = [mixture_ms(k) for k in COMPONENTS]
    found["components"] = {"sizes": COMPONENTS, "ms": ms}
    for series in found.values():
        series["exponent"] = exponent(series["sizes"], series["ms"])
    return found


def save(found: dict[str, dict]) -> None:
    hardware = timing.hardware()
    path = timing.RESULTS / "scaling.json"
    path.write_text(json.dumps({"hardware": hardware, **found}, indent=1) + "\n")
    lines = ["| cost against | sizes | ms | exponent |", "| --- | --- | --- | --- |"]
    for name, series in found.items():
        sizes = ", ".join(map(str, series["sizes"]))
        ms = ", ".join(f"{x:.3g}" for x in series["ms"])
        lines.append(f"| {name} | {sizes} | {ms} | {series['exponent']:.2f} |")
    text = "\n".join([f"On {hardware}:", "", *lines]) + "\n"
    (timing.RESULTS / "scaling.md").write_text(text)
    print(text)


def figure(found: dict[str, dict]) -> None:
    fig, axes = plt.subplots(1, len(found), figsize=(10, 2.8), layout="constrained")
    for ax, (name, series) in zip(axes, found.items()):
        sizes, ms = np.asarray(series["sizes"]), series["ms"]
        power = 3 if name == "dimensions" else 1
        ax.loglog(sizes, ms[-1] * (sizes / sizes[-1]) ** power, "0.6", ls="--")
        ax.loglog(sizes, ms, "o-")
        ax.set_xticks(sizes, labels=sizes)
        ax.minorticks_off()
        ax.set(xlabel=name, title=f"exponent {series['exponent']:.2f}")
    axes[0].set_ylabel("processor time, ms")
    fig.savefig(timing.RESULTS / "scaling.png", dpi=120)


if __name__ == "__main__":
    results = measure()
    save(results)
    figure(results)
