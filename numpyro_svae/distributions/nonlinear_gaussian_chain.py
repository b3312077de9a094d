# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A Markov chain with a transition that is any function, and Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from numpyro_svae.distributions.arguments import CheckedArguments
from numpyro_svae.distributions.chain_arguments import (
    canonical_arguments,
    check_takes,
    checked_lengths,
)
from numpyro_svae.distributions.linear_gaussian_chain import LinearGaussianChain

__all__ = ["NonlinearGaussianChain"]


class NonlinearGaussianChain(CheckedArguments):
    r"""Paths of a dynamical system with any transition function and Gaussian noise.

    .. math::

        x_0 \sim N(m, P), \qquad x_{t+1} \mid x_t \sim N(f(x_t, u_t),\, Q_t),
        \qquad t = 0, \ldots, T - 2

    The event is the path, shape ``(T, D)``.

    :param initial_loc: :math:`m`, shape ``(..., D)``.
    :param initial_cov: :math:`P`, shape ``(..., D, D)``.
    :param transition: :math:`f`, a JAX function of one state ``(D,)`` and of its inputs
        ``(A,)`` (an array without entries if there are none) that returns the mean of
        the next one, ``(D,)``. What it closes over may be traced and differentiated. A
        callable that is a pytree (such as ``jax.tree_util.Partial``) shows its arrays
        to ``jit`` and ``grad`` as those of the distribution.
    :param transition_cov: :math:`Q`, positive definite, shape ``(D, D)`` or
        ``(..., T - 1 or 1, D, D)``.
    :param inputs: :math:`u`, shape ``(..., T - 1, A)``, if any: actions, or the time
        between steps.
    :param num_steps: :math:`T`; needed where no argument has an axis of time that
        tells.
    :param lengths: number of states of each sequence, shape ``(...)``, if sequences are
        padded to ``T``. States of the padding are standard normal and independent.
    :raises ValueError: naming the argument, if shapes do not fit, or the transition
        returns another shape than ``(D,)``.
    """

    arg_constraints = {
        "initial_loc": constraints.real_vector,
        "initial_cov": constraints.positive_semidefinite,
        "transition_cov": constraints.independent(constraints.positive_definite, 1),
        "inputs": constraints.real_matrix,
    }
    support = constraints.real_matrix
    reparametrized_params = list(arg_constraints)
    pytree_aux_fields = ("whole_batch",)
    pytree_data_fields = (*arg_constraints, "transition", "scanned", "lengths")

    def __init__(
        self,
        initial_loc: ArrayLike,
        initial_cov: ArrayLike,
        transition: Callable[..., Array],
        transition_cov: ArrayLike,
        *,
        inputs: ArrayLike | None = None,
        num_steps: int | None = None,
        lengths: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not callable(transition):
            raise ValueError(
                f"transition: found {type(transition).__name__}; accepted is a "
                "function of a state (D,) and its inputs (A,) that returns the mean of "
                "the next state. A matrix is that of ns.LinearGaussianChain."
            )
        size = jnp.shape(initial_loc)[-1:]
        width = () if inputs is None else jnp.shape(inputs)[-1:]
        square = jnp.zeros((*size, sum(size) + sum(width)), int)
        args = initial_loc, initial_cov, square, transition_cov, inputs, num_steps
        arguments, event_shape = canonical_arguments(*args)
        del arguments["transition_matrix"]
        for name, value in arguments.items():
            setattr(self, name, value)
        self.transition = _as_tree(transition)
        self.scanned, self.whole_batch = None, False
        self.lengths = checked_lengths(lengths, False)
        super().__init__(self.inner_batch, event_shape, validate_args=validate_args)
        self._check_transition()

    @classmethod
    def of_steps(
        cls,
        initial: tuple[Array, Array],
        step: Callable[[Array, Any], Array],
        transition_cov: Array,
        scanned: Any,
        lengths: Array | None = None,
    ) -> NonlinearGaussianChain:
        """A chain whose steps are given for the whole batch at once, as scans do.

        :param initial: moments of the first state, with the whole batch.
        :param step: of states ``(..., D)`` and what belongs to one step.
        :param transition_cov: by step, ``(..., T - 1, D, D)``.
        :param scanned: what belongs to the steps, a tree of arrays with time leading.
        :param lengths: of the sequences, if they end before the last step.
        """
        args = *initial, _like, transition_cov
        steps: dict[str, Any] = {"num_steps": transition_cov.shape[-3] + 1}
        chain = cls(*args, **steps, lengths=lengths, validate_args=False)
        chain.transition, chain.whole_batch = _as_tree(step), True
        chain.scanned = scanned
        return chain

    @property
    def num_steps(self) -> int:
        """Number ``T`` of states."""
        return self.event_shape[0]

    @property
    def inner_batch(self) -> tuple[int, ...]:
        """The batch shape of the arguments as they are, under ``vmap`` inner."""
        return jnp.broadcast_shapes(
            jnp.shape(self.initial_loc)[:-1],
            jnp.shape(self.initial_cov)[:-2],
            jnp.shape(self.transition_cov)[:-3],
            jnp.shape(self.inputs)[:-2],
            () if self.lengths is None else jnp.shape(self.lengths),
        )

    # the transition

    def _check_transition(self) -> None:
        x = jnp.zeros(self.event_shape[1:], self.initial_loc.dtype)
        u = jnp.zeros(self.inputs.shape[-1:], self.inputs.dtype)
        check_takes(self.transition, x, u)
        found = jax.eval_shape(self.transition, x, u)
        shape = getattr(found, "shape", None)
        if shape != x.shape:
            raise ValueError(
                f"transition: found a result of shape {shape} for a state of shape "
                f"{x.shape} and inputs of shape {u.shape}; accepted is {x.shape}, the "
                "mean of the next state."
            )

    def steps(self) -> Any:
        """What the steps take besides the state, with time leading."""
        if self.whole_batch:
            return self.scanned
        return jnp.moveaxis(self.inputs, -2, 0)

    def step(self, x: Array, u: Any) -> Array:
        """The means after one step.

        :param x: states, of shape ``(..., D)`` with a batch that has that of the chain.
        :param u: what :meth:`steps` says of the step.
        """
        batch = self.inner_batch
        if self.whole_batch:
            lead = x.shape[: x.ndim - 1 - len(batch)]
            flat = x.reshape(math.prod(lead), *x.shape[len(lead) :])
            found = jax.vmap(lambda v: self.transition(v, u))(flat)
            return found.reshape(x.shape)
        u = jnp.broadcast_to(u, x.shape[:-1] + u.shape[-1:])
        number = math.prod(x.shape[:-1])
        rows = (leaf.reshape(number, leaf.shape[-1]) for leaf in (x, u))
        return jax.vmap(self.transition)(*rows).reshape(x.shape)

    def means(self, states: Array) -> Array:
        """The means after each of some states.

        :param states: of shape ``(..., T - 1, D)``, with a batch that has that of the
            chain.
        """
        if self.num_steps == 1:
            return states
        found = jax.vmap(self.step)(jnp.moveaxis(states, -2, 0), self.steps())
        return jnp.moveaxis(found, 0, -2)

    # sampling and density

    def _exists(self) -> Array:
        """Which states are no padding."""
        if self.lengths is None:
            return jnp.ones((self.num_steps,), bool)
        return jnp.arange(self.num_steps) < self.lengths[..., None]

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw paths, differentiable in all arguments.

        :return: shape ``sample_shape + batch_shape + (T, D)``.
        """
        shape = sample_shape + self.inner_batch + self.event_shape
        key, own = jax.random.split(key)
        noise = jax.random.normal(own, shape, self.initial_loc.dtype)
        first = LinearGaussianChain(  # whose covariance may be singular
            self.initial_loc,
            self.initial_cov,
            jnp.zeros_like(self.initial_cov, shape=self.initial_cov.shape[-2:]),
            jnp.eye(shape[-1], dtype=noise.dtype),
            num_steps=1,
            validate_args=False,
        )
        drawn = first.expand(self.inner_batch).sample(key, sample_shape)[..., 0, :]
        exists = self._exists()[..., 0, None]
        start = jnp.where(exists, drawn, noise[..., 0, :])
        return self.drive(start, noise[..., 1:, :])

    def drive(self, start: Array, noise: Array, whole: bool = False) -> Array:
        """The paths that begin at some states and are driven by standard normal noise.

        :param start: states, of shape ``(..., D)``, with the batch of the chain.
        :param noise: of shape ``(..., T - 1, D)``.
        :param whole: whether paths have no end before the last step.
        """
        if self.num_steps == 1:
            return start[..., None, :]
        root = jnp.linalg.cholesky(self.transition_cov)
        kicks = jnp.squeeze(root @ noise[..., None], -1)
        exists = self._exists()[..., 1:, None] | whole
        over = [kicks, noise, jnp.broadcast_to(exists, kicks.shape)]
        over = [jnp.moveaxis(leaf, -2, 0) for leaf in over]

        def move(x: Array, given: Any) -> tuple[Array, Array]:
            (kick, plain, here), u = given
            x = jnp.where(here, self.step(x, u) + kick, plain)
            return x, x

        _, path = lax.scan(move, start, (over, self.steps()))
        path = jnp.concatenate([start[None], path])
        return jnp.moveaxis(path, 0, -2)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        r"""The sum of :math:`\log N(x_0; m, P)` and
        :math:`\log N(x_{t+1}; f(x_t, u_t), Q_t)`."""
        batch = self.inner_batch
        shape = jnp.broadcast_shapes(jnp.shape(value)[:-2], batch)
        value = jnp.broadcast_to(value, shape + self.event_shape)
        plain = _log_normal(value, jnp.eye(self.event_shape[1], dtype=value.dtype))
        first = _log_normal(value[..., 0, :] - self.initial_loc, self.initial_cov)
        residual = value[..., 1:, :] - self.means(value[..., :-1, :])
        steps = _log_normal(residual, self.transition_cov)
        terms = jnp.concatenate([first[..., None], steps], -1)
        return jnp.sum(jnp.where(self._exists(), terms, plain), -1)

    def entropy(self) -> Array:
        r""":math:`\frac{TD}{2} \log 2\pi e + \frac12 \log\det P + \frac12 \sum_t
        \log\det Q_t`, whatever the transition is."""
        num_steps, size = self.event_shape
        batch = self.inner_batch
        root = jnp.linalg.cholesky(self.initial_cov)
        first = jnp.sum(jnp.log(jnp.diagonal(root, 0, -1, -2)), -1)
        root = jnp.linalg.cholesky(self.transition_cov)
        steps = jnp.sum(jnp.log(jnp.diagonal(root, 0, -1, -2)), -1)
        first = jnp.broadcast_to(first[..., None], (*batch, 1))
        steps = jnp.broadcast_to(steps, (*batch, num_steps - 1))
        both = jnp.where(self._exists(), jnp.concatenate([first, steps], -1), 0.0)
        constant = 0.5 * num_steps * size * (1 + math.log(2 * math.pi))
        return jnp.sum(both, -1) + constant


def _log_normal(x: Array, cov: Array) -> Array:
    """Log density of vectors about zero."""
    root = jnp.linalg.cholesky(cov)
    batch = jnp.broadcast_shapes(x.shape[:-1], root.shape[:-2])
    full = jnp.broadcast_to(root, (*batch, *root.shape[-2:]))
    x = jnp.broadcast_to(x, (*batch, x.shape[-1]))[..., None]
    white = lax.linalg.triangular_solve(full, x, left_side=True, lower=True)
    log_det = jnp.sum(jnp.log(jnp.diagonal(root, 0, -1, -2)), -1)
    squares = jnp.sum(white**2, (-2, -1))
    return -0.5 * (squares + x.shape[-2] * math.log(2 * math.pi)) - log_det


def _like(x: Array, u: Array) -> Array:
    """A transition that stands where steps are given for a whole batch."""
    return x


def _as_tree(transition: Callable) -> Callable:
    """A callable as a pytree, whose arrays are seen where it has any."""
    leaves = jax.tree.leaves(transition)
    if any(leaf is transition for leaf in leaves):
        return jax.tree_util.Partial(transition)
    return transition
