# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

r"""Messages of a discrete chain, and what its posterior carries along.

Messages run backwards (Baum, Petrie, Soules and Weiss, 1970; Rabiner, *A tutorial on
hidden Markov models*, 1989), in probabilities that are scaled at every step. The same
product that sums them over the next state also sums them over all states, with a row of
ones: a step is one product and one elementwise operation, on all sequences at once.

The derivative of a sum that the posterior carries forwards is one that it carries
backwards, and the other way round; so derivatives of all orders are such loops too.
Arrays are laid out as in :mod:`numpyro_svae.blocks.discrete_steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.blocks.discrete_steps import (
    Factors,
    PosteriorSteps,
    by_step,
    finite_max,
    pairs,
    repaired,
    scaled_weights,
    slopes,
    step_probs,
    summed,
)
from numpyro_svae.derivatives import define_vjp

__all__ = ["carried", "messages"]


@jax.custom_vjp
def messages(logs: Array, potential: Array) -> tuple[Array, Array, Array, Factors]:
    """``m_t = log sum_j exp(A_tj + l_{t+1,j})`` with ``l_t = potential_t + m_t - o_t``.

    :param logs: A, log weights of the transitions, ``(T - 1 or 1, ..., K, K)``.
    :param potential: ``(T, ..., K, columns)``.
    :return: l of the last ``T - 1`` states and m of the first ones, ``(T - 1, ..., K,
        columns)``; offsets o that keep l at most zero, ``(T - 1, ..., 1, columns)``,
        and l and m in ordinary numbers. No gradient flows through the last two.
    """
    *found, factors = _scaled_messages(logs, potential)
    found = repaired(factors.safe, tuple(found), _log_messages, logs, potential)
    return *found, factors


def _scaled_messages(
    logs: Array, potential: Array
) -> tuple[Array, Array, Array, Factors]:
    weight, row = scaled_weights(logs)
    weight = jnp.concatenate([weight, jnp.ones_like(weight[..., :1, :])], -2)
    reached = row + potential[:-1]
    largest, last = finite_max(reached, -2), finite_max(potential[-1:], -2)
    entries, final = jnp.exp(reached - largest), potential[-1:] - last
    steps, at = by_step(weight, len(reached))

    def backwards(x: Array, xs: tuple) -> tuple[Array, Array]:
        step, entries = xs
        found = at(step) @ x
        return entries * found[..., :-1, :] / found[..., -1:, :], found

    xs = steps, entries
    _, found = lax.scan(backwards, jnp.exp(final)[0], xs, len(reached), reverse=True)
    sums, total = found[..., :-1, :], found[..., -1:, :]
    message, offset = row + jnp.log(sums), largest + jnp.log(total)
    later = jnp.concatenate([potential[:-1] + message - offset, final])[1:]
    end = jnp.concatenate([entries * sums / total, jnp.exp(final)])[1:]
    info = jnp.finfo(sums.dtype)
    # What was rounded to zero in a sum is less than K times the least number.
    safe = jnp.all(sums > info.tiny / info.eps**2)
    offset = jnp.concatenate([offset, last])[1:]
    return later, message, offset, Factors(safe, 1 / sums, end)


def _log_messages(logs: Array, potential: Array) -> tuple[Array, Array, Array]:
    def rescaled(total: Array) -> tuple[Array, Array]:
        offset = finite_max(total, -2)
        return total - offset, offset

    steps, at = by_step(logs, len(potential) - 1)

    def backwards(carry: tuple, xs: tuple) -> tuple[tuple, tuple]:
        later, offset = carry
        step, potential = xs
        terms = at(step)[..., None] + later[..., None, :, :]
        largest = finite_max(terms, -2)
        message = jnp.log(jnp.sum(jnp.exp(terms - largest), -2)) + largest[..., 0, :]
        return rescaled(potential + message), (later, message, offset)

    start, xs = rescaled(potential[-1]), (steps, potential[:-1])
    return lax.scan(backwards, start, xs, len(potential) - 1, reverse=True)[1]


def _messages_forward(logs: Array, potential: Array) -> tuple[tuple, PosteriorSteps]:
    found = messages(logs, potential)
    later, message, _, factors = found
    return found, PosteriorSteps(logs, later, message, factors)


def _messages_backward(steps: PosteriorSteps, cotangents: tuple) -> tuple[Array, Array]:
    to_later, to_message, *_ = cotangents
    own = to_message + _after_nothing(to_later)[:-1]
    ends = carried(True, steps, own)
    starts = own + _after_nothing(ends)[:-1]
    share = pairs(steps, starts, jnp.ones_like(starts))
    return share, _after_nothing(to_later + ends)


def _after_nothing(x: Array) -> Array:
    """With zeros for one more step, before the others."""
    return jnp.concatenate([jnp.zeros((1, *x.shape[1:]), x.dtype), x])


def _before_nothing(x: Array) -> Array:
    """With zeros for one more step, after the others."""
    return jnp.concatenate([x, jnp.zeros((1, *x.shape[1:]), x.dtype)])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def carried(forwards: bool, steps: PosteriorSteps, source: Array) -> Array:
    """What the steps of a posterior have carried to each state, of all sources.

    :param forwards: whether sources of the starts are carried to the ends of the steps,
        ``r_{t+1} = (a_t + r_t) P_t``, else those of the ends to the starts,
        ``r_t = P_t (a_{t+1} + r_{t+1})``; from nothing.
    :param source: a, ``(T - 1, ..., K, columns)``.
    :return: r, of the same shape.
    """
    (safe, start, end), weight = steps.factors, scaled_weights(steps.logs)[0]
    nothing = jnp.zeros(source.shape[1:], source.dtype)
    if forwards:
        weight, start, end = jnp.swapaxes(weight, -1, -2), end, start
        passed = _after_nothing(start)[:-1]
    else:
        passed = _before_nothing(start)[1:]

    def scaled(total: Array, xs: tuple) -> tuple[Array, Array]:
        step, source, ratio = xs
        total = at(step) @ (source + ratio * total)
        return total, total

    def loop(step: Callable, *xs: Any) -> Array:
        return lax.scan(step, nothing, xs, len(source), reverse=not forwards)[1]

    def slow(steps: PosteriorSteps, source: Array) -> Array:
        logs, at = by_step(steps.logs, len(source))

        def step(total: Array, xs: tuple) -> tuple[Array, Array]:
            own, later, message, source = xs
            probs = step_probs(at(own), later, message, 1 / source.shape[-2])
            total = summed(probs, source + total, forwards)
            return total, total

        return loop(step, logs, steps.later, steps.message, source)

    own, at = by_step(weight, len(source))
    fast = start * loop(scaled, own, end * source, end * passed)
    return repaired(safe, fast, slow, steps, source)


def _carried_forward(
    forwards: bool, steps: PosteriorSteps, source: Array
) -> tuple[Array, tuple]:
    found = carried(forwards, steps, source)
    return found, (steps, source, found)


def _carried_backward(forwards: bool, residuals: tuple, cotangent: Array) -> tuple:
    steps, source, found = residuals
    if forwards:
        level = _level(cotangent, found)
        at_starts = carried(False, steps, cotangent - level)
        starts, ends, at_ends = source, cotangent - level, found
        to_source = at_starts + lax.cumsum(level, reverse=True)
    else:
        at_ends = carried(True, steps, cotangent)
        starts, ends, at_starts = cotangent, source, found
        to_source = at_ends
    starts = starts + _after_nothing(at_ends)[:-1]
    ends = ends + _before_nothing(at_starts)[1:]
    share = pairs(steps, starts, ends)
    return slopes(share, ends * at_ends, -starts * at_starts), to_source


def _level(values: Array, mass: Array) -> Array:
    """A constant to take off the values of each step, about their mean.

    It changes no derivative with respect to the steps, whose probabilities sum to one,
    but sums over time stay small, and so do their rounding errors.
    """
    mass = jnp.abs(mass)
    total = jnp.sum(mass, -2, keepdims=True)
    mean = jnp.sum(values * mass, -2, keepdims=True) / jnp.where(total > 0, total, 1.0)
    return lax.stop_gradient(mean)


define_vjp(messages, _messages_forward, _messages_backward)
carried.defvjp(_carried_forward, _carried_backward)
