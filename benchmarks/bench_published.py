# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A step of SVI at the sizes of published structured variational autoencoders.

A mixture on the pinwheel and (switching) linear dynamical systems on bouncing dots, all
global parameters learnt, float32. Time of the processor, which other jobs disturb
least; the steps of all models are taken in turn, and train. ``trace`` is what JAX takes
to turn the program into one that XLA compiles. Writes ``results/published.json`` and
its table.

``published`` has the processor seconds that other codes took for a step, on another
machine: Johnson et al. (NIPS 2016; for the dynamics, inference only), Lin et al. (ICLR
2018), Zhao and Linderman (ICML 2023), Bendekgey et al. (NeurIPS 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import time
from typing import NamedTuple

import jax
from models import bouncing_dots, lds_svae, mixture_svae, pinwheel, switching_svae
import numpy as np
from numpyro.infer import SVI
import optax
import timing

import numpyro_svae as ns

WARM, REPEATS = 3, 30
COMPONENTS, STATES, DIM = 15, 4, 4
COLUMNS = {
    "work": "{}",
    "median_ms": "{:.1f}",
    "min_ms": "{:.1f}",
    "wall_ms": "{:.1f}",
    "trace_s": "{:.1f}",
    "compile_s": "{:.1f}",
    "temporaries_KiB": "{:.0f}",
    "published_ms": "{}",
    "published_compile_s": "{}",
}


class Work(NamedTuple):
    """What is to be trained, on minibatches of ``batch``, and what others took."""

    svi: SVI
    data: jax.Array
    batch: int | None
    published_ms: str | None
    published_compile_s: str


def works() -> dict[str, Work]:
    """The work of each row."""
    points = pinwheel(jax.random.key(0))
    dots = bouncing_dots(jax.random.key(0), num_sequences=32)
    sizes = DIM, (32, 32, 32), dots.shape[-1]
    mixture = mixture_svae(COMPONENTS, 2, (40, 40), 2)
    product = trainer(*mixture, mean_field=True)
    switching = trainer(*switching_svae(STATES, *sizes))
    return {
        "mixture": Work(trainer(*mixture), points, 50, "26, 24, 10.6", "15"),
        "mixture, mean field": Work(product, points, 50, "26, 24, 10.6", "15"),
        "dynamics": Work(
            trainer(*lds_svae(*sizes)), dots, None, "147, 168, 102", "87, 278"
        ),
        "switching dynamics": Work(switching, dots, None, None, "about 1,000"),
    }


def trainer(model: Callable, recognition: Callable, **options: bool) -> SVI:
    guide = ns.AutoSVAE(model, recognition, **options)
    optimizer = ns.svae_optimizer(optax.adam(1e-3))
    return SVI(model, guide, optimizer, ns.SVAE_ELBO())


def prepare(work: Work) -> tuple:
    """A compiled step, the state it starts from, and what compiling it took."""
    svi, data, batch = work[:3]
    update = jax.jit(partial(svi.update, batch_size=batch))
    state = svi.init(jax.random.key(0), data, batch_size=batch)
    began = time.process_time()
    lowered = update.lower(state, data)
    traced = time.process_time()
    step = lowered.compile()
    costs = {
        "trace_s": traced - began,
        "compile_s": time.process_time() - traced,
        "temporaries_KiB": step.memory_analysis().temp_size_in_bytes / 1024,
    }
    return step, state, costs


def measure(todo: dict[str, Work]) -> list[dict]:
    """A row for each work."""
    steps, states, costs = {}, {}, {}
    for name, work in todo.items():
        steps[name], states[name], costs[name] = prepare(work)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in todo}
    for _ in range(WARM + REPEATS):
        for name, step in steps.items():
            began = time.process_time(), time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name], todo[name].data))
            ended = time.process_time(), time.perf_counter()
            spent[name].append((ended[0] - began[0], ended[1] - began[1]))
    return [row(name, todo[name], spent[name][WARM:], costs[name]) for name in todo]


def row(name: str, work: Work, spent: list[tuple[float, float]], costs: dict) -> dict:
    processor, wall = 1e3 * np.array(spent).T
    return {
        "work": name,
        "median_ms": float(np.median(processor)),
        "min_ms": float(processor.min()),
        "wall_ms": float(wall.min()),
        **costs,
        "published_ms": work.published_ms,
        "published_compile_s": work.published_compile_s,
    }


if __name__ == "__main__":
    timing.write("published", measure(works()), COLUMNS)
