# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recurrent switching on the NASCAR task, by noise of the sensors.

Eight cars of 300 steps, with recurrence and as a switching system whose rows are the
same everywhere: their states and paths at the parameters that made the data, or with
everything learnt from the sensors. Writes ``benchmarks/results/recurrent.json``, after
each run. Runs of the same model compile once.

    python benchmarks/bench_recurrent.py [known or learnt] [number of seeds] [noises]
"""

from __future__ import annotations

from functools import cache, partial
from itertools import product
import json
from pathlib import Path
import sys
import time

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

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tutorials"))
import track  # noqa: E402

SEQUENCES, TIMES = 8, 300
STEPS, AHEAD = 10, 500
OUT = HERE / "results" / "recurrent.json"


def known(y, loading, centre, noise, weights):
    """The program that made the data.

    :param weights: of the logits; None for a switching system without recurrence, which
        stays where it is.
    """
    spread = noise**2 * jnp.eye(y.shape[-1])
    sticky = jnp.log(0.98 * jnp.eye(track.NUM_STATES) + 0.005)
    dynamics = jnp.asarray(track.DYNAMICS)

    def see(name, x, y):
        fn = dist.MultivariateNormal(x @ loading.T + centre, spread)
        numpyro.sample(name, fn, obs=y)

    def step(carry, y):
        z, x = carry
        with numpyro.plate("sequences", SEQUENCES):
            u = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
            logits = sticky[z] if weights is None else u @ weights.T
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            mean = jnp.squeeze(dynamics[z] @ u[..., None], -1)
            x = numpyro.sample("x", dist.MultivariateNormal(mean, 1e-4 * jnp.eye(2)))
            see("y", x, y)
        return (z, x), None

    with numpyro.plate("sequences", SEQUENCES):
        even = jnp.ones(track.NUM_STATES) / track.NUM_STATES
        z = numpyro.sample("z0", dist.Categorical(even))
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(2), 4 * jnp.eye(2)))
        see("y0", x, y[:, 0])
    scan(step, (z, x), y[:, 1:].swapaxes(0, 1))


def at_known(laps: track.Laps, noise: float, recurrent: bool) -> dict:
    """States and paths at the parameters that made the data."""
    weights = jnp.asarray(track.WEIGHTS) if recurrent else None
    model = partial(known, weights=weights)
    guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(max_sweeps=300))
    svi = SVI(model, guide, optax.sgd(0.1), ns.SVAE_ELBO())
    data = jnp.asarray(laps.sensors), laps.loading, laps.centre, noise
    state = svi.init(random.PRNGKey(0), *data)
    params = svi.get_params(state)
    local = guide.posterior_local(params, *data)
    found = np.argmax(local["z"].probs, -1)
    error = np.asarray(local["x"].mean) - laps.position
    return {
        "accuracy": float(np.mean(found[:, 1:] == laps.states[:, 1:])),
        "error of x": float(np.sqrt(np.mean(error**2))),
        "bound": -float(svi.evaluate(state, *data)),
        "sweeps": int(guide.convergence(params, *data)["z"].sweeps),
    }


@cache
def fitted_by(recurrent: bool) -> tuple:
    """A model, its guide, and what fits it."""
    model = track.recurrent_lds if recurrent else track.switching_lds
    guide = ns.AutoSVAE(model, cubature=ns.Cubature("hermite", 4))
    optimizer = ns.svae_optimizer(optax.adam(0.2), 0.5)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    return model, guide, svi, jax.jit(svi.update)


def learnt(laps: track.Laps, seed: int, recurrent: bool) -> dict:
    """Everything learnt, and how far paths that run on freely leave the track."""
    y = track.scaled(laps)
    model, guide, svi, update = fitted_by(recurrent)
    state, losses = svi.init(random.key(seed), y), []
    for _ in range(STEPS):
        state, loss = update(state, y)
        losses.append(float(loss))
    params = svi.get_params(state)
    local = guide.posterior_local(params, y)
    found, mean = np.argmax(local["z"].probs, -1), np.asarray(local["x"].mean)
    given = model, guide, params, random.key(seed), y
    paths = ns.forecast(*given, horizon=AHEAD, num_samples=4)["x"]
    return {
        "accuracy": track.accuracy(laps.states[:, 1:], found[:, 1:]),
        "bound": -losses[-1],
        "bound at the start": -losses[0],
        "residual": float(guide.convergence(params, y)["z"].residual),
        "off the track": track.off_track(track.on_the_track(laps, mean, paths)),
    }


def main(which: str = "known", seeds: str = "3", noises: str = "0.1,0.3") -> None:
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    runs = {_key(row): row for row in found.get("runs", [])}
    about = {
        "device": str(jax.devices()[0]),
        "versions": {"jax": jax.__version__},
        "off the track by the program itself": off_by_itself(),
    }
    both = {"recurrent": True, "switching": False}
    for (name, recurrent), noise in product(
        both.items(), map(float, noises.split(","))
    ):
        for seed in range(int(seeds)):
            laps = track.drive(seed, SEQUENCES, TIMES, noise=noise)
            start = time.perf_counter()
            row = {"method": f"{which}, {name}", "noise": noise, "seed": seed}
            if which == "learnt":
                row |= learnt(laps, seed, recurrent)
            else:
                row |= at_known(laps, noise, recurrent)
            row["seconds"] = time.perf_counter() - start
            runs[_key(row)] = row
            print(row, flush=True)
            rows = [runs[key] for key in sorted(runs)]
            OUT.write_text(json.dumps({**about, "runs": rows}, indent=1) + "\n")


def _key(row: dict) -> tuple:
    return row["method"], row["noise"], row["seed"]


def off_by_itself() -> float:
    """How far cars of the program that made the data leave the track after the data."""
    laps = track.drive(0, 400, TIMES + AHEAD)
    return track.off_track(laps.position[:, TIMES:])


if __name__ == "__main__":
    main(*sys.argv[1:])
