# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Follows the latent state of a fitted model by what an agent sees and does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.control.episodes import observed
from numpyro_svae.forecasting.filter import FilterState, read_filter
from numpyro_svae.forecasting.filter_window import Belief
from numpyro_svae.guide import AutoSVAE

__all__ = ["Tracker", "gaussian_path"]


class Tracker:
    """Follows the latent state of a fitted model by what is seen and done.

    The first belief of an episode is that of the first observation and of the prior of
    first states. Nothing has to be made up for it: shapes are read off the first
    observation, and what is not known while acting, such as rewards, is not given.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`. Another
        fit needs no other tracker: set ``params``, and they are used from the next
        episode on. Nothing is compiled for them.
    :param arguments: maps observations ``(1, T, ...)`` and the actions between them
        ``(1, T - 1, A)`` to the arguments of the model, by name: the same function as
        for training, where there are more sequences. Leave out what is not known, such
        as rewards, if it is None in the model by default, or return None for it.
    :param num_actions: dimension A of an action.

    **Example**

    .. code-block:: python

        def model(y, actions, rewards=None): ...

        def arguments(observations, actions):
            return {"y": observations, "actions": actions}

        tracker = Tracker(model, guide, params, arguments, num_actions=1)
        goal = tracker.latent_goal(picture)
    """

    def __init__(
        self,
        model: Callable,
        guide: AutoSVAE,
        params: dict[str, Any],
        arguments: Callable[[Array, Array], dict[str, Any]],
        num_actions: int,
    ) -> None:
        self.model, self.guide, self.params = model, guide, params
        self.arguments, self.num_actions = arguments, num_actions
        self._blank: FilterState | None = None

    def begin(self, observation: Any) -> FilterState:
        """What is known when an episode begins.

        :param observation: the first one.
        """
        return self._first(observation, None)

    def update(
        self, belief: FilterState, last: Any, action: Any, observation: Any
    ) -> FilterState:
        """What is known one step later.

        :param belief: what was known.
        :param last: the observation then.
        :param action: what was done ``(A,)``.
        :param observation: what is seen now.
        """
        found = self._given([last, observation], [action])
        return belief.update(**belief.setup.last_of(found))

    def latent_goal(
        self, observation: Any, spread: float = 10.0
    ) -> dist.MultivariateNormal:
        """The latent state of an observation by itself, such as of a goal picture.

        Nothing else is taken to be known of the state, neither from the prior of first
        states nor from the past. Of what one observation does not show, such as
        velocities, the mean is zero.

        :param observation: what would be seen at the goal.
        :param spread: standard deviation of states before it is seen, large beside what
            states are.
        :return: the state, ``(D,)``.
        :raises ValueError: if the model has not one Gaussian path.
        """
        near = self._first(observation, None)
        site, marginal = gaussian_path(near)
        dim = marginal.event_shape[-1]
        wide = Belief(
            jnp.zeros_like(marginal.mean),
            jnp.broadcast_to(
                spread**2 * jnp.eye(dim, dtype=marginal.mean.dtype), (1, dim, dim)
            ),
        )
        found = self._first(observation, {**near.beliefs, site: wide})
        return dist.MultivariateNormal(*(part[0] for part in found.beliefs[site]))

    def _first(self, observation: Any, before: dict[str, Any] | None) -> FilterState:
        if self._blank is None:
            nothing = np.zeros(self.num_actions, np.float32)
            shapes = self._given([observation, observation], [nothing])
            self._blank, _ = read_filter(
                self.model, self.guide, self.params, (), shapes
            )
        blank = replace(self._blank, params=dict(self.params))
        first = blank.setup.first_of(self._given([observation], []))
        return blank.begin(before, **first)

    def _given(self, observations: list, actions: list) -> dict[str, Any]:
        """The arguments of the model for some steps of one sequence."""
        seen = jnp.asarray(np.stack([observed(x) for x in observations]))
        shape = len(actions), self.num_actions
        done = jnp.asarray(np.reshape(actions, shape), float)
        return self.arguments(seen[None], done[None])


def gaussian_path(belief: FilterState) -> tuple[str, Any]:
    """The site of the Gaussian path that a filter follows, and its marginal now.

    :param belief: a state of :func:`numpyro_svae.filter` for one sequence.
    :raises ValueError: if there is not one such path, or not one sequence.
    """
    paths = {
        name: marginal
        for name, marginal in belief.marginals.items()
        if not marginal.support.is_discrete
    }
    if len(paths) != 1:
        raise ValueError(
            f"belief: found chains {sorted(belief.beliefs)}; accepted is a filter of "
            "one Gaussian path."
        )
    ((name, marginal),) = paths.items()
    if marginal.batch_shape != (1,):
        raise ValueError(
            f"belief: found sequences of shape {marginal.batch_shape}; accepted is a "
            "filter of one sequence, of shape (1,)."
        )
    return name, marginal
