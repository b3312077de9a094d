# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Seconds per SVI step of an LDS SVAE beside a plain VAE with the same two networks.

64 sequences of 100 steps, 8 latent and 50 observed dimensions, two hidden layers of 128
each way, float32. The two are timed in turn in one run. Writes
``benchmarks/results/step.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
import time

from flax import nnx
import jax
import jax.numpy as jnp
from models import GaussianNet, lds_svae
import numpy as np
import numpyro
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO
import optax

import numpyro_svae as ns

SEQUENCES, STEPS, DIM, PIXELS, HIDDEN = 64, 100, 8, 50, (128, 128)
REPEATS = 30


def plain_vae():
    """Model and guide of a mean-field VAE on single frames, with the same networks."""

    def model(data):
        net = GaussianNet((DIM, *HIDDEN, PIXELS), rngs=nnx.Rngs(0))
        decoder = nnx_module("decoder", net)
        with numpyro.plate("sequences", data.shape[0]):
            standard = dist.Normal(jnp.zeros((STEPS, DIM)), 1.0).to_event(2)
            x = numpyro.sample("x", standard)
            numpyro.sample("y", dist.Normal(*decoder(x)).to_event(2), obs=data)

    def guide(data):
        net = GaussianNet((PIXELS, *HIDDEN, DIM), rngs=nnx.Rngs(1))
        encoder = nnx_module("encoder", net)
        with numpyro.plate("sequences", data.shape[0]):
            numpyro.sample("x", dist.Normal(*encoder(data)).to_event(2))

    return model, guide


def prepare(svi: SVI, data: jax.Array) -> tuple:
    """A compiled step, its state, and the seconds that compiling took."""
    state = svi.init(jax.random.key(0), data)
    lowered = jax.jit(svi.update).lower(state, data)
    start = time.perf_counter()
    step = lowered.compile()
    return step, state, time.perf_counter() - start


def main() -> None:
    data = jax.random.normal(jax.random.key(1), (SEQUENCES, STEPS, PIXELS))
    svae_model, recognition = lds_svae(DIM, HIDDEN, PIXELS)
    svae = SVI(
        svae_model,
        ns.AutoSVAE(svae_model, recognition),
        ns.svae_optimizer(optax.adam(1e-3)),
        ns.SVAE_ELBO(),
    )
    vae = SVI(*plain_vae(), optax.adam(1e-3), TraceMeanField_ELBO())
    runs = {"svae": prepare(svae, data), "vae": prepare(vae, data)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, (step, state, compiling) in runs.items():
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, data))
            runs[name] = (step, state, compiling)
            if repeat:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    report(seconds, {name: run[2] for name, run in runs.items()})


def report(seconds: dict[str, list[float]], compiling: dict[str, float]) -> None:
    ratios = np.array(seconds["svae"]) / np.array(seconds["vae"])
    result = {
        "device": str(jax.devices()[0]),
        "shape": [SEQUENCES, STEPS, DIM, PIXELS],
        "median_ms": {n: 1e3 * float(np.median(s)) for n, s in seconds.items()},
        "min_ms": {n: 1e3 * float(np.min(s)) for n, s in seconds.items()},
        "compile_s": compiling,
        "ratio_of_minima": min(seconds["svae"]) / min(seconds["vae"]),
        "median_ratio": float(np.median(ratios)),
    }
    path = Path(__file__).parent / "results" / "step.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
