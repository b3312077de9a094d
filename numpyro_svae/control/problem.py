# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is to be controlled, and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.control.bounds import check_bounds

__all__ = ["ControlProblem", "PiecewiseProblem", "Problem"]


class Problem:
    """What planners plan: S samples of paths under actions, and what these cost.

    A kind of problem has the parameters below, :meth:`given` and :meth:`step`.

    :param cost: of a state ``(D,)`` and an action ``(A,)``.
    :param final: cost of the last state ``(D,)``.
    :param horizon: number T of actions.
    :param start: samples of the first state, ``(S, D)``.
    :param lower: lower bounds of actions, ``(A,)`` or a number.
    :param upper: upper bounds of actions, likewise.
    """

    cost: Callable[[Array, Array], Array]
    final: Callable[[Array], Array]
    horizon: int
    start: Array
    lower: Array | float
    upper: Array | float
    num_actions: int

    def given(self) -> tuple[Any, Any]:
        """What steps depend on beside states and actions: two pytrees.

        :return: what a sample has, with S leading, and what a sample has at each step,
            with ``(S, T)`` leading.
        """
        raise NotImplementedError

    def step(self, sample: Any, now: Any, x: Array, action: Array) -> Array:
        """The next state ``(D,)`` of one sample.

        :param sample: what :meth:`given` has for it.
        :param now: what it has at this step.
        :param x: the state, ``(D,)``.
        :param action: the action, ``(A,)``.
        """
        raise NotImplementedError

    def rollout(self, actions: Array) -> Array:
        """Paths ``(S, T + 1, D)`` under actions ``(T, A)``."""

        def path(sample: Any, given: Any, start: Array) -> Array:
            def step(x: Array, now: tuple) -> tuple[Array, Array]:
                x = self.step(sample, now[0], x, now[1])
                return x, x

            _, later = lax.scan(step, start, (given, actions), self.horizon)
            return jnp.concatenate([start[None], later])

        return jax.vmap(path)(*self.given(), self.start)

    def clip(self, actions: Array) -> Array:
        """The nearest actions within the bounds."""
        return jnp.clip(actions, self.lower, self.upper)

    def expected_cost(self, actions: Array) -> Array:
        """Mean cost of actions ``(T, A)`` over the samples."""
        return self.path_cost(actions, self.rollout(actions))

    def path_cost(self, actions: Array, paths: Array) -> Array:
        """Mean cost of actions ``(T, A)`` that lead to paths ``(S, T + 1, D)``."""

        def total(path: Array) -> Array:
            steps = jax.vmap(self.cost)(path[:-1], actions)
            return jnp.sum(steps) + self.final(path[-1])

        return jnp.mean(jax.vmap(total)(paths))


@dataclass(frozen=True)
class ControlProblem(Problem):
    """Dynamics ``x' = F [x; action; known] + disturbance``, a start, and a cost.

    What is uncertain is given by S samples; a plan is judged by its mean cost over
    them. Samples of the dynamics come from the posterior of their prior, those of a
    switching system from sampled paths of its discrete states, and samples of the start
    from the filtered state. Make the problem inside of what is compiled:

    .. code-block:: python

        posterior = guide.get_posterior(params)["dynamics"]
        weight, cov = posterior.unpack(posterior.sample(key, (32,)))


        @jax.jit
        def act(start):
            problem = ControlProblem(cost, cost.final, 20, weight, start, -2.0, 2.0)
            return plan_by_gradient(problem).actions[0]

    :param cost: of a state ``(D,)`` and an action ``(A,)``; any JAX function, for
        instance one of the decoded state, or a learnt one.
    :param final: cost of the last state ``(D,)``.
    :param horizon: number T of actions.
    :param weight: samples of F, ``(S, D, D + A + E)``, or ``(S, T, D, D + A + E)`` if
        they change with time.
    :param start: samples of the first state, ``(S, D)``.
    :param lower: lower bounds of actions, ``(A,)`` or a number.
    :param upper: upper bounds of actions, likewise.
    :param known: inputs after the actions that are known beforehand, ``(T, E)`` or
        ``(E,)``, such as the constant of a bias.
    :param disturbance: samples of the noise, ``(S, T, D)``.
    :raises ValueError: if shapes do not fit.
    """

    cost: Callable[[Array, Array], Array]
    final: Callable[[Array], Array]
    horizon: int
    weight: Array
    start: Array
    lower: Array | float = -jnp.inf
    upper: Array | float = jnp.inf
    known: Array | None = None
    disturbance: Array | None = None

    _pieces: ClassVar[str] = ""  # what is between samples, or steps, and matrices

    def __post_init__(self) -> None:
        size, pieces = self.start.shape[-1], self._pieces
        extra = self.weight.ndim - self._rank
        if extra not in (1, 2) or self.start.ndim != 2:
            raise ValueError(
                f"weight, start: found shapes {self.weight.shape} and "
                f"{self.start.shape}; accepted are (S, {pieces}D, D + A + E) or "
                f"(S, T, {pieces}D, D + A + E), and (S, D)."
            )
        extra = 0 if self.known is None else jnp.shape(self.known)[-1]
        if self.weight.shape[-2] != size or self.weight.shape[-1] <= size + extra:
            raise ValueError(
                f"weight: found matrices of shape {self.weight.shape[-2:]} for states "
                f"of dimension {size} and {extra} known inputs; accepted are "
                f"({size}, {size} + number of actions + {extra})."
            )
        check_bounds(self.lower, self.upper, self.num_actions)

    @property
    def _rank(self) -> int:
        """Number of axes of the weight of a sample at a step."""
        return 3 if self._pieces else 2

    @property
    def num_actions(self) -> int:  # type: ignore[override]
        """Dimension A of an action."""
        extra = 0 if self.known is None else jnp.shape(self.known)[-1]
        return self.weight.shape[-1] - self.start.shape[-1] - extra

    def move(self, weight: Array, x: Array, inputs: Array) -> Array:
        """Mean of the next state, for one sample; override it for other dynamics.

        :param weight: the sample of F, ``(D, D + A + E)``.
        :param x: the state, ``(D,)``.
        :param inputs: the action and what is known, ``(A + E,)``.
        """
        size = x.shape[-1]
        return weight[:, :size] @ x + weight[:, size:] @ inputs

    def given(self) -> tuple[None, tuple[Array, Array, Array]]:
        """Nothing, and by step the sample of F, what is known and the disturbance."""
        lead, size = (len(self.weight), self.horizon), self.start.shape[-1]
        known = jnp.zeros(0, self.weight.dtype) if self.known is None else self.known
        noise = self.disturbance
        if noise is None:
            noise = jnp.zeros((*lead, size), self.weight.dtype)
        weight = self.weight
        if weight.ndim == self._rank + 1:
            weight = weight[:, None]
        weight = jnp.broadcast_to(weight, (*lead, *weight.shape[2:]))
        return None, (weight, jnp.broadcast_to(known, (*lead, known.shape[-1])), noise)

    def step(self, sample: None, now: tuple, x: Array, action: Array) -> Array:
        """The next state ``(D,)``, with its disturbance."""
        weight, known, noise = now
        return self.move(weight, x, jnp.concatenate([action, known])) + noise


@dataclass(frozen=True)
class PiecewiseProblem(ControlProblem):
    """Dynamics that are linear in pieces of the space of states.

    Which of the K pieces a state is in may be uncertain; it moves by the mean of their
    matrices. A classifier that is learnt with the model makes it a system whose
    regimes the state itself decides.

    :param weight: samples of F, ``(S, K, D, D + A + E)``, or with steps,
        ``(S, T, K, D, D + A + E)``.
    :param pieces: maps a state ``(D,)`` to probabilities of the pieces, ``(K,)``.

    The other parameters are those of :class:`ControlProblem`.
    """

    pieces: Callable[[Array], Array] = field(kw_only=True)

    _pieces: ClassVar[str] = "K, "

    def move(self, weight: Array, x: Array, inputs: Array) -> Array:
        """Mean of the next state, for one sample.

        :param weight: the sample of F, ``(K, D, D + A + E)``.
        :param x: the state, ``(D,)``.
        :param inputs: the action and what is known, ``(A + E,)``.
        """
        return super().move(jnp.tensordot(self.pieces(x), weight, 1), x, inputs)
