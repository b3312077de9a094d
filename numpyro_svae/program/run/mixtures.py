# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures that are data, shown with a label that picks one of their components.

A mixture is what is left of a label and a component when the label is summed over. The
posterior of the label is known in closed form where the component is conjugate, so the
bound is that of the program in which the label is a latent site.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.discrete import ZeroInflatedProbs
from numpyro.distributions.util import lazy_property
from numpyro.primitives import Messenger

from numpyro_svae.program.run.wrappers import Layer, peel

__all__ = ["Labelled", "component_name", "mixture_of"]


def component_name(name: str) -> str:
    """Name of the label of a mixture.

    :param name: of the site of the mixture.
    """
    return f"{name}_component"


class Mixture(NamedTuple):
    """A mixture as its label and its components.

    :param label: the distribution of the label.
    :param at: the component in a state of the label, but for its batch shape.
    """

    label: Any
    at: Callable[[Array], Any]


def mixture_of(fn: Any) -> Mixture | None:
    """The label and the components of a mixture.

    :param fn: a distribution.
    :return: None if it is no mixture, one with a label for each entry of an event, or
        one of which the components are not of one class; of what zeros are mixed with,
        one that is not Poisson.
    """
    layer = Layer.of(fn)
    if layer is not None:
        return None if layer.added else mixture_of(layer.inner)
    components = None
    if isinstance(fn, dist.MixtureSameFamily):
        components = fn.component_distribution
    elif isinstance(fn, dist.MixtureGeneral):
        components = _stacked(fn.component_distributions, 0)
    elif isinstance(fn, ZeroInflatedProbs):
        base = peel(fn.base_dist)[0]
        if isinstance(base, dist.Poisson):
            return Mixture(dist.BernoulliProbs(fn.gate), partial(_or_zero, base.rate))
    if components is None:
        return None
    return Mixture(fn.mixing_distribution, partial(_at, components, added=0))


def _or_zero(rate: Array, state: Array) -> Any:
    """Counts with a rate in one state of a label, and none in the other."""
    return dist.Poisson(jnp.where(state == 1, 0.0, rate), validate_args=False)


def _stacked(fns: list[Any], added: int) -> Any:
    """Distributions of one class as one, along its last batch dimension; None if they
    are of several, or masked.

    :param added: how many of their batch dimensions are events.
    """
    layers = [layer for fn in fns if (layer := Layer.of(fn)) is not None]
    if len({type(fn) for fn in fns}) > 1 or any(x.mask is not None for x in layers):
        return None
    if layers:
        more, shape = layers[0].added, layers[0].shape or ()
        inner = _stacked([layer.inner for layer in layers], added + more)
        if inner is None or more:
            return inner and inner.to_event(more)
        events = shape[len(shape) - added :]
        return inner.expand(
            inner.batch_shape[: len(inner.batch_shape) - added] + events
        )
    own: dict[str, Any] = {}
    for name in _own_parameters(fns[0]):
        behind = added + fns[0].arg_constraints[name].event_dim
        values = [jnp.asarray(getattr(fn, name)) for fn in fns]
        rank = max(behind, *(value.ndim for value in values))
        values = [jnp.expand_dims(v, tuple(range(rank - v.ndim))) for v in values]
        own[name] = jnp.stack(jnp.broadcast_arrays(*values), rank - behind)
    return type(fns[0])(**own, validate_args=False)


def _own_parameters(fn: Any) -> list[str]:
    """Names of the parameters of a distribution that it does not compute."""
    return [
        name
        for name in fn.get_args()
        if not isinstance(getattr(type(fn), name, None), lazy_property)
    ]


class Labelled(Messenger):
    """Runs a program in which mixtures have labels.

    :param fn: the program.
    :param names: the sites of the mixtures, which are observed.
    """

    def __init__(self, fn: Any, names: Collection[str]) -> None:
        super().__init__(fn)
        self.names = frozenset(names)

    def process_message(self, msg: dict) -> None:
        """Sample the label of a mixture, and give its site the component."""
        if msg["type"] != "sample" or msg["name"] not in self.names:
            return
        found = mixture_of(msg["fn"])
        if found is not None:
            fn, name = msg["fn"], component_name(msg["name"])
            seen = () if msg["value"] is None else jnp.shape(msg["value"])
            seen = seen[: max(len(seen) - fn.event_dim, 0)]
            batch = jnp.broadcast_shapes(fn.batch_shape, seen)
            state = numpyro.sample(name, _masked_as(fn, found.label.expand(batch)))
            picked = found.at(state)
            if picked.batch_shape != batch:
                picked = picked.expand(batch)
            msg["fn"] = _masked_as(fn, picked)


def _masked_as(fn: Any, inner: Any) -> Any:
    """A distribution that counts where another one does."""
    layer = Layer.of(fn)
    if layer is None:
        return inner
    inner = _masked_as(layer.inner, inner)
    return inner if layer.mask is None else inner.mask(layer.mask)


def _at(fn: Any, state: Array, added: int) -> Any:
    """The component that a label picks, but for its batch shape.

    :param fn: the components, along the last batch dimension.
    :param state: the labels.
    :param added: how many batch dimensions behind the components are events.
    """
    layer = Layer.of(fn)
    if layer is not None:
        inner = _at(layer.inner, state, added + layer.added)
        if layer.shape is not None:
            events = layer.shape[len(layer.shape) - added :]
            return inner.expand(state.shape + events)
        if layer.mask is not None:
            return inner.mask(_member(layer.mask, state, added))
        return inner.to_event(layer.added)
    own: Any = {
        name: _member(
            getattr(fn, name), state, added + fn.arg_constraints[name].event_dim
        )
        for name in _own_parameters(fn)
    }
    return type(fn)(**own, validate_args=False)


def _member(value: Any, state: Array, event_dim: int) -> Array:
    """The members of an array that labels pick.

    :param value: of shape ``(..., K, *event)``, or ``event`` or less for all states.
    :param state: the labels, ``(...)``.
    """
    value = jnp.asarray(value)
    axis = value.ndim - event_dim - 1
    if axis < 0:
        return value
    if value.shape[axis] == 1:
        return jnp.squeeze(value, axis)
    event = value.shape[axis + 1 :]
    if all(size == 1 for size in value.shape[:axis]):
        return value.reshape(value.shape[axis:])[state]
    value = jnp.broadcast_to(value, (*state.shape, *value.shape[axis:]))
    index = state.reshape((*state.shape, 1) + (1,) * len(event))
    return jnp.squeeze(jnp.take_along_axis(value, index, state.ndim), state.ndim)
