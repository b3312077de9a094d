# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Learning from data that stay on disk: 100,000 sequences, 10,000,000 time steps.

A linear dynamical system of 2 dimensions, seen in 4 with noise, is written to a file
that NumPy maps, and every step of stochastic natural gradients (Hoffman et al., 2013)
reads 500 of its sequences, in the order of a random permutation for each epoch. Memory
is that of the process without the pages of the file that happen to be mapped. The
accuracy is that of what the rotation of the state cannot change: the eigenvalues of
the transition, and the covariance of observations at a distance of 0 to 3 steps.
Writes ``results/stream.json`` and ``results/stream.png``.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import tempfile
import time

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

SEQUENCES, STEPS, DIM, OUTPUTS = 100_000, 100, 2, 4
BATCH, EPOCHS, SEED, EVERY = 500, 10, 0, 50
TURN = 0.97 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
NOISE, SEEN_NOISE = 0.1, 0.2


def emission() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(OUTPUTS, DIM))


def write_data(path: Path) -> np.ndarray:
    """Simulate the data in pieces, straight into a file; its map for reading."""
    shape = (SEQUENCES, STEPS, OUTPUTS)
    data = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    rng, loading = np.random.default_rng(SEED + 1), emission()
    for start in range(0, SEQUENCES, 10_000):
        count = min(10_000, SEQUENCES - start)
        x = rng.normal(size=(count, DIM))
        for step in range(STEPS):
            noise = rng.normal(size=(count, OUTPUTS))
            data[start : start + count, step] = x @ loading.T + SEEN_NOISE * noise
            x = x @ TURN.T + np.sqrt(NOISE) * rng.normal(size=x.shape)
    data.flush()
    del data
    return np.load(path, mmap_mode="r")


def minibatches(data: np.ndarray) -> Iterator[np.ndarray]:
    """Copies of sequences from the file, each once in every epoch."""
    rng = np.random.default_rng(SEED + 2)
    for _ in range(EPOCHS):
        order = rng.permutation(len(data))
        for start in range(0, len(data), BATCH):
            yield data[np.sort(order[start : start + BATCH])]


def model(batch: jax.Array) -> None:
    """The batch is the argument; the plate knows how many sequences there are."""
    eye = jnp.eye(DIM)
    initial = ns.NormalInverseWishart(jnp.zeros(DIM), 1.0, DIM + 2.0, eye)
    start = ns.sample("initial", initial)
    prior = ns.MatrixNormalInverseWishart(0.9 * eye, eye, DIM + 2.0, eye)
    step = ns.sample("dynamics", prior)
    columns = jnp.zeros((OUTPUTS, DIM)), jnp.eye(DIM)
    prior = ns.MatrixNormalInverseWishart(*columns, OUTPUTS + 2.0, jnp.eye(OUTPUTS))
    loading, noise = ns.sample("emission", prior)
    with numpyro.plate("sequences", SEQUENCES, subsample_size=len(batch)):
        x = numpyro.sample("x", ns.LinearGaussianChain(*start, *step, num_steps=STEPS))
        seen = dist.MultivariateNormal(x @ loading.T, noise).to_event(1)
        numpyro.sample("y", seen, obs=batch)


def implied(turn, noise, loading, seen) -> np.ndarray:
    """Stationary covariance of observations at a distance of 0 to 3 steps."""
    size = len(turn)
    rows = np.linalg.solve(np.eye(size**2) - np.kron(turn, turn), noise.ravel())
    state = rows.reshape(size, size)
    lags = [np.linalg.matrix_power(turn, k) @ state for k in range(4)]
    found = np.stack([loading @ lag @ loading.T for lag in lags])
    found[0] += seen
    return found


def truth() -> np.ndarray:
    noise, seen = NOISE * np.eye(DIM), SEEN_NOISE**2 * np.eye(OUTPUTS)
    return implied(TURN, noise, emission(), seen)


def errors(posteriors: dict) -> dict[str, float]:
    """Relative error of covariances, and the largest of the eigenvalues."""
    (turn, noise), (loading, seen) = (
        map(np.asarray, q.unpack(q.mean))
        for q in (posteriors["dynamics"], posteriors["emission"])
    )
    true, found = truth(), implied(turn, noise, loading, seen)
    values = np.sort_complex(np.linalg.eigvals(turn))
    exact = np.sort_complex(np.linalg.eigvals(TURN))
    return {
        "covariances": float(np.linalg.norm(found - true) / np.linalg.norm(true)),
        "eigenvalues": float(np.max(np.abs(values - exact))),
    }


def resident() -> float:
    """MiB of memory of this process that are not mapped from files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("RssAnon")) / 1024


def step_size(step: jax.Array) -> jax.Array:
    return (1.0 + step / 50.0) ** -0.85


def learn(data: np.ndarray) -> list[dict]:
    """Natural-gradient steps, and what is seen of them on the way."""
    guide = ns.AutoSVAE(model)
    optimizer = ns.svae_optimizer(optax.sgd(0.0), step_size)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    state = svi.init(jax.random.key(SEED), jnp.asarray(data[:BATCH]))
    update, start, seen = jax.jit(svi.update, donate_argnums=0), time.perf_counter(), []
    for index, batch in enumerate(minibatches(data)):
        state, loss = update(state, batch)
        if index % EVERY == 0:
            found = {"step": index, "seconds": time.perf_counter() - start}
            found |= {"loss": float(loss), "resident_MiB": resident()}
            seen.append(found | errors(guide.get_posterior(svi.get_params(state))))
    seconds = time.perf_counter() - start
    print(f"{seconds / (index + 1):.4f} seconds a step, {update._cache_size()} program")
    return seen


def figure(seen: list[dict], path: Path) -> None:
    step = [x["step"] for x in seen]
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for name in ("covariances", "eigenvalues"):
        left.loglog(np.add(step, 1), [x[name] for x in seen], label=name)
    left.set(xlabel="steps", ylabel="error")
    left.legend()
    right.plot(step, [x["resident_MiB"] for x in seen])
    right.set(xlabel="steps", ylabel="memory, MiB", ylim=(0, None))
    fig.savefig(path, dpi=120)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        data = write_data(Path(directory) / "sequences.npy")
        seen = learn(data)
        size = data.nbytes / 2**20
    sizes = {"shape": [SEQUENCES, STEPS, OUTPUTS], "file_MiB": size, "batch": BATCH}
    found = {"hardware": timing.hardware(), **sizes, "seen": seen}
    path = timing.RESULTS / "stream.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    figure(seen, timing.RESULTS / "stream.png")
    print(json.dumps({**sizes, "first": seen[0], "last": seen[-1]}, indent=1))


if __name__ == "__main__":
    main()
