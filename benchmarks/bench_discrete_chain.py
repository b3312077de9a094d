# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Marginals of a discrete chain, and their gradient, beside dynamax and funsor.

Marginals, sums of the probabilities of neighbours and the log normaliser, float32; and
the value and gradient of the log normaliser with a function of the others. funsor
eliminates in pairs, with ``K**3`` numbers for each step: the shorter chains only.
Writes ``results/discrete_chain.json`` and its table.
"""

from __future__ import annotations

from collections import OrderedDict

from dynamax.hidden_markov_model.inference import hmm_two_filter_smoother
import funsor
from funsor import ops
from funsor.domains import Bint
from funsor.sum_product import sequential_sum_product
from funsor.tensor import Tensor
import jax
import jax.numpy as jnp
import numpy as np
import timing

from numpyro_svae.blocks import discrete_chain

SIZES = [(64, 100, 10), (1, 10000, 50)]


def problem(batch: int, steps: int, states: int) -> tuple[jax.Array, ...]:
    """Log probabilities of the start and the steps, and log potentials."""
    rng = np.random.default_rng(0)
    initial = np.log(rng.dirichlet(np.ones(states)))
    transition = np.log(rng.dirichlet(np.ones(states), size=states))
    potential = rng.normal(size=(batch, steps, states))
    return tuple(jnp.asarray(x, jnp.float32) for x in (initial, transition, potential))


def ours(initial, transition, potential):
    """Marginals and sums of pairs are the gradient of the log normaliser."""

    def log_normalizer(transition, potential):
        found = discrete_chain.smooth(initial, transition[None], potential)
        return jnp.sum(found.log_normalizer), found.log_normalizer

    slopes, value = jax.grad(log_normalizer, (0, 1), has_aux=True)(
        transition, potential
    )
    return slopes[1], slopes[0], value


def dynamax(initial, transition, potential):
    def smooth(potential):
        found = hmm_two_filter_smoother(
            jnp.exp(initial), jnp.exp(transition), potential
        )
        return found.smoothed_probs, found.trans_probs, found.marginal_loglik

    probs, pairs, log_normalizer = jax.vmap(smooth)(potential)
    return probs, jnp.sum(pairs, 0), log_normalizer


def funsors(initial, transition, potential):
    """The same as the gradient of the log normaliser."""
    batch, steps, states = potential.shape
    batch, steps, state = Bint[batch], Bint[steps - 1], Bint[states]
    places = OrderedDict(batch=batch, time=steps, prev=state, curr=state)

    def log_normalizer(transition, potential):
        factors = Tensor(transition + potential[:, 1:, None], places)
        chain = sequential_sum_product(
            ops.logaddexp,
            ops.add,
            factors,
            funsor.Variable("time", steps),
            {"prev": "curr"},
        )
        places_of_first = OrderedDict(batch=batch, prev=state)
        first = Tensor(initial + potential[:, 0], places_of_first)
        found = (chain + first).reduce(ops.logaddexp, frozenset({"prev", "curr"}))
        return jnp.sum(found.data), found.data

    slopes, value = jax.grad(log_normalizer, (0, 1), has_aux=True)(
        transition, potential
    )
    return slopes[1], slopes[0], value


def loss(way):
    def value(*args):
        probs, pairs, log_normalizer = way(*args)
        return jnp.sum(log_normalizer) + jnp.mean(probs**2) + jnp.mean(pairs**2)

    return jax.value_and_grad(value, (0, 1, 2))


def main() -> None:
    rows = []
    for size in SIZES:
        args = problem(*size)
        peers = {"dynamax": dynamax}
        if size[1] * size[2] ** 3 < 1e6:
            peers["funsor"] = funsors
        ways = {"numpyro_svae": ours, **peers}
        moments = {name: (way, args) for name, way in ways.items()}
        rows += timing.compare(f"moments {size}", moments)
        losses = {name: (loss(way), args) for name, way in ways.items()}
        rows += timing.compare(f"gradient {size}", losses)
    timing.write("discrete_chain", rows)


if __name__ == "__main__":
    funsor.set_backend("jax")
    main()
