# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Fixed points of sweeps, with gradients that do not depend on the path to them.

At a fixed point ``y = f(y, a)`` the implicit function theorem gives the cotangent of
``a`` as ``(df/da)' v`` with ``v = g + (df/dy)' v`` for the cotangent ``g`` of y, so
that memory does not grow with the number of sweeps (Bendekgey, Hope and Sudderth,
*Unbiased learning of deep generative models with structured discrete representations*,
NeurIPS 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from numpyro_svae.derivatives import define_vjp

__all__ = ["FixedPoint", "Solution", "adjoint_is_found", "solve_fixed_point"]

_SHORTEST = 1 / 16
_LEAST = 0.01  # weight with which a tempered coupling begins


@dataclass(frozen=True)
class FixedPoint:
    """How the fixed point of coupled local sites is found, and differentiated.

    :param max_sweeps: the most sweeps that are made.
    :param tolerance: relative change of a message at which sweeping ends; by default
        1e-4 in float32 and 1e-9 in float64. For factors that are not conjugate it
        is the square of that, in posterior standard deviations, which is about what
        the bound of a datum can still rise; by default 1e-5 and 1e-7.
    :param anneal: number of first sweeps in which messages to discrete sites are
        tempered, with weights that rise evenly to one, so that no state is ruled out
        before the others have settled.
    :param temper: number of sweeps in which discrete sites whose logits depend on a
        latent vector are coupled to it with weights that rise to one, from a hundredth,
        after a third as many without it. A cold start at full weight gets stuck. These
        sweeps do not count in ``max_sweeps``.
    :param gradient: ``"implicit"``, by the implicit function theorem; ``"unrolled"``,
        through ``max_sweeps`` sweeps, with memory that grows with them; or
        ``"stopped"``, through none, as if the messages were given. With logits that
        depend on a latent vector it is always the last one. The bound of sites that no
        recognition function speaks to is differentiated with their posterior as given,
        as in all of variational message passing: this is of posteriors alone there.
    :param guarded: whether a sweep of messages that are not conjugate is a damped step,
        taken where it makes the bound of a datum rise, and counts the curvature of
        steps that are not linear. Otherwise these are replaced in each sweep by the
        closest linear ones at the posterior, all at once and with nothing left over (an
        iterated posterior linearisation smoother): a sweep is a fraction of the work,
        two are enough where potentials say much, as beside a network, and none is sure
        to be better than the one before. Likelihoods without a potential are guarded
        always.

    **Source:** of sweeps that are not guarded, A. F. Garcia-Fernandez, L. Svensson and
    S. Sarkka, *Iterated posterior linearization smoother*, IEEE Transactions on
    Automatic Control 62, 2017.
    """

    max_sweeps: int = 100
    tolerance: float | None = None
    anneal: int = 5
    temper: int = 60
    gradient: Literal["implicit", "unrolled", "stopped"] = "implicit"
    guarded: bool = True

    def __post_init__(self) -> None:
        if self.gradient not in ("implicit", "unrolled", "stopped"):
            raise ValueError(
                f"gradient: found {self.gradient!r}; accepted are 'implicit', "
                "'unrolled' and 'stopped'."
            )
        if self.max_sweeps < 1 or self.anneal < 0 or self.temper < 0:
            raise ValueError(
                f"max_sweeps, anneal, temper: found {self.max_sweeps}, {self.anneal} "
                f"and {self.temper}; accepted are at least 1, and at least 0."
            )
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(
                f"tolerance: found {self.tolerance}; accepted are positive numbers."
            )

    @property
    def cold(self) -> int:
        """How many sweeps there are before the coupling has its full weight."""
        return self.temper + self.temper // 3

    @property
    def tempered(self) -> int:
        """How many sweeps there are before all messages have their full weight."""
        return max(self.anneal, self.cold)

    def annealing(self, sweeps: Array) -> Array:
        """The weight of messages to discrete sites in a sweep, likewise."""
        return jnp.minimum(1.0, (sweeps + 1) / (self.anneal + 1))

    def coupling(self, sweeps: Array) -> Array:
        """The weight of a tempered coupling in a sweep, by the number of those before.

        It is none at first, and then rises evenly in its logarithm.
        """
        begin = self.temper // 3
        if not self.temper:
            return jnp.ones(())
        share = (sweeps - begin) / max(self.temper, 1)
        weight = _LEAST ** (1.0 - jnp.clip(share, 0.0, 1.0))
        return jnp.where(sweeps < begin, 0.0, weight)

    def tolerance_for(self, dtype: Any) -> float:
        """The tolerance, or the default for a floating-point type."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-9 if dtype == jnp.float64 else 1e-4

    def nats_for(self, dtype: Any) -> float:
        """The tolerance of the square of a distance in posterior standard deviations,
        which is about what a bound can still rise."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-7 if dtype == jnp.float64 else 1e-5


class Solution(NamedTuple):
    """A fixed point, and how it was reached.

    :param value: the fixed point.
    :param sweeps: number of sweeps.
    :param residual: change of the last sweep, relative to the tolerance: converged
        means one or less.
    """

    value: Any
    sweeps: Array
    residual: Array


def solve_fixed_point(
    sweep: Callable[..., Any],
    start: Any,
    options: FixedPoint,
    tempered: Any = True,
) -> Solution:
    """Iterate ``y <- f(y)`` until it stands still.

    A sweep whose change is larger than the one before is taken in part only, so that
    oscillations die out.

    :param sweep: the function f, which may close over arrays that gradients are wanted
        of.
    :param start: the first y, a pytree of arrays; no gradient flows into it.
    :param options: when to stop, and how to differentiate.
    :param tempered: a prefix of the tree y: which parts annealing tempers.
    """
    start = lax.stop_gradient(start)
    flat, unravel = ravel_pytree(start)
    chosen = jax.tree.broadcast(tempered, start)
    parts = jax.tree.map(lambda leaf, t: np.full(leaf.size, t), start, chosen)
    anneals = np.concatenate(jax.tree.leaves(parts))

    def step(y: Array, temper: Array) -> Array:
        y = jnp.where(anneals, temper * y, y)
        return ravel_pytree(sweep(unravel(y)))[0]

    if options.gradient == "unrolled":
        value, sweeps, residual = _unrolled(step, flat, options)
        return Solution(unravel(value), sweeps, residual)
    one = jnp.ones((), flat.dtype)
    closed, constants = _close(step, flat, one)
    if options.gradient == "stopped":
        constants = lax.stop_gradient(constants)
    value, sweeps, residual = _solve(closed, options, flat, constants)
    return Solution(unravel(value), sweeps, residual)


def _close(step: Callable, *example: Array) -> tuple[Callable, tuple]:
    """A function of its arguments and of all that it closed over, and the latter.

    ``jax.closure_convert`` leaves masks and integers in the closure, and with them the
    tracers of a caller.
    """
    jaxpr = jax.make_jaxpr(step)(*example)

    def closed(*args: Array) -> Array:
        own, constants = args[: len(example)], args[len(example) :]
        (out,) = jaxpr_as_fun(ClosedJaxpr(jaxpr.jaxpr, constants))(*own)
        return out

    return closed, tuple(jaxpr.consts)


class _State(NamedTuple):
    value: Array
    length: Array
    residual: Array
    sweeps: Array


def _advance(step: Callable, options: FixedPoint, state: _State) -> _State:
    dtype = state.value.dtype
    tolerance = options.tolerance_for(dtype)
    temper = options.annealing(state.sweeps)
    goal = step(state.value, temper.astype(dtype))
    change = goal - state.value
    size = tolerance * (1.0 + jnp.abs(goal))
    residual = jnp.max(jnp.abs(change) / size, initial=0.0)
    grew = (state.sweeps > options.anneal) & (residual > state.residual)
    length = jnp.where(grew, 0.5 * state.length, jnp.minimum(1.0, 1.5 * state.length))
    length = jnp.maximum(length, _SHORTEST)
    usable = jnp.isfinite(residual)
    value = jnp.where(usable, state.value + length * change, state.value)
    return _State(value, length, residual, state.sweeps + 1)


def _begin(start: Array) -> _State:
    one = jnp.ones((), start.dtype)
    return _State(start, one, jnp.inf * one, jnp.zeros((), jnp.int32))


def _iterate(step: Callable, start: Array, options: FixedPoint) -> tuple:
    def moves(state: _State) -> Array:
        annealing = state.sweeps <= options.anneal
        unfinished = annealing | (state.residual > 1.0)
        return unfinished & (state.sweeps < options.max_sweeps)

    state = lax.while_loop(moves, partial(_advance, step, options), _begin(start))
    return state.value, state.sweeps, state.residual


def _unrolled(step: Callable, start: Array, options: FixedPoint) -> tuple:
    def advance(state: _State, _: None) -> tuple[_State, None]:
        moved = _advance(step, options, state)
        done = (state.sweeps > options.anneal) & (state.residual <= 1.0)
        return jax.tree.map(partial(jnp.where, done), state, moved), None

    state, _ = lax.scan(advance, _begin(start), None, options.max_sweeps)
    return state.value, state.sweeps, lax.stop_gradient(state.residual)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(
    step: Callable, options: FixedPoint, start: Array, constants: tuple
) -> tuple[Array, Array, Array]:
    return _iterate(lambda y, t: step(y, t, *constants), start, options)


def _solve_fwd(step: Callable, options: FixedPoint, start: Array, constants: tuple):
    out = _solve(step, options, start, constants)
    return out, (out[0], constants)


def _solve_bwd(step: Callable, options: FixedPoint, residuals: Any, cotangents: Any):
    from numpyro_svae.inference.local.adjoint import solve_adjoint

    value, constants = residuals
    one = jnp.ones((), value.dtype)
    _, pull = jax.vjp(lambda y, a: step(y, one, *a), value, constants)
    adjoint, _ = solve_adjoint(lambda v: pull(v)[0], cotangents[0])
    return jnp.zeros_like(value), pull(adjoint)[1]


define_vjp(_solve, _solve_fwd, _solve_bwd)


def adjoint_is_found(sweep: Callable[[Any], Any], value: Any) -> Array:
    """Whether implicit gradients at a fixed point are solved for.

    It is asked for a cotangent of ones; what the answer hangs on is the sweep.

    :param sweep: the function f.
    :param value: its fixed point.
    """
    from numpyro_svae.inference.local.adjoint import solve_adjoint

    flat, unravel = ravel_pytree(value)
    _, pull = jax.vjp(lambda y: ravel_pytree(sweep(unravel(y)))[0], flat)
    return solve_adjoint(lambda v: pull(v)[0], jnp.ones_like(flat))[1]
