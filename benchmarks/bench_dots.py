# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Learning speed on bouncing dots: ELBO per pixel against SVI steps.

Writes ``benchmarks/results/dots.json``: the ELBO in nats per pixel every 100 steps, and
the eigenvalues of the learnt dynamics.
"""

from __future__ import annotations

import json
from pathlib import Path
import sys
import time

import jax
import jax.numpy as jnp
from models import bouncing_dots, lds_svae
import numpy as np
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

DIM, STEPS, BATCH = 4, 2000, 32


def main(seeds: int) -> None:
    data = bouncing_dots(jax.random.key(0))
    runs = [run(seed, data) for seed in range(seeds)]
    path = Path(__file__).parent / "results" / "dots.json"
    found = {"device": str(jax.devices()[0]), "runs": runs}
    path.write_text(json.dumps(found, indent=1) + "\n")


def run(seed: int, data: jax.Array) -> dict:
    model, recognition = lds_svae(DIM, (32, 32), data.shape[-1])
    guide = ns.AutoSVAE(model, recognition)
    rate = optax.cosine_decay_schedule(1e-2, STEPS)
    optimizer = ns.svae_optimizer(optax.adam(rate))
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    start = time.time()
    result = svi.run(jax.random.key(seed), STEPS, data, BATCH, progress_bar=False)
    elbo = -np.asarray(result.losses) / data.size
    final = float(-svi.evaluate(result.state, data) / data.size)
    weight = guide.get_posterior(result.params)["dynamics"].mean[:, :DIM]
    eigenvalues = np.linalg.eigvals(np.asarray(weight))
    print(
        f"seed {seed}: ELBO {final:.3f} nats per pixel after {STEPS} steps, "
        f"{time.time() - start:.0f} s; eigenvalues {np.round(eigenvalues, 3)}, "
        f"moduli {np.round(np.abs(eigenvalues), 3)}"
    )
    return {
        "seed": seed,
        "elbo_per_pixel": final,
        "trace": [round(float(x), 4) for x in elbo.reshape(-1, 100).mean(1)],
        "moduli": np.abs(eigenvalues).tolist(),
        "angles": np.angle(eigenvalues).tolist(),
        "nan": bool(jnp.isnan(jnp.asarray(elbo)).any()),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
