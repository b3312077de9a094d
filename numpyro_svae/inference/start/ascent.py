# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Natural-gradient ascent that is not slowed down by blocks that move together.

A latent path and its weights can be turned at the same time without changing what they
say of the data. Sweeps that update one given the other creep along such turns. Here a
step begins further on along the last one, as far as it has been going well (Nesterov's
method, begun anew where the bound falls: O'Donoghue and Candes, *Adaptive restart for
accelerated gradient schemes*, 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters

__all__ = ["ascend"]

Naturals = dict[str, NaturalParameters]

_REACH = 0.9  # of the way to where a family ends
_ROUNDING = 16  # units in the last place by which a bound may fall
_DELAY = 3.0  # the momentum of step k is k / (k + 3)
_LEAST_GAIN = 1e-4  # nats, below which a step counts for nothing
_PATIENCE = 10  # such steps in a row by default


class _Point(NamedTuple):
    """Where a bound was evaluated, its natural gradient, and what else came with it."""

    natural: Naturals
    rise: Naturals
    value: Array
    seen: Any


class _State(NamedTuple):
    """The best point so far, and what is tried next.

    :param best: the best point.
    :param landed: where the last step ended, before what was added to it.
    :param trial: what is tried next.
    :param run: number of steps since the bound fell.
    :param length: of steps, beside their full size.
    :param idle: number of steps since one was worth it.
    :param steps: number of evaluations.
    """

    best: _Point
    landed: Naturals
    trial: Naturals
    run: Array
    length: Array
    idle: Array
    steps: Array


def ascend(
    bound: Callable[[Naturals], tuple[tuple[Array, Any], Naturals]],
    start: Naturals,
    steps: int | Array,
    size: float,
    patience: int = _PATIENCE,
) -> tuple[Array, Naturals, Any]:
    """A number of steps up a bound, or fewer if it hardly rises any more.

    Where a trial is lower than the best point, or where a family has ended but for
    rounding, the next one is a plain step from there, and shorter if that was one
    already.

    :param bound: the bound with what else is wanted, and natural gradients.
    :param start: natural parameters.
    :param steps: how many at most.
    :param size: of a natural-gradient step.
    :param patience: how many steps in a row may bring next to nothing.
    :return: the best bound, where it is reached, and what else was computed there.
    """

    @jax.jit  # traced once, for its shapes and for the loop
    def evaluate(natural: Naturals) -> _Point:
        (value, seen), rise = bound(natural)
        inside = [jnp.all(block.has_density()) for block in natural.values()]
        value = jnp.where(jnp.all(jnp.stack(inside)), value, -jnp.inf)
        return _Point(natural, rise, value, seen)

    def goes_on(state: _State) -> Array:
        return (state.steps <= steps) & (state.idle < patience)

    def step(state: _State) -> _State:
        state = _judged(state, evaluate(state.trial))
        best = state.best
        landed = _moved(best.natural, best.rise, state.length * size)
        momentum = jnp.where(state.run > 1, state.run / (state.run + _DELAY), 0.0)
        last = {name: landed[name] - state.landed[name] for name in landed}
        trial = _moved(landed, last, momentum)
        return state._replace(landed=landed, trial=trial)

    shapes = jax.eval_shape(evaluate, start)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    best = empty._replace(natural=start, value=empty.value - jnp.inf)
    none = jnp.zeros((), int)
    begin = _State(best, start, start, jnp.zeros(()), jnp.ones(()), none, none)
    best = lax.while_loop(goes_on, step, begin).best
    return best.value, best.natural, best.seen


def _judged(state: _State, found: _Point) -> _State:
    """The state with the point that was tried, if it is no worse."""
    best = state.best
    slack = _ROUNDING * jnp.finfo(found.value.dtype).eps * jnp.abs(best.value)
    slack = jnp.where(jnp.isfinite(slack), slack, 0.0)
    good = jnp.isfinite(found.value) & (found.value >= best.value - slack)
    for leaf in jax.tree.leaves(found.rise):
        good = good & jnp.all(jnp.isfinite(leaf))
    gain = found.value - best.value
    choose = partial(jax.tree.map, partial(jnp.where, good))
    longer = jnp.minimum(1.0, 2.0 * state.length)
    shorter = jnp.where(state.run > 1, state.length, 0.5 * state.length)
    return state._replace(
        best=choose(found, best),
        landed=choose(state.landed, best.natural),
        run=jnp.where(good, state.run + 1.0, 0.0),
        length=jnp.where(good, longer, shorter),
        idle=jnp.where(good & (gain > _LEAST_GAIN), 0, state.idle + 1),
        steps=state.steps + 1,
    )


def _moved(natural: Naturals, direction: Naturals, size: Array) -> Naturals:
    """Natural parameters further on in a direction, within their families.

    Where one would leave its family, it alone goes less far. If all went less far with
    it, what moves together would creep.
    """
    moved = {}
    for name, block in natural.items():
        step = direction[name].scale(size)
        reach = _REACH * block.largest_step(step, 1 / _REACH)
        moved[name] = block + step.scale(jnp.minimum(1.0, reach))
    return moved
