# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recurrent switching on the NASCAR task, by noise of the sensors.

Eight cars of 300 steps: their states and paths at the parameters that made the data,
with recurrence, and as a switching system with rows that are the same everywhere.
Writes ``benchmarks/results/recurrent.json``, after each run.

    python benchmarks/bench_recurrent.py [number of seeds]
"""

from __future__ import annotations

from functools import partial
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
NOISES = (0.1, 0.3)
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


def main(seeds: str = "3") -> None:
    runs = []
    for noise in NOISES:
        for seed in range(int(seeds)):
            laps = track.drive(seed, SEQUENCES, TIMES, noise=noise)
            for name, recurrent in {"recurrent": True, "switching": False}.items():
                start = time.perf_counter()
                row = {"method": f"known, {name}", "noise": noise, "seed": seed}
                row |= at_known(laps, noise, recurrent)
                row["seconds"] = time.perf_counter() - start
                runs.append(row)
                print(row, flush=True)
                versions = {"jax": jax.__version__}
                found = {"device": str(jax.devices()[0]), "versions": versions}
                OUT.write_text(json.dumps({**found, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
