# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""States of the NASCAR task, beside two hidden Markov models of dynamax.

20 trajectories of 500 steps seen by ten sensors, five seeds. The switching system is
fitted with default settings; the hidden Markov models see the first two principal
components, start with k-means and have the best of five EM fits. Writes
``benchmarks/results/nascar.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
import sys
import time

from dynamax.hidden_markov_model import GaussianHMM, LinearAutoregressiveHMM
import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tutorials"))
import track  # noqa: E402

SEEDS, STEPS, STARTS, EM_STEPS = 5, 40, 5, 50


def scaled(y: np.ndarray) -> jax.Array:
    """Centred observations, all sensors in one unit."""
    y = y - y.mean((0, 1))
    return jnp.asarray(y / y.std())


def switching(laps: track.Laps, seed: int) -> np.ndarray:
    """States of a switching linear dynamical system."""
    y = scaled(laps.sensors)
    guide = ns.AutoSVAE(track.switching_lds)
    optimizer = ns.svae_optimizer(optax.adam(1e-3), 0.5)
    svi = SVI(track.switching_lds, guide, optimizer, ns.SVAE_ELBO())
    result = svi.run(random.key(seed), STEPS, y, progress_bar=False)
    losses = np.asarray(result.losses)
    print(f"  loss {losses[0]:.0f} to {losses[-1]:.0f}", flush=True)
    states = guide.posterior_local(result.params, y)["z"]
    return np.argmax(np.asarray(states.probs), -1)


def components(laps: track.Laps) -> jax.Array:
    """The first two principal components, with unit variance."""
    y = np.asarray(scaled(laps.sensors))
    *_, directions = np.linalg.svd(y.reshape(-1, y.shape[-1]), full_matrices=False)
    shown = y @ directions[:2].T
    return jnp.asarray(shown / shown.std((0, 1)))


def gaussian_hmm(laps: track.Laps, seed: int) -> np.ndarray:
    """States of a hidden Markov model with Gaussian emissions."""
    hmm = GaussianHMM(track.NUM_STATES, 2, transition_matrix_stickiness=50.0)
    return _best(hmm, components(laps), seed, lambda x: None)


def autoregressive_hmm(laps: track.Laps, seed: int) -> np.ndarray:
    """States of an autoregressive hidden Markov model with one lag."""
    hmm = LinearAutoregressiveHMM(
        track.NUM_STATES, 2, transition_matrix_stickiness=50.0
    )
    return _best(hmm, components(laps), seed, jax.vmap(hmm.compute_inputs))


def _best(hmm, x: jax.Array, seed: int, inputs_of) -> np.ndarray:
    """The most likely states under the best of several fits."""
    inputs, best, fit = inputs_of(x), -np.inf, None
    for key in random.split(random.PRNGKey(seed), STARTS):
        flat = jnp.reshape(x, (-1, x.shape[-1]))
        start = hmm.initialize(key, method="kmeans", emissions=flat)
        params, values = hmm.fit_em(
            *start, x, inputs=inputs, num_iters=EM_STEPS, verbose=False
        )
        if values[-1] > best:
            best, fit = float(values[-1]), params
    if inputs is None:
        return np.asarray(jax.vmap(lambda e: hmm.most_likely_states(fit, e))(x))
    return np.asarray(
        jax.vmap(lambda e, u: hmm.most_likely_states(fit, e, inputs=u))(x, inputs)
    )


METHODS = {
    "switching LDS": switching,
    "Gaussian HMM": gaussian_hmm,
    "autoregressive HMM": autoregressive_hmm,
}


def main() -> None:
    rows = []
    for seed in range(SEEDS):
        laps = track.drive(seed)
        for method, fit in METHODS.items():
            start = time.perf_counter()
            states = fit(laps, seed)
            rows.append(
                {
                    "seed": seed,
                    "method": method,
                    "accuracy": track.accuracy(laps.states, states),
                    "mutual_information": track.mutual_information(laps.states, states),
                    "seconds": time.perf_counter() - start,
                }
            )
            print(rows[-1], flush=True)
    summary = {
        method: {
            key: float(np.median([r[key] for r in rows if r["method"] == method]))
            for key in ("accuracy", "mutual_information", "seconds")
        }
        for method in METHODS
    }
    found = {
        "device": str(jax.devices()[0]),
        "versions": {"jax": jax.__version__},
        "steps": STEPS,
        "medians": summary,
        "runs": rows,
    }
    out = HERE / "results" / "nascar.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
