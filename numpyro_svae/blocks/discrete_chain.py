# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Exact inference in a discrete Markov chain with log potentials.

The chain has log weights ``log_initial (..., K)`` of the first state and
``log_transition (..., T - 1 or 1, K, K)`` from row to column, and a potential adds
``log_potential (..., T, K)``; weights need not be normalised and may be minus infinity.
Messages run backwards, and the posterior is a chain that runs forwards:
:mod:`numpyro_svae.blocks.discrete_messages`. No value and no gradient is NaN: where
nothing is possible, probabilities are uniform and the log normaliser minus infinity.
"""

import math
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.blocks.discrete_messages import carried, messages
from numpyro_svae.blocks.discrete_steps import (
    Factors,
    PosteriorSteps,
    by_step,
    finite_max,
    transition_probs,
)
from numpyro_svae.blocks.loops import pairwise_sum

__all__ = [
    "DiscretePosterior",
    "entropy",
    "expected_log_density",
    "kl_divergence",
    "log_density",
    "marginals",
    "mode",
    "normalize",
    "pair_probs",
    "safe_log",
    "sample_paths",
    "smooth",
]


class DiscretePosterior(NamedTuple):
    """The posterior as a chain, with its marginals.

    :param initial_probs: of the first state, ``(..., K)``.
    :param transition_probs: of the steps, ``(..., T - 1, K, K)``.
    :param probs: marginal probabilities, ``(..., T, K)``.
    :param log_normalizer: log sum of the weights of all paths, ``(...)``.
    """

    initial_probs: Array
    transition_probs: Array
    probs: Array
    log_normalizer: Array


def safe_log(probs: Array) -> Array:
    """Logarithms of probabilities, minus infinity (with no gradient) at zero."""
    possible = probs > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, probs, 1.0)), -jnp.inf)


def normalize(logits: Array) -> tuple[Array, Array]:
    """Log sum and probabilities over the last axis; uniform where none is possible."""
    largest = lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    weights = jnp.exp(logits - largest)
    total = jnp.sum(weights, -1, keepdims=True)
    possible = total > 0
    total = jnp.where(possible, total, 1.0)
    log_sum = jnp.where(possible, jnp.log(total) + largest, -jnp.inf)
    probs = jnp.where(possible, weights / total, 1.0 / logits.shape[-1])
    return log_sum[..., 0], probs


def _shared_or_whole(transition: Array, batch: tuple[int, ...]) -> Array:
    """Transitions without a batch, where it has one member, or with the whole batch."""
    own, event = transition.shape[:-3], transition.shape[-3:]
    if math.prod(own) == 1:
        return jnp.reshape(transition, event)
    return jnp.broadcast_to(transition, batch + event)


def _batch(log_initial: Array, log_transition: Array, log_potential: Array) -> tuple:
    return jnp.broadcast_shapes(
        log_initial.shape[:-1], log_transition.shape[:-3], log_potential.shape[:-2]
    )


class _Layout(NamedTuple):
    """How sequences are laid out for messages.

    :param batch: the shape of the batch, of N sequences.
    :param shared: whether all have the same transitions, and are the columns of one
        matrix; each is the one column of a matrix of its own otherwise.
    """

    batch: tuple[int, ...]
    shared: bool

    def columns(self, x: Array) -> Array:
        """``(..., T, K)`` as ``(T, K, N)`` or ``(T, N, K, 1)``."""
        x = jnp.broadcast_to(x, self.batch + x.shape[-2:])
        x = jnp.reshape(x, (-1, *x.shape[-2:]))
        if self.shared:
            return jnp.moveaxis(x, 0, -1)
        return jnp.swapaxes(x, 0, 1)[..., None]

    def rows(self, x: Array) -> Array:
        """Back from columns to ``(..., T, K)``."""
        x = jnp.moveaxis(x, -1, 0) if self.shared else jnp.swapaxes(x[..., 0], 0, 1)
        return jnp.reshape(x, self.batch + x.shape[-2:])

    def matrices(self, x: Array) -> Array:
        """Those of the steps, with time leading."""
        if self.shared:
            return x
        return jnp.swapaxes(jnp.reshape(x, (-1, *x.shape[-3:])), 0, 1)


@jax.jit
def smooth(
    log_initial: Array, log_transition: Array, log_potential: Array
) -> DiscretePosterior:
    """Condition a chain on log potentials.

    :param log_initial: of shape ``(..., K)``.
    :param log_transition: of shape ``(..., T - 1 or 1, K, K)``.
    :param log_potential: of shape ``(..., T, K)``.
    """
    batch = _batch(log_initial, log_transition, log_potential)
    log_transition = _shared_or_whole(log_transition, batch)
    layout = _Layout(batch, log_transition.ndim == 3)
    logs, potential = layout.matrices(log_transition), layout.columns(log_potential)
    later, message, offset, factors = messages(logs, potential)
    nothing = jnp.zeros_like(potential[:1])
    first = potential[:1] + jnp.concatenate([message, nothing])[:1]
    log_sum, initial = normalize(log_initial + layout.rows(first)[..., 0, :])
    start = layout.columns(initial[..., None, :])
    sources = jnp.concatenate([start, jnp.zeros_like(message)])[:-1]
    probs = carried(True, PosteriorSteps(logs, later, message, factors), sources)
    probs = jnp.concatenate([start, probs])
    probs = probs / jnp.sum(probs, -2, keepdims=True)
    offset = jnp.moveaxis(layout.rows(lax.stop_gradient(offset)), -2, 0)
    factors = Factors(*factors[:1], *map(layout.rows, factors[1:]))
    steps = PosteriorSteps(
        log_transition, layout.rows(later), layout.rows(message), factors
    )
    return DiscretePosterior(
        initial,
        transition_probs(steps),
        layout.rows(probs),
        log_sum + pairwise_sum(offset)[..., 0],
    )


def marginals(initial: Array, transition: Array, num_steps: int) -> Array:
    """Marginal probabilities ``(..., T, K)`` of a chain.

    :param initial: probabilities of the first state, ``(..., K)``.
    :param transition: those of the steps, ``(..., T - 1 or 1, K, K)``.
    """
    batch = jnp.broadcast_shapes(initial.shape[:-1], transition.shape[:-3])
    initial = jnp.broadcast_to(initial, (*batch, initial.shape[-1]))
    steps, at = by_step(jnp.moveaxis(transition, -3, 0), num_steps - 1)

    def forwards(probs: Array, step: Any) -> tuple[Array, Array]:
        probs = (probs[..., None, :] @ at(step))[..., 0, :]
        probs = probs / jnp.sum(probs, -1, keepdims=True)
        return probs, probs

    _, later = lax.scan(forwards, initial, steps, num_steps - 1)
    return jnp.moveaxis(jnp.concatenate([initial[None], later]), 0, -2)


def pair_probs(probs: Array, transition: Array) -> Array:
    """Probabilities of neighbouring states, ``(..., T - 1, K, K)``.

    :param probs: marginals, ``(..., T, K)``.
    :param transition: of shape ``(..., T - 1 or 1, K, K)``.
    """
    return probs[..., :-1, :, None] * transition


@jax.jit
def mode(log_initial: Array, log_transition: Array, log_potential: Array) -> Array:
    """The most probable path ``(..., T)`` (Viterbi, 1967); arguments as for smooth."""
    num_steps, size = log_potential.shape[-2:]
    batch = _batch(log_initial, log_transition, log_potential)
    steps, at = by_step(jnp.moveaxis(log_transition, -3, 0), num_steps - 1)
    potentials = jnp.broadcast_to(log_potential, (*batch, num_steps, size))
    potentials = jnp.moveaxis(potentials, -2, 0)

    def backwards(best: Array, xs: tuple) -> tuple[Array, Array]:
        step, potential = xs
        total = at(step) + (potential + best)[..., None, :]
        best = jnp.max(total, -1)
        return best - finite_max(best), jnp.argmax(total, -1)

    def forwards(state: Array, choice: Array) -> tuple[Array, Array]:
        state = jnp.take_along_axis(choice, state[..., None], -1)[..., 0]
        return state, state

    start = jnp.zeros((*batch, size), potentials.dtype)
    best, choices = lax.scan(
        backwards, start, (steps, potentials[1:]), num_steps - 1, reverse=True
    )
    first = jnp.argmax(log_initial + potentials[0] + best, -1)
    _, later = lax.scan(forwards, first, choices)
    return jnp.moveaxis(jnp.concatenate([first[None], later]), 0, -1)


def sample_paths(initial: Array, transition: Array, uniforms: Array) -> Array:
    """Paths ``(..., T)`` by inversion of uniform numbers ``(..., T)``.

    :param initial: of shape ``(..., K)``.
    :param transition: of shape ``(..., T - 1 or 1, K, K)``.
    :param uniforms: between 0 and 1, of shape ``(*sample, *batch, T)``.
    """
    steps, at = by_step(jnp.moveaxis(transition, -3, 0), uniforms.shape[-1] - 1)

    def draw(probs: Array, uniform: Array) -> Array:
        below = jnp.cumsum(probs, -1)[..., :-1]
        return jnp.sum(uniform[..., None] > below, -1)

    def forwards(state: Array, xs: tuple) -> tuple[Array, Array]:
        step, uniform = xs
        step = at(step)
        rows = jnp.broadcast_to(step, state.shape + step.shape[-2:])
        row = jnp.take_along_axis(rows, state[..., None, None], -2)
        state = draw(row[..., 0, :], uniform)
        return state, state

    uniforms = jnp.moveaxis(uniforms, -1, 0)
    first = draw(initial, uniforms[0])
    _, later = lax.scan(forwards, first, (steps, uniforms[1:]), len(uniforms) - 1)
    return jnp.moveaxis(jnp.concatenate([first[None], later]), 0, -1)


def log_density(log_initial: Array, log_transition: Array, path: Array) -> Array:
    """Log weight ``(...)`` of paths ``(..., T)``."""
    size, num_steps = log_initial.shape[-1], path.shape[-1]
    shape = (*path.shape[:-1], num_steps - 1, size, size)
    rows = jnp.broadcast_to(log_transition, shape)
    row = jnp.take_along_axis(rows, path[..., :-1, None, None], -2)
    terms = jnp.take_along_axis(row, path[..., 1:, None, None], -1)[..., 0, 0]
    first = jnp.broadcast_to(log_initial, (*path.shape[:-1], size))
    first = jnp.take_along_axis(first, path[..., :1], -1)[..., 0]
    return first + pairwise_sum(jnp.moveaxis(terms, -1, 0))


def _expected(weights: Array, values: Array) -> Array:
    """Weighted values, where what has no weight counts nothing."""
    return weights * jnp.where(weights > 0, values, 0.0)


def expected_log_density(
    log_initial: Array, log_transition: Array, probs: Array, transition: Array
) -> Array:
    """Log weight ``(...)`` expected of the paths of a chain.

    :param log_initial: of shape ``(..., K)``.
    :param log_transition: of shape ``(..., T - 1 or 1, K, K)``.
    :param probs: marginals of the chain, ``(..., T, K)``.
    :param transition: its steps, ``(..., T - 1, K, K)``.
    """
    first = jnp.sum(_expected(probs[..., 0, :], log_initial), -1)
    later = _expected(pair_probs(probs, transition), log_transition)
    later = jnp.moveaxis(jnp.sum(later, (-1, -2)), -1, 0)
    return first + pairwise_sum(later)


def entropy(initial: Array, transition: Array, num_steps: int) -> Array:
    """Entropy ``(...)`` of a chain of probabilities."""
    probs = marginals(initial, transition, num_steps)
    pairs = pair_probs(probs, transition)
    first = jnp.sum(_expected(initial, safe_log(initial)), -1)
    later = jnp.sum(_expected(pairs, safe_log(transition)), (-1, -2))
    return -first - pairwise_sum(jnp.moveaxis(later, -1, 0))


def kl_divergence(
    p: tuple[Array, Array], q: tuple[Array, Array], num_steps: int
) -> Array:
    """``KL(p || q)`` of two chains, each its initial and transition probabilities."""
    probs = marginals(*p, num_steps)
    pairs = pair_probs(probs, p[1])
    first = jnp.sum(_expected(p[0], safe_log(p[0]) - safe_log(q[0])), -1)
    steps = safe_log(p[1]) - safe_log(q[1])
    later = jnp.sum(_expected(pairs, steps), (-1, -2))
    return first + pairwise_sum(jnp.moveaxis(later, -1, 0))
