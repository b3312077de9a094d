# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A discrete Markov chain as one NumPyro distribution over its whole path."""

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import validate_sample

from numpyro_svae.blocks import discrete_chain
from numpyro_svae.blocks.discrete_chain import safe_log
from numpyro_svae.distributions.arguments import CheckedArguments
from numpyro_svae.potentials import CategoricalPotential

__all__ = ["DiscreteMarkovChain"]


class DiscreteMarkovChain(CheckedArguments):
    r"""Paths of a Markov chain over K states.

    .. math::

        z_0 \sim \mathrm{Cat}(\pi), \qquad z_{t+1} \mid z_t \sim
        \mathrm{Cat}(P_t[z_t]), \qquad t = 0, \ldots, T - 2

    The event is the path, shape ``(T,)``. An axis of time precedes the matrix of
    transitions; a matrix without it is the same for all steps.

    :param initial_probs: :math:`\pi`, shape ``(..., K)``.
    :param transition_probs: :math:`P`, with rows that sum to one, shape ``(K, K)`` or
        ``(..., T - 1 or 1, K, K)``.
    :param num_steps: :math:`T`; needed where the transitions have no axis of time. One
        step there is all there are, unless this says otherwise.
    :param lengths: number of steps of each sequence, shape ``(...)``, if sequences are
        padded to ``T``. States of the padding are uniform and independent of all else.
    :raises ValueError: if shapes do not fit.
    """

    arg_constraints = {
        "initial_probs": constraints.simplex,
        "transition_probs": constraints.independent(constraints.simplex, 2),
    }
    pytree_data_fields = (*arg_constraints, "lengths")
    has_enumerate_support = False

    def __init__(
        self,
        initial_probs: ArrayLike,
        transition_probs: ArrayLike,
        num_steps: int | None = None,
        *,
        lengths: ArrayLike | None = None,
        validate_args: bool | None = None,
    ):
        dtype = jnp.result_type(initial_probs, transition_probs, float)
        with jax.ensure_compile_time_eval():  # constants are checked under jit too
            initial = jnp.asarray(initial_probs, dtype)
            transition = jnp.asarray(transition_probs, dtype)
            self.initial_probs = initial
            self.transition_probs = _with_time(transition, initial.shape)
        steps = _count_steps(transition.shape, num_steps)
        self.lengths = None if lengths is None else jnp.asarray(lengths)
        super().__init__(self._batch(), (steps,), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Paths of whole numbers below K."""
        last = self.num_states - 1
        return constraints.independent(constraints.integer_interval(0, last), 1)

    @property
    def num_steps(self) -> int:
        """Number ``T`` of states."""
        return self.event_shape[0]

    @property
    def num_states(self) -> int:
        """Number ``K`` of values of a state."""
        return jnp.shape(self.initial_probs)[-1]

    @property
    def log_transition_probs(self) -> Array:
        """Logs of the transitions, of the same shape."""
        return safe_log(self.transition_probs)

    def _batch(self) -> tuple[int, ...]:
        return jnp.broadcast_shapes(
            jnp.shape(self.initial_probs)[:-1],
            jnp.shape(self.transition_probs)[:-3],
            jnp.shape(self.lengths) if self.lengths is not None else (),
        )

    def _chain(self) -> tuple[Array, Array]:
        """Probabilities of the first state and of the steps, padding included."""
        if self.lengths is None:
            return self.initial_probs, self.transition_probs
        exists = self.lengths[..., None] > jnp.arange(self.num_steps)
        uniform = 1.0 / self.num_states
        initial = jnp.where(exists[..., :1], self.initial_probs, uniform)
        later = exists[..., 1:, None, None]
        return initial, jnp.where(later, self.transition_probs, uniform)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw paths.

        :return: integers of shape ``sample_shape + batch_shape + (T,)``.
        """
        shape = sample_shape + self._batch() + self.event_shape
        uniforms = jax.random.uniform(key, shape, self.initial_probs.dtype)
        return discrete_chain.sample_paths(*self._chain(), uniforms)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        r"""The sum of :math:`\log \pi[z_0]` and :math:`\log P_t[z_t, z_{t+1}]`."""
        batch = jnp.broadcast_shapes(jnp.shape(value)[:-1], self._batch())
        value = jnp.broadcast_to(value, batch + self.event_shape).astype(int)
        initial, transition = self._chain()
        return discrete_chain.log_density(
            safe_log(initial), safe_log(transition), value
        )

    @property
    def probs(self) -> Array:
        """Marginal probabilities of the states, shape ``(..., T, K)``."""
        found = discrete_chain.marginals(*self._chain(), self.num_steps)
        return jnp.broadcast_to(found, self._batch() + found.shape[-2:])

    @property
    def neighbor_probs(self) -> Array:
        """Probabilities of ``(z_t, z_{t+1})``, shape ``(..., T - 1, K, K)``."""
        return discrete_chain.pair_probs(self.probs, self._chain()[1])

    def entropy(self) -> Array:
        """Entropy of the path, shape ``(...)``."""
        found = discrete_chain.entropy(*self._chain(), self.num_steps)
        return jnp.broadcast_to(found, self._batch())

    @property
    def mode(self) -> Array:
        """The most probable path, shape ``(..., T)``."""
        initial, transition = self._chain()
        nothing = jnp.zeros((*self._batch(), self.num_steps, self.num_states))
        return discrete_chain.mode(safe_log(initial), safe_log(transition), nothing)

    def condition(
        self, potential: CategoricalPotential
    ) -> tuple["DiscreteMarkovChain", Array]:
        r"""Multiply the probability by :math:`\exp \sum_t \psi_t(z_t)` and normalise.

        :param potential: batch shape ``(..., T)`` that broadcasts with the chain's.
        :return: the exact posterior, and :math:`\log E[\exp \sum_t \psi_t(z_t)]` under
            this chain, shape ``(...)``.
        :raises ValueError: if the potential is for other shapes.
        """
        found = potential.batch_shape[-1:], potential.num_states
        if found != (self.event_shape, self.num_states):
            raise ValueError(
                f"potential: found batch shape {potential.batch_shape} and "
                f"{potential.num_states} states; accepted are (..., {self.num_steps}) "
                f"and {self.num_states} states."
            )
        initial, transition = self._chain()
        posterior = discrete_chain.smooth(
            safe_log(initial), safe_log(transition), potential.logits
        )
        chain = DiscreteMarkovChain(
            posterior.initial_probs,
            posterior.transition_probs,
            self.num_steps,
            validate_args=False,
        )
        return chain, posterior.log_normalizer


def _with_time(transition: Array, initial_shape: tuple[int, ...]) -> Array:
    if not initial_shape:
        raise ValueError("initial_probs: found a scalar; accepted is (..., K).")
    size = initial_shape[-1]
    if transition.ndim < 2 or transition.shape[-2:] != (size, size):
        raise ValueError(
            f"transition_probs: found shape {transition.shape} with initial_probs of "
            f"shape {initial_shape}; accepted are ({size}, {size}) and "
            f"(..., T - 1 or 1, {size}, {size})."
        )
    return transition[None] if transition.ndim == 2 else transition


def _count_steps(shape: tuple[int, ...], num_steps: int | None) -> int:
    """``T``: one step may stand for all; where nothing says how many, it is one."""
    told = shape[-3] if len(shape) > 2 else None
    if num_steps is None:
        if told is not None:
            return told + 1
        raise ValueError(
            "num_steps: found none, and the transitions are the same at all steps; "
            "accepted is the number of steps."
        )
    if num_steps < 1 or told not in (None, 1, num_steps - 1):
        raise ValueError(
            f"num_steps: found {num_steps} with transitions of {told} steps; accepted "
            "is one more than the steps of the transitions."
        )
    return num_steps


@kl_divergence.register(DiscreteMarkovChain, DiscreteMarkovChain)
def _kl_chain_chain(p: DiscreteMarkovChain, q: DiscreteMarkovChain) -> Array:
    """Expected divergence of the conditionals."""
    sizes = [(chain.num_steps, chain.num_states) for chain in (p, q)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"q: found (steps, states) = {sizes[1]}; accepted is that of p, {sizes[0]}."
        )
    found = discrete_chain.kl_divergence(p._chain(), q._chain(), p.num_steps)
    return jnp.broadcast_to(found, jnp.broadcast_shapes(p._batch(), q._batch()))
