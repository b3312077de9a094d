# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

r"""Steps of the posterior of a discrete chain, and sums over them.

A step has probabilities ``P_ij = exp(A_ij + l_j - m_i)``, with log weights A of the
transition, log weights l of where it may end, and their log sums ``m_i``. They factor
into ``diag(1 / m) W diag(x)``, with m and x in ordinary numbers and ``W = exp(A)``,
each row less its largest entry: all steps are products with one matrix, and no P is
written out. Where a sum is so small that rounding to zero may have lost something
(sharp transitions, states that are all but impossible), each P is computed from its
logarithms instead.

Sequences with the same transitions are columns of one matrix of messages: A has shape
``(T - 1 or 1, ..., K, K)``, and l and m have shape ``(T - 1, ..., K, columns)``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
from jax import Array, lax
import jax.numpy as jnp

__all__ = [
    "Factors",
    "PosteriorSteps",
    "by_step",
    "finite_max",
    "pairs",
    "repaired",
    "scaled_weights",
    "slopes",
    "step_probs",
    "summed",
    "tilted",
    "transition_probs",
]


class Factors(NamedTuple):
    """``P = diag(start) W diag(end)``; no gradient flows into these.

    :param safe: whether this holds up to rounding, for all steps.
    :param start: ``1 / m``, of shape ``(T - 1, ..., K, columns)``.
    :param end: x, at most one; of the same shape.
    """

    safe: Array
    start: Array
    end: Array


class PosteriorSteps(NamedTuple):
    """The steps of a posterior.

    :param logs: log weights A of the transitions, ``(T - 1 or 1, ..., K, K)``.
    :param later: log weights l of where a step may end, ``(T - 1, ..., K, columns)``.
    :param message: the log sum m of what may follow each start; of the same shape.
    :param factors: the same in ordinary numbers.
    """

    logs: Array
    later: Array
    message: Array
    factors: Factors


def slopes(to_logs: Array, to_later: Array, to_message: Array) -> PosteriorSteps:
    """The derivative with respect to steps; none flows into the factors."""
    return PosteriorSteps(to_logs, to_later, to_message, cast(Any, None))


def finite_max(x: Array, axis: int = -1) -> Array:
    """The largest entry of an axis, a constant to take off; zero if infinite."""
    largest = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


def scaled_weights(logs: Array) -> tuple[Array, Array]:
    """``exp(A - row)``, where row is the largest entry of each row, ``(..., K, 1)``."""
    row = finite_max(logs)
    return jnp.exp(logs - row), row


def by_step(transition: Any, length: int) -> tuple[Any, Callable]:
    """What to scan over, with time leading, and how a step takes its own of it.

    :param transition: a pytree of arrays ``(T - 1 or 1, ...)``.
    """
    if len(jax.tree.leaves(transition)[0]) == 1 != length:
        shared = jax.tree.map(lambda x: x[0], transition)
        return None, lambda _: shared
    return transition, lambda own: own


def repaired(safe: Array, fast: Any, slow: Callable, *args: Any) -> Any:
    """What was found fast if that was safe, else what is found slowly from arguments.

    A loop of at most one turn: under vmap, ``lax.cond`` would always do both. The
    barrier keeps XLA from doing the slow work ahead of the loop, as a constant of it.
    """

    def repair(state: tuple) -> tuple:
        now, given = lax.optimization_barrier((state[1], args))
        return slow(*given), jnp.ones_like(now)

    return lax.while_loop(lambda state: ~state[1], repair, (fast, safe))[0]


def step_probs(logs: Array, later: Array, message: Array, rest: float) -> Array:
    """P of one step, ``(..., K, K, columns)``.

    :param rest: what stands in rows in which nothing is possible.
    """
    possible = jnp.isfinite(message)
    below = jnp.where(possible, message, 0.0)[..., :, None, :]
    probs = jnp.exp(logs[..., None] + later[..., None, :, :] - below)
    return jnp.where(possible[..., :, None, :], probs, rest)


def summed(probs: Array, values: Array, forwards: bool) -> Array:
    """Values of the starts summed at the ends, or of the ends at the starts.

    :param probs: ``(..., K, K, columns)``.
    :param values: ``(..., K, columns)``.
    """
    if forwards:
        return jnp.sum(probs * values[..., :, None, :], -3)
    return jnp.sum(probs * values[..., None, :, :], -2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def tilted(forwards: bool, steps: PosteriorSteps, tilt: Array, values: Array) -> Array:
    """Products of values with ``P_ij G_ij``, for each step.

    :param forwards: whether values of the starts are summed at the ends,
        ``sum_i v_i P_ij G_ij``; otherwise those of the ends, at the starts.
    :param tilt: G, of the shape of the transitions.
    :param values: v, ``(T - 1, ..., K, columns)``.
    """
    safe, start, end = steps.factors
    weight = scaled_weights(steps.logs)[0] * tilt
    if forwards:
        weight, start, end = jnp.swapaxes(weight, -1, -2), end, start
    if len(weight) == 1:
        fast = jnp.einsum("...ij,t...jc->t...ic", weight[0], end * values)
    else:
        fast = weight @ (end * values)

    def slow(steps: PosteriorSteps, tilt: Array, values: Array) -> Array:
        own, at = by_step((steps.logs, tilt), len(values))

        def step(_: None, xs: tuple) -> tuple[None, Array]:
            own, later, message, values = xs
            logs, tilt = at(own)
            probs = step_probs(logs, later, message, 0.0) * tilt[..., None]
            return None, summed(probs, values, forwards)

        xs = own, steps.later, steps.message, values
        return lax.scan(step, None, xs, len(values))[1]

    return repaired(safe, start * fast, slow, steps, tilt, values)


def _tilted_forward(
    forwards: bool, steps: PosteriorSteps, tilt: Array, values: Array
) -> tuple[Array, tuple]:
    found = tilted(forwards, steps, tilt, values)
    return found, (steps, tilt, values, found)


def _tilted_backward(forwards: bool, residuals: tuple, cotangent: Array) -> tuple:
    steps, tilt, values, found = residuals
    other = tilted(not forwards, steps, tilt, cotangent)
    if forwards:
        starts, ends, at_ends, at_starts = values, cotangent, found, other
    else:
        starts, ends, at_ends, at_starts = cotangent, values, other, found
    share = pairs(steps, starts, ends)
    to_steps = slopes(tilt * share, ends * at_ends, -starts * at_starts)
    return to_steps, share, other


@jax.custom_vjp
def pairs(steps: PosteriorSteps, starts: Array, ends: Array) -> Array:
    """``v_i P_ij u_j``, summed over all that have a transition in common.

    :param starts: v, ``(T - 1, ..., K, columns)``.
    :param ends: u, of the same shape.
    :return: of the shape of the transitions.
    """
    (safe, start, end), weight = steps.factors, scaled_weights(steps.logs)[0]
    shared = len(weight) == 1
    fast = weight * _outer(start * starts, end * ends, shared)

    def slow(steps: PosteriorSteps, starts: Array, ends: Array) -> Array:
        own, at = by_step(steps.logs, len(starts))

        def step(total: Array, xs: tuple) -> tuple[Array, Array | None]:
            own, later, message, starts, ends = xs
            probs = step_probs(at(own), later, message, 0.0)
            share = probs * starts[..., :, None, :] * ends[..., None, :, :]
            share = jnp.sum(share, -1)
            return (total + share, None) if shared else (total, share)

        xs = own, steps.later, steps.message, starts, ends
        nothing = jnp.zeros(steps.logs.shape[1:], fast.dtype)
        total, each = lax.scan(step, nothing, xs, len(starts))
        return each if each is not None else total[None]

    return repaired(safe, fast, slow, steps, starts, ends)


def _outer(starts: Array, ends: Array, shared: bool) -> Array:
    """Products of all pairs of states, summed over columns, and steps if shared."""
    if shared and starts.shape[-1] < starts.shape[-2]:
        return jnp.einsum("t...ic,t...jc->...ij", starts, ends)[None]
    share = starts @ jnp.swapaxes(ends, -1, -2)
    return jnp.sum(share, 0, keepdims=True) if shared else share


def _pairs_forward(
    steps: PosteriorSteps, starts: Array, ends: Array
) -> tuple[Array, tuple]:
    share = pairs(steps, starts, ends)
    return share, (steps, starts, ends, share)


def _pairs_backward(residuals: tuple, cotangent: Array) -> tuple:
    steps, starts, ends, share = residuals
    at_ends = tilted(True, steps, cotangent, starts)
    at_starts = tilted(False, steps, cotangent, ends)
    to_steps = slopes(cotangent * share, ends * at_ends, -starts * at_starts)
    return to_steps, at_starts, at_ends


@jax.custom_vjp
def transition_probs(steps: PosteriorSteps) -> Array:
    """P of all steps, uniform in rows in which nothing is possible.

    :param steps: in another layout: transitions ``(T - 1 or 1, K, K)``, of all
        sequences or each, and the rest ``(..., T - 1, K)``.
    :return: of shape ``(..., T - 1, K, K)``.
    """
    (safe, start, end), weight = steps.factors, scaled_weights(steps.logs)[0]

    def slow(logs: Array, later: Array, message: Array) -> Array:
        rest = 1 / later.shape[-1]
        return step_probs(logs, later[..., None], message[..., None], rest)[..., 0]

    fast = start[..., :, None] * weight * end[..., None, :]
    return repaired(safe, fast, slow, *steps[:3])


def _transition_probs_forward(steps: PosteriorSteps) -> tuple[Array, tuple]:
    probs = transition_probs(steps)
    return probs, (steps, probs)


def _transition_probs_backward(
    residuals: tuple, cotangent: Array
) -> tuple[PosteriorSteps]:
    (logs, *_), probs = residuals
    share = probs * cotangent
    to_ends, to_starts = jnp.sum(share, -2), -jnp.sum(share, -1)
    to_logs = jnp.sum(share, tuple(range(share.ndim - logs.ndim)))
    if logs.shape[-3] == 1:
        to_logs = jnp.sum(to_logs, -3, keepdims=True)
    return (slopes(to_logs, to_ends, to_starts),)


transition_probs.defvjp(_transition_probs_forward, _transition_probs_backward)
tilted.defvjp(_tilted_forward, _tilted_backward)
pairs.defvjp(_pairs_forward, _pairs_backward)
