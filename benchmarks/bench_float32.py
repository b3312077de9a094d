# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is left of float32: fits to pictures of a pendulum, and a table of smoothing.

``smoothing`` has guide-level smoothing at natural parameters of dynamics that are far
from normal, nearly singular or badly scaled: the largest error of smoothed means, in
units of their deviations, against float64 on the same numbers. ``fits`` counts steps
with a loss or parameters that are not finite, of fits to 24 x 24 pictures of a free
pendulum. Writes ``results/float32.json`` and its tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

RESULTS = Path(__file__).parent / "results"
SIZE, STEPS, SEQUENCES, DIM = 24, 100, 100, 5


# smoothing


def smoothing_model(y: Array) -> None:
    dim, num_steps = y.shape[-1], y.shape[-2]
    start = ns.NormalInverseWishart(jnp.zeros(dim), 1.0, dim + 2.0, jnp.eye(dim))
    weight, columns = jnp.eye(dim, dim + 1), jnp.eye(dim + 1)
    scale = 0.01 * jnp.eye(dim)
    steps = ns.MatrixNormalInverseWishart(weight, columns, dim + 2.0, scale)
    start, step = ns.sample("init", start), ns.sample("dynamics", steps)
    with numpyro.plate("sequences", len(y)):
        ones = jnp.ones((num_steps - 1, 1))
        chain = ns.LinearGaussianChain(*start, *step, inputs=ones, num_steps=num_steps)
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.StudentT(4.0, x, 1.0).to_event(2), obs=y)


def dynamics(kind: str, size: float, dim: int = 4) -> np.ndarray:
    """Stable dynamics; ``size`` is a condition number, of one kind or another."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    decays = np.diag(np.linspace(0.95, 0.3, dim))
    if kind == "not normal":
        decays[0, -1] = decays[1, -2] = np.sqrt(size)
        return turn @ decays @ turn.T
    if kind == "nearly singular":
        values = np.diag(0.99 * size ** -np.linspace(0, 1, dim))
        return turn @ values @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    scales = np.diag(size ** np.linspace(-0.25, 0.25, dim))  # badly scaled
    return scales @ turn @ decays @ turn.T @ np.diag(1 / np.diag(scales))


def naturals(kind: str, size: float) -> tuple[dict, tuple[np.ndarray, np.ndarray]]:
    """Natural parameters as from sequences that were seen, and potentials."""
    rng, matrix = np.random.default_rng(1), dynamics(kind, size)
    dim, count = len(matrix), 3
    scales = size ** np.linspace(-0.25, 0.25, dim) if kind == "badly scaled" else 1.0
    noise = 0.03 * scales * np.ones(dim)
    x = np.zeros((count, STEPS, dim))
    x[:, 0] = scales * rng.standard_normal((count, dim))
    for t in range(1, STEPS):
        x[:, t] = x[:, t - 1] @ matrix.T + noise * rng.standard_normal((count, dim))
    past = np.concatenate([x[:, :-1], np.ones((count, STEPS - 1, 1))], -1)
    past, later = past.reshape(-1, dim + 1), x[:, 1:].reshape(-1, dim)
    loc, small = np.eye(dim, dim + 1), 1e-2 * np.diag(scales**2 * np.ones(dim))
    step = (
        later.T @ later + small + 1e-3 * loc @ loc.T,
        later.T @ past + 1e-3 * loc,
        past.T @ past + 1e-3 * np.eye(dim + 1),
        np.float64(len(past) + dim + 2),
    )
    first = x[:, 0]
    init = (
        first.T @ first + small,
        first.sum(0)[:, None],
        np.array([[1.0 + count]]),
        np.float64(count + dim + 2),
    )
    deviation = noise * 10 ** rng.uniform(-1, 2, x.shape)
    J = 1 / deviation**2
    h = J * (x + deviation * rng.standard_normal(x.shape))
    single = (np.float32(leaf) for leaf in (*init, *step, h, J))
    leaves = list(single)
    return {"init": leaves[:4], "dynamics": leaves[4:8]}, (leaves[8], leaves[9])


def smoothed(blocks: dict, potential: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances in the precision that is on."""
    h, J = (jnp.asarray(x, float) for x in potential)

    def recognise(y: Array) -> dict:
        return {"x": ns.GaussianPotential(h, J)}

    guide = ns.AutoSVAE(smoothing_model, recognise)
    svi = SVI(smoothing_model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    y = jnp.zeros(h.shape)
    params = svi.get_params(svi.init(random.key(0), y))
    for name, leaves in blocks.items():
        key = f"{name}_auto_natural"
        tree = jax.tree.structure(params[key])
        leaves = [jnp.asarray(leaf, float) for leaf in leaves]
        params[key] = jax.tree.unflatten(tree, leaves)
    x = guide.posterior_local(params, y)["x"]
    return np.asarray(x.mean, np.float64), np.asarray(x.variance, np.float64)


def smoothing(kind: str, size: float) -> dict:
    """A row of the table; an error of the guide is a row too."""
    given = naturals(kind, size)
    row = {"kind": kind, "condition": size, "largest_error": None, "said": ""}
    try:
        with jax.enable_x64(False):
            found, spread = smoothed(*given)
    except ValueError as error:
        return row | {"said": str(error).split(". ")[0]}
    with jax.enable_x64(True):
        mean, variance = smoothed(*given)
    errors = np.abs(found - mean) / np.sqrt(variance)
    ratio = np.abs(np.sqrt(spread / variance) - 1)
    return row | {
        "largest_error": float(errors.max()),
        "deviations_off": float(ratio.max()),
    }


# pictures of a pendulum


def pendulum(key: Array) -> Array:
    """Pictures ``(SEQUENCES, STEPS, SIZE * SIZE)`` of a free pendulum."""
    angle, speed = 2.0 * random.normal(key, (2, SEQUENCES))

    def move(state: tuple, _: None) -> tuple:
        angle, speed = state
        speed = speed - 0.1 * 9.8 * jnp.sin(angle) * 0.5
        angle = angle + 0.1 * speed
        return (angle, speed), angle

    _, angles = jax.lax.scan(move, (angle, speed), None, STEPS)
    bob = 0.7 * jnp.stack([jnp.sin(angles.T), -jnp.cos(angles.T)], -1)
    grid = jnp.linspace(-1, 1, SIZE)
    places = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2)
    distance = jnp.sum((bob[..., None, :] - places) ** 2, -1)
    return jnp.exp(-distance / 0.02)


def network(name: str, sizes: tuple[int, ...]) -> Callable:
    """A network with tanh between its layers."""

    def init(key: Array) -> list:
        keys = random.split(key, len(sizes))
        shapes = zip(keys, sizes[:-1], sizes[1:])
        return [(random.normal(k, (i, o)) / i**0.5, jnp.zeros(o)) for k, i, o in shapes]

    def apply(x: Array) -> Array:
        *inner, last = numpyro.param(name, init)
        for weight, bias in inner:
            x = jnp.tanh(x @ weight + bias)
        return x @ last[0] + last[1]

    return apply


def pictures_model(y: Array, batch: int | None = None) -> None:
    start = ns.NormalInverseWishart(jnp.zeros(DIM), 1.0, DIM + 2.0, jnp.eye(DIM))
    weight, scale = jnp.eye(DIM, DIM + 1), 0.01 * jnp.eye(DIM)
    steps = ns.MatrixNormalInverseWishart(weight, jnp.eye(DIM + 1), DIM + 2.0, scale)
    start, step = ns.sample("init", start), ns.sample("dynamics", steps)
    noise = numpyro.param("noise", 0.3, constraint=dist.constraints.positive)
    with numpyro.plate("sequences", len(y), subsample_size=batch) as index:
        ones = jnp.ones((STEPS - 1, 1))
        chain = ns.LinearGaussianChain(*start, *step, inputs=ones, num_steps=STEPS)
        x = numpyro.sample("x", chain)
        loc = network("decoder", (DIM, 64, SIZE * SIZE))(x)
        numpyro.sample("y", dist.Normal(loc, noise).to_event(2), obs=y[index])


def pictures_recognition(y: Array, batch: int | None = None) -> dict:
    with numpyro.plate("sequences", len(y), subsample_size=batch) as index:
        out = network("encoder", (SIZE * SIZE, 64, 2 * DIM))(y[index])
    loc, scale = out[..., :DIM], jax.nn.softplus(out[..., DIM:]) + 1e-3
    return {"x": ns.GaussianPotential.from_loc_scale(loc, scale)}


def fit(seed: int, rate: float, count: int) -> dict:
    """Losses of a fit, and how many steps were not finite."""
    y = pendulum(random.key(0))
    guide = ns.AutoSVAE(pictures_model, pictures_recognition)
    optimizer = ns.svae_optimizer(optax.adam(rate), 0.1)
    svi = SVI(pictures_model, guide, optimizer, ns.SVAE_ELBO())
    state = svi.init(random.key(seed), y, batch=8)

    @jax.jit
    def run(state: tuple) -> tuple:
        return jax.lax.scan(lambda s, _: svi.update(s, y, batch=8), state, length=100)

    losses = []
    for _ in range(count // 100):
        state, some = run(state)
        losses.append(np.asarray(some))
    losses = np.concatenate(losses)
    bad = ~np.isfinite(losses)
    return {
        "seed": seed,
        "rate": rate,
        "steps": len(losses),
        "not_finite": int(bad.sum()),
        "first": int(bad.argmax()) if bad.any() else None,
        "last_loss": float(losses[-100:].mean()),
    }


def table(rows: list[dict], columns: dict[str, str]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    for row in rows:
        cells = [
            form.format(row[name]) if row.get(name) is not None else ""
            for name, form in columns.items()
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def write(found: dict[str, list[dict]]) -> None:
    RESULTS.joinpath("float32.json").write_text(json.dumps(found, indent=1) + "\n")
    smooth = {"kind": "{}", "condition": "{:.0e}", "largest_error": "{:.1e}"}
    smooth |= {"deviations_off": "{:.1e}", "said": "{}"}
    fits = {"seed": "{}", "rate": "{}", "steps": "{}", "not_finite": "{}"}
    fits |= {"first": "{}", "last_loss": "{:.0f}"}
    tables = table(found["smoothing"], smooth), table(found["fits"], fits)
    RESULTS.joinpath("float32.md").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    kinds = "not normal", "nearly singular", "badly scaled"
    found: dict[str, list[dict]] = {"smoothing": [], "fits": []}
    for kind in kinds:
        for size in (1e2, 1e4, 1e6):
            found["smoothing"].append(smoothing(kind, size))
            write(found)
    for seed in range(options.seeds):
        for rate in (3e-3, 1e-2):
            found["fits"].append(fit(seed, rate, options.steps))
            write(found)
