# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds of actions, and what an environment takes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Bounds", "actuator", "check_bounds"]

_VECTORS = (
    "Write an environment whose actions are vectors and that chooses by them, such as "
    "gymnasium.wrappers.TransformAction(env, lambda a: int(a[0] > 0), "
    "gymnasium.spaces.Box(-1, 1, (1,)))"
)
_ROUNDING = 1e-5


class Bounds(NamedTuple):
    """Bounds of actions.

    :param lower: ``(A,)``.
    :param upper: ``(A,)``.
    """

    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def of(cls, found: Any, num_actions: int | None = None) -> Bounds:
        """Read bounds.

        :param found: a Box of gymnasium, such as ``env.action_space``; a pair of lower
            and upper bounds, each ``(A,)`` or a number; or None, for no bounds.
        :param num_actions: dimension A of an action; by default that of what is found.
        :raises TypeError: if it is a space of other actions.
        :raises ValueError: if it has another shape, or the lower bounds are not below
            the upper ones.
        """
        if found is None:
            found = -np.inf, np.inf
        elif hasattr(found, "low") and hasattr(found, "high"):
            found = found.low, found.high
        elif hasattr(found, "n") or not isinstance(found, tuple | list):
            raise TypeError(
                f"bounds: found {found}; accepted is a Box, as actions are vectors, or "
                f"a pair of lower and upper bounds. {_VECTORS}."
            )
        lower, upper = (np.asarray(bound, np.float32) for bound in found)
        if num_actions is None:
            num_actions = max(lower.size, upper.size)
        check_bounds(lower, upper, num_actions)
        shape = (num_actions,)
        return cls(np.broadcast_to(lower, shape), np.broadcast_to(upper, shape))

    @property
    def finite(self) -> bool:
        """Whether all of them are."""
        return bool(np.isfinite(self.lower).all() and np.isfinite(self.upper).all())

    def scale(self, action: np.ndarray) -> np.ndarray:
        """The action between the bounds that one between -1 and 1 stands for."""
        return self.lower + 0.5 * (action + 1) * (self.upper - self.lower)


def check_bounds(lower: Any, upper: Any, num_actions: int) -> None:
    """Bounds must be those of actions of a size.

    :param lower: ``(A,)`` or a number.
    :param upper: likewise.
    :param num_actions: dimension A of an action.
    :raises ValueError: naming the bound that is not.
    """
    for name, bound in {"lower": lower, "upper": upper}.items():
        if np.shape(bound) not in ((), (1,), (num_actions,)):
            raise ValueError(
                f"{name}: found bounds of shape {np.shape(bound)} for actions of shape "
                f"({num_actions},); accepted is ({num_actions},), or a number."
            )
    known = isinstance(lower, float | int | np.ndarray)
    known = known and isinstance(upper, float | int | np.ndarray)
    if known and not np.all(np.asarray(lower) < np.asarray(upper)):
        raise ValueError(
            f"lower, upper: found {lower} and {upper}; accepted are lower bounds that "
            "are below the upper ones."
        )


def actuator(space: Any, scaled: bool) -> Callable[[Any], Any]:
    """What maps the action of an agent to that of an environment, and checks it.

    :param space: the action space of the environment; None if it has none.
    :param scaled: whether actions between -1 and 1 are scaled to its bounds.
    """
    if hasattr(space, "low") and hasattr(space, "high"):
        return _Vectors(space, scaled)
    if scaled:
        raise TypeError(
            f"env.action_space: found {space}, with scaled=True; accepted is a Box. "
            f"{_VECTORS}, or leave scaled out."
        )
    return _Choices(space) if hasattr(space, "n") else lambda action: action


@dataclass(frozen=True)
class _Vectors:
    """Actions of a Box."""

    space: Any
    scaled: bool

    def __call__(self, action: Any) -> np.ndarray:
        action, space = np.asarray(action), self.space
        low, high = (-1.0, 1.0) if self.scaled else (space.low, space.high)
        slack = _ROUNDING * (1 + np.abs(action))
        if action.shape != space.shape or not (
            np.all(action >= low - slack) and np.all(action <= high + slack)
        ):
            wanted = "between -1 and 1, with scaled=True" if self.scaled else str(space)
            raise ValueError(
                f"An action: found {action}, of shape {action.shape}; accepted is "
                f"shape {space.shape}, {wanted}. Give the agent "
                "bounds=env.action_space, or (-1, 1) and run_episode scaled=True."
            )
        action = np.clip(action, low, high)
        if self.scaled:
            action = Bounds(space.low, space.high).scale(action)
        return action.astype(space.dtype)


@dataclass(frozen=True)
class _Choices:
    """Actions of a Discrete space."""

    space: Any

    def __call__(self, action: Any) -> Any:
        found, space = np.asarray(action), self.space
        first = int(getattr(space, "start", 0))
        whole = found.shape == () and np.issubdtype(found.dtype, np.integer)
        if not whole or not first <= int(found) < first + int(space.n):
            raise TypeError(
                f"An action: found {found}, of shape {found.shape} and type "
                f"{found.dtype}; accepted is a whole number of env.action_space, "
                f"{space}. {_VECTORS}, if the agent's actions are vectors."
            )
        return int(found)
