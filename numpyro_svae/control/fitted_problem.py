# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Control of what a fitted model says, whether its steps are linear or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.control.bounds import check_bounds
from numpyro_svae.control.problem import Problem
from numpyro_svae.control.tracker import gaussian_path
from numpyro_svae.forecasting.filter import FilterState
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["FittedProblem"]


@dataclass(frozen=True)
class FittedProblem(Problem):
    """The dynamics of a fitted model, from what a filter knows of the state.

    Steps are those that the model itself takes, with its own function of the state and
    of the actions: of ``LinearGaussianChain``, ``NonlinearGaussianChain`` or a
    ``scan``. :meth:`of` draws the samples.

    :param cost: of a state ``(D,)`` and an action ``(A,)``; any JAX function.
    :param final: cost of the last state ``(D,)``.
    :param horizon: number T of actions.
    :param belief: a state of :func:`numpyro_svae.filter` for one sequence; its
        parameters are those that are used.
    :param draws: samples of the global sites, by site, with S leading.
    :param start: samples of the first state, ``(S, D)``.
    :param actions: name of the argument of the model that has the actions.
    :param num_actions: dimension A of an action.
    :param chain: the site of the path.
    :param lower: lower bounds of actions, ``(A,)`` or a number.
    :param upper: upper bounds of actions, likewise.
    :param known: the other arguments that the states depend on, by name, ``(T, ...)``.
    :param noise: standard normal, ``(S, T, D)``; scaled by the noise of the steps it is
        added to the states. None for the means alone.
    """

    cost: Callable[[Array, Array], Array]
    final: Callable[[Array], Array]
    horizon: int
    belief: FilterState
    draws: dict[str, Array]
    start: Array
    actions: str
    num_actions: int
    chain: str
    lower: Array | float
    upper: Array | float
    known: Mapping[str, Array]
    noise: Array | None

    @classmethod
    def of(
        cls,
        key: Array,
        belief: FilterState,
        cost: Callable[[Array, Array], Array],
        final: Callable[[Array], Array],
        horizon: int,
        *,
        actions: str = "actions",
        num_samples: int = 8,
        lower: Array | float = -jnp.inf,
        upper: Array | float = jnp.inf,
        known: Mapping[str, Array] | None = None,
        noisy: bool = False,
        at_mean: bool = False,
    ) -> FittedProblem:
        """Draw the global sites from their posterior, and the first state.

        :param key: random key.
        :param belief: a state of :func:`numpyro_svae.filter` for one sequence.
        :param cost: of a state ``(D,)`` and an action ``(A,)``.
        :param final: cost of the last state ``(D,)``.
        :param horizon: number T of actions.
        :param actions: name of the argument of the model that has the actions.
        :param num_samples: number S of samples.
        :param lower: lower bounds of actions, ``(A,)`` or a number.
        :param upper: upper bounds of actions, likewise.
        :param known: values of the other arguments that the states depend on, by name,
            such as the time between steps, ``(T, ...)``.
        :param noisy: whether the noise of the steps is drawn as well.
        :param at_mean: whether all samples start at the mean of the first state, which
            is then taken for certain. Plans that are made anew at each step answer
            draws as if they were seen: where a system is unstable, few draws are noise
            that drowns what should hold it.
        :raises ValueError: if the belief is not one of one Gaussian path of one
            sequence, an argument is missing or has another shape, or bounds are not
            those of an action.
        """
        known, setup = dict(known or {}), belief.setup
        given = {actions, *known}
        if given != setup.needed:
            raise ValueError(
                f"actions, known: found {sorted(given)}; accepted are the arguments of "
                f"the model that its states depend on, {sorted(setup.needed)}."
            )
        chain, marginal = gaussian_path(belief)
        if len(belief.beliefs) != 1:
            raise ValueError(
                f"belief: found chains {sorted(belief.beliefs)}; accepted is a filter "
                "of one Gaussian path. Switching systems are planned with samples of "
                "their paths, as ControlProblem."
            )
        own, first, other = random.split(key, 3)
        sample = partial(setup.guide._sample_globals, params=belief.params)
        draws = jax.vmap(sample)(random.split(own, num_samples))
        size = (num_samples, horizon, marginal.event_shape[-1])
        if at_mean:
            start = jnp.broadcast_to(marginal.mean[0], (num_samples, size[-1]))
        else:
            start = marginal.sample(first, (num_samples,))[:, 0]
        noise = random.normal(other, size, start.dtype) if noisy else None
        width = setup.width(actions)
        check_bounds(lower, upper, width)
        for name, value in known.items():
            _check_known(name, jnp.shape(value), horizon, setup.step_shape(name))
        rest = actions, width, chain, lower, upper, known, noise
        return cls(cost, final, horizon, belief, draws, start, *rest)

    def move(
        self, draws: dict[str, Array], x: Array, new: dict[str, Array]
    ) -> tuple[Array, Array]:
        """Mean and covariance of the next state, for one sample.

        :param draws: of the global sites.
        :param x: the state, ``(D,)``.
        :param new: by argument of the model, its value at this step.
        """
        belief, setup = self.belief, self.belief.setup
        new = {n: jnp.reshape(x, setup.step_shape(n)) for n, x in new.items()}
        (args, kwargs), _ = setup.window(belief.last, belief.fixed, new)
        structure = setup.guide.structure
        program = Program(
            setup.guide.model,
            args,
            kwargs,
            random.PRNGKey(0),
            belief.params,
            structure.scans,
            structure.shown,
        )
        message = plain_run(program, structure, draws)[self.chain]
        linear: Any = peel(message["fn"])[0]
        covariance = linear.transition_cov.reshape(
            -1, *linear.transition_cov.shape[-2:]
        )
        if "chain" in message:
            return message["chain"].means(x[None, None])[0, 0], covariance[0]
        matrix = linear.transition_matrix
        matrix = matrix.reshape(-1, *matrix.shape[-2:])[0]
        inputs = linear.inputs.reshape(-1, linear.inputs.shape[-1])[:1]
        return matrix @ jnp.concatenate([x, *inputs]), covariance[0]

    def given(self) -> tuple[dict[str, Array], tuple[dict[str, Array], Array | None]]:
        """Draws of the global sites, and by step what is known and the noise."""
        count = len(self.start)
        known = {
            name: jnp.broadcast_to(value, (count, *jnp.shape(value)))
            for name, value in self.known.items()
        }
        return self.draws, (known, self.noise)

    def step(
        self, sample: dict[str, Array], now: tuple, x: Array, action: Array
    ) -> Array:
        """The next state ``(D,)``, with its noise if there is one."""
        known, noise = now
        x, covariance = self.move(sample, x, {self.actions: action, **known})
        if noise is None:
            return x
        return x + jnp.linalg.cholesky(covariance) @ noise


def _check_known(
    name: str, found: tuple[int, ...], horizon: int, step: tuple[int, ...]
) -> None:
    """Values by step have the shape of an argument; one sequence may be left out.

    :raises ValueError: naming the argument.
    """
    own = step[1:] if step[:1] == (1,) else step
    if found not in ((horizon, *own), (horizon, *step)):
        raise ValueError(
            f"known: found shape {found} for '{name}'; accepted is {(horizon, *own)}, "
            f"its values at the {horizon} steps of a plan."
        )
