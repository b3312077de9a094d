# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Run a NumPyro program at chosen latent values and look at its sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.handlers import block, seed, substitute, trace

__all__ = ["GaussianView", "Program", "Site", "gaussian_view"]


@dataclass(frozen=True)
class Site:
    """A sample site, unwrapped.

    The *positions* of a site are the entries that its underlying distribution is
    independent over: its batch, and then those event dimensions that ``to_event`` (or
    the time of a chain) added.

    :param name: name of the site.
    :param fn: the underlying distribution, without ``expand``, ``to_event``, ``mask``.
    :param outer: the distribution as the program gave it.
    :param value: the value at the site.
    :param observed: whether the value is data.
    :param mask: which positions count, or None for all of them.
    :param extra: how many trailing position dimensions are event dimensions.
    :param frames: the plates around the site.
    :param scale: factor of its log probability, from subsampling and handlers.
    """

    name: str
    fn: dist.Distribution
    outer: dist.Distribution
    value: Array
    observed: bool
    mask: Array | None
    extra: int
    frames: tuple
    scale: Array | float

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.outer.batch_shape

    @property
    def positions(self) -> tuple[int, ...]:
        """Shape of the positions, for a site whose event is a vector at each."""
        event = self.outer.event_shape
        return self.batch_shape + tuple(event[: self.extra])


def _unwrap(fn: dist.Distribution) -> tuple[dist.Distribution, Array | None, int]:
    mask, extra = None, 0
    while True:
        if isinstance(fn, dist.ExpandedDistribution):
            fn = fn.base_dist
        elif isinstance(fn, dist.MaskedDistribution):
            inner = jnp.asarray(fn._mask)
            mask = inner if mask is None else mask & inner
            fn = fn.base_dist
        elif isinstance(fn, dist.Independent):
            added = fn.reinterpreted_batch_ndims
            mask = mask if mask is None else jnp.asarray(mask)[(...,) + (None,) * added]
            extra += added
            fn = fn.base_dist
        else:
            return fn, mask, extra


def read_site(message: dict) -> Site:
    """The site that a message of a trace describes."""
    fn, mask, extra = _unwrap(message["fn"])
    if isinstance(fn, dist.Normal) and extra:  # the last event dimension is the vector
        extra -= 1
        mask = mask if mask is None else jnp.all(mask, -1)
    if fn.event_dim == 2 and hasattr(fn, "transition_matrix"):
        extra += 1
        mask = mask if mask is None else mask[..., None]
    scale = 1.0 if message["scale"] is None else message["scale"]
    return Site(
        message["name"],
        fn,
        message["fn"],
        message["value"],
        message["is_observed"],
        mask,
        extra,
        tuple(message["cond_indep_stack"]),
        scale,
    )


class GaussianView(NamedTuple):
    """Location ``(..., D)`` and covariance ``(..., D, D)`` at the positions of a site."""

    loc: Array
    covariance: Array


def gaussian_view(site: Site) -> GaussianView | None:
    """The Gaussian at each position of a site; None if it is not a Gaussian vector."""
    fn = site.fn
    if isinstance(fn, dist.MultivariateNormal):
        tril = fn.scale_tril
        loc = jnp.broadcast_to(fn.loc, site.positions + fn.event_shape)
        return GaussianView(loc, tril @ jnp.swapaxes(tril, -1, -2))
    if isinstance(fn, dist.Normal) and len(site.outer.event_shape) == site.extra + 1:
        shape = site.positions + site.outer.event_shape[-1:]
        variance = jnp.broadcast_to(fn.scale**2, shape)
        covariance = variance[..., None] * jnp.eye(shape[-1], dtype=variance.dtype)
        return GaussianView(jnp.broadcast_to(fn.loc, shape), covariance)
    return None


@dataclass(frozen=True)
class Program:
    """A model with its arguments, ready to be run at chosen values.

    :param model: the NumPyro program.
    :param args: its positional arguments.
    :param kwargs: its keyword arguments.
    :param fixed: values of parameters and plates that every run shares.
    :param key: random key for whatever a run draws.
    """

    model: Callable
    args: tuple
    kwargs: dict[str, Any]
    key: Array
    fixed: dict[str, Any] = field(default_factory=dict)

    def trace(
        self,
        values: dict[str, Any],
        default: Callable[[dict], Any] = lambda message: None,
        expose: bool = False,
    ) -> dict[str, dict]:
        """Trace of a run with sites at given values.

        :param values: values by site name.
        :param default: gives the value of a latent site without one, from its message.
        :param expose: whether enclosing handlers see the parameters and plates.
        """
        shown = ("param", "plate") if expose else ()
        data = {**self.fixed, **values}

        def fill(message: dict) -> Any:
            latent = message["type"] == "sample" and message["value"] is None
            return default(message) if latent else None

        with (
            block(hide_fn=lambda message: message["type"] not in shown),
            trace() as messages,
            seed(rng_seed=self.key),
            substitute(substitute_fn=fill),
            substitute(data=data),
        ):
            self.model(*self.args, **self.kwargs)
        return messages

    def sites(self, values: dict[str, Any]) -> dict[str, Site]:
        """The sample sites of a run with latent sites at given values."""
        return sample_sites(self.trace(values))


def sample_sites(messages: dict[str, dict]) -> dict[str, Site]:
    """The sample sites of a trace, in program order."""
    return {
        name: read_site(message)
        for name, message in messages.items()
        if message["type"] == "sample"
    }
