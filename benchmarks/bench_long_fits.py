# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Long fits in float32 of models with factors that are not conjugate.

For each kind of model and seed: 2,000 steps of SVI, how many of them had a loss that is
not finite, and the first and the last losses. A step is timed beside that of the same
model with a recognition network, if vectors or paths are sent gradients. Writes
``benchmarks/results/long_fits.json`` and its table.

    python benchmarks/bench_long_fits.py [number of seeds]
"""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import sys
import time
from typing import Any

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

RESULTS = Path(__file__).parent / "results"
STEPS, N, T, D, P = 2000, 8, 25, 2, 6
COLUMNS = {"kind": "{}", "not_finite": "{}", "first": "{:.0f}", "last": "{:.0f}"}
COLUMNS |= {"step_ms": "{:.2f}", "network_ms": "{:.2f}", "ratio": "{:.1f}"}


def states(rng: np.random.Generator) -> np.ndarray:
    """Damped rotations, ``(N, T, D)``."""
    turn = 0.97 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    x = [2 * rng.standard_normal((N, D))]
    for _ in range(T - 1):
        x.append(x[-1] @ turn.T + 0.1 * rng.standard_normal((N, D)))
    return np.stack(x, 1)


def predictors(rng: np.random.Generator) -> np.ndarray:
    return states(rng) @ (0.6 * rng.standard_normal((D, P)))


def counts(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(np.exp(predictors(rng)))


def heads(rng: np.random.Generator) -> np.ndarray:
    return 1 * (rng.random((N, T, P)) < 1 / (1 + np.exp(-2 * predictors(rng))))


def outliers(rng: np.random.Generator) -> np.ndarray:
    return predictors(rng) + 0.3 * rng.standard_t(2, (N, T, P))


def loadings() -> tuple[Any, Any]:
    begin = 0.3 * random.normal(random.key(3), (D, P))
    return numpyro.param("loading", begin), numpyro.param("offset", jnp.zeros(P))


def dynamics() -> tuple:
    eye = jnp.eye(D)
    start = ns.NormalInverseWishart(jnp.zeros(D), 0.5, D + 2.0, eye)
    step = ns.MatrixNormalInverseWishart(0.9 * eye, eye, D + 2.0, 0.3 * eye)
    return *ns.sample("init", start), *ns.sample("dynamics", step)


def path(likelihood: Callable) -> Callable:
    """A linear system that is seen through a likelihood."""

    def model(y: Any) -> None:
        loading, offset = loadings()
        system = dynamics()
        with numpyro.plate("data", N):
            x = numpyro.sample("x", ns.LinearGaussianChain(*system, num_steps=T))
            fn = likelihood(x @ loading + offset).to_event(2)
            numpyro.sample("y", fn, obs=y)

    return model


def vectors(y: Any) -> None:
    """Choices that a vector explains, one for each datum."""
    loading, offset = loadings()
    with numpyro.plate("data", N * T):
        x = numpyro.sample("x", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
        fn = dist.Bernoulli(logits=x @ loading + offset).to_event(1)
        numpyro.sample("y", fn, obs=y.reshape(N * T, P))


def bent(y: Any) -> None:
    """Steps by a network, seen by sensors."""
    begin = 0.3 * random.normal(random.key(4), (2, D, 8))
    inner, outer = numpyro.param("network", begin)
    noise = numpyro.sample("Q", dist.InverseGamma(3.0, 0.1).expand([D]).to_event(1))
    loading, offset = loadings()

    def see(name: str, x: Any, y: Any) -> None:
        fn = dist.Normal(x @ loading + offset, 0.5).to_event(1)
        numpyro.sample(name, fn, obs=y)

    def step(x: Any, y: Any) -> tuple:
        with numpyro.plate("data", N):
            mean = 0.9 * x + jnp.tanh(x @ inner) @ outer.T
            x = numpyro.sample("x", dist.Normal(mean, jnp.sqrt(noise)).to_event(1))
            see("y", x, y)
        return x, None

    with numpyro.plate("data", N):
        x = numpyro.sample("x0", dist.Normal(jnp.zeros(D), 2.0).to_event(1))
        see("y0", x, y[:, 0])
    scan(step, x, jnp.swapaxes(y, 0, 1)[1:])


def recurrent(y: Any) -> None:
    """Two systems; which one moves the state depends on where it is."""
    loading, offset = loadings()
    boundary = numpyro.param("boundary", jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    angle = jnp.array([0.2, 0.6])
    turn = jnp.stack([jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle)])
    turns = 0.97 * turn.T.reshape(2, D, D)

    def see(name: str, x: Any, y: Any) -> None:
        fn = dist.Normal(x @ loading + offset, 0.5).to_event(1)
        numpyro.sample(name, fn, obs=y)

    def step(carry: tuple, y: Any) -> tuple:
        z, x = carry
        with numpyro.plate("data", N):
            z = numpyro.sample("z", dist.Categorical(logits=x @ boundary.T))
            mean = jnp.squeeze(turns[z] @ x[..., None], -1)
            cov = 0.02 * jnp.eye(D)
            x = numpyro.sample("x", dist.MultivariateNormal(mean, cov))
            see("y", x, y)
        return (z, x), None

    with numpyro.plate("data", N):
        z = numpyro.sample("z0", dist.Categorical(jnp.ones(2) / 2))
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(D), 4 * jnp.eye(D)))
        see("y0", x, y[:, 0])
    scan(step, (z, x), jnp.swapaxes(y, 0, 1)[1:])


def horseshoe(y: Any) -> None:
    """Counts by a regression whose weights have scales of their own."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((N * T, 5)), jnp.float32)
    half = dist.HalfCauchy(1.0)
    common = numpyro.sample("common", half)
    own = numpyro.sample("own", half.expand([5]).to_event(1))
    weights = numpyro.sample("weights", dist.Normal(0.0, common * own).to_event(1))
    with numpyro.plate("data", N * T):
        rate = jnp.exp(inputs @ weights)
        numpyro.sample("y", dist.Poisson(rate), obs=y[..., 0].ravel())


def scales(y: Any) -> None:
    """Numbers of groups whose deviations share a scale."""
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", P):
        loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(tau))
        with numpyro.plate("data", N * T):
            numpyro.sample("y", dist.Normal(loc, sigma), obs=y.reshape(N * T, P))


def network(y: Any) -> dict[str, ns.GaussianPotential]:
    """What a layer of tanh says of each position."""
    begin = 0.1 * random.normal(random.key(5), (P, 16))
    hidden = jnp.tanh(jnp.asarray(y, float) @ numpyro.param("in", begin))
    out = hidden @ numpyro.param("out", jnp.zeros((16, 2 * D)))
    precision = jax.nn.softplus(out[..., D:])
    return {"x": ns.GaussianPotential(precision * out[..., :D], precision)}


def network_of_vectors(y: Any) -> dict[str, ns.GaussianPotential]:
    return network(y.reshape(N * T, P))


KINDS = {
    "Poisson path": (path(lambda eta: dist.Poisson(jnp.exp(eta))), counts, network),
    "Student-t path": (path(lambda eta: dist.StudentT(3, eta, 0.3)), outliers, network),
    "Bernoulli vectors": (vectors, heads, network_of_vectors),
    "network steps": (bent, outliers, None),
    "Poisson horseshoe": (horseshoe, counts, None),
    "scales of scales": (scales, outliers, None),
    "recurrent switching": (recurrent, outliers, None),
}


def train(model: Callable, recognition: Callable | None, y: Any, seed: int) -> dict:
    """The losses of a fit, and the milliseconds of a step."""
    guide = ns.AutoSVAE(model, recognition, num_starts=1)
    optimizer = ns.svae_optimizer(optax.adam(1e-2), 0.3)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    state = svi.init(random.key(seed), y)

    @jax.jit
    def run(state: Any) -> tuple:
        return jax.lax.scan(lambda s, _: svi.update(s, y), state, length=STEPS // 10)

    losses, seconds = [], []
    for _ in range(10):
        start = time.perf_counter()
        state, some = run(state)
        losses.append(np.asarray(some))
        seconds.append(time.perf_counter() - start)
    found = np.concatenate(losses)
    return {
        "not_finite": int(np.sum(~np.isfinite(found))),
        "first": float(found[0]),
        "last": float(found[-50:].mean()),
        "step_ms": 1e3 * min(seconds[1:]) / (STEPS // 10),
    }


def row(kind: str, seed: int) -> dict:
    """A fit, and the time of a step beside that with a network."""
    model, data, recognition = KINDS[kind]
    y = jnp.asarray(data(np.random.default_rng(100 + seed)))
    found = {"kind": kind, "seed": seed, **train(model, None, y, seed)}
    if recognition is not None and seed == 0:
        beside = train(model, recognition, y, seed)["step_ms"]
        found |= {"network_ms": beside, "ratio": found["step_ms"] / beside}
    return found


def write(rows: list[dict]) -> None:
    """All rows, and a table with the steps of all seeds, and the losses of one."""
    found = {"device": str(jax.devices()[0]), "jax": jax.__version__, "rows": rows}
    RESULTS.joinpath("long_fits.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    for kind in dict.fromkeys(own["kind"] for own in rows):
        own = [found for found in rows if found["kind"] == kind]
        total = own[0] | {"not_finite": sum(found["not_finite"] for found in own)}
        cells = [f.format(total[c]) if c in total else "" for c, f in COLUMNS.items()]
        lines.append(" | ".join(cells))
    text = "\n".join(f"| {line} |" for line in lines)
    RESULTS.joinpath("long_fits.md").write_text(text + "\n")


def main(seeds: int) -> None:
    """Run all of it, and write after each run."""
    rows: list[dict] = []
    for kind in KINDS:
        for seed in range(seeds):
            rows.append(row(kind, seed))
            print(rows[-1], flush=True)
            write(rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
