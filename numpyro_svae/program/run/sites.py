# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Run a NumPyro program at chosen latent values and look at its sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import block, seed, substitute, trace
from numpyro.util import not_jax_tracer

from numpyro_svae.program.run.arrays import jax_array
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.ended import Ends
from numpyro_svae.program.run.fixed import Fixed, OwnState
from numpyro_svae.program.run.kinds import kind_of, lengths_of
from numpyro_svae.program.run.linearised import linearised
from numpyro_svae.program.run.mixtures import Labelled
from numpyro_svae.program.run.observed import as_numbers, as_wide_as_data
from numpyro_svae.program.run.one_site import OneSite
from numpyro_svae.program.run.ordered import register_in_order
from numpyro_svae.program.run.scans import Scan, is_scanned
from numpyro_svae.program.run.shown import Shown
from numpyro_svae.program.run.wrappers import as_states, as_vectors, peel

__all__ = [
    "GaussianView",
    "Program",
    "Site",
    "gaussian_view",
    "is_gaussian",
    "is_gaussian_vector",
    "is_path",
    "is_state",
    "read_site",
    "response_dim",
    "unwrap",
]


@partial(register_in_order, meta_fields=["name", "observed", "frames"])
@dataclass(frozen=True)
class Site:
    """A sample site of one run, as a pytree.

    The *positions* of a site are the entries that its underlying distribution is
    independent over: its batch, and then those event dimensions that ``to_event`` (or
    the time of a chain) added.

    :param name: name of the site.
    :param outer: the distribution as the program gave it.
    :param value: the value at the site.
    :param observed: whether the value is data.
    :param frames: the plates around the site.
    :param scale: factor of its log probability, from subsampling and handlers.
    :param ends: where the sequences of a chain end that a scan spells, if they do.
    """

    name: str
    outer: dist.Distribution
    value: Array
    observed: bool
    frames: tuple
    scale: Array | float
    ends: Ends | None = None

    @property
    def fn(self) -> dist.Distribution:
        """The underlying distribution, without ``expand``, ``to_event``, ``mask``."""
        return unwrap(self.outer)[0]

    @property
    def mask(self) -> Array | None:
        """Which positions count, if only in part; None for all of them."""
        return unwrap(self.outer)[1]

    @property
    def entries(self) -> Array | None:
        """Which entries of vectors of independent ones count, ``(*positions, D)``.

        None if the mask of the positions says it all, as far as can be seen.
        """
        fn, mask, extra = peel(self.outer)
        if mask is None or not (spelling_of(fn) == "numbers" and extra):
            return None
        if not_jax_tracer(mask):
            seen = np.asarray(mask)
            if np.array_equal(seen.any(-1), seen.all(-1)):
                return None
        shape = self.positions + tuple(self.outer.event_shape[-1:])
        return None if mask.shape[-1] == 1 else jnp.broadcast_to(mask, shape)

    @property
    def extra(self) -> int:
        """How many trailing position dimensions are event dimensions."""
        return unwrap(self.outer)[2]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch, that of the plates."""
        return self.outer.batch_shape

    @property
    def positions(self) -> tuple[int, ...]:
        """Shape of the positions, for a site whose event is a vector at each."""
        return self.batch_shape + tuple(self.outer.event_shape[: self.extra])


def unwrap(fn: dist.Distribution) -> tuple[dist.Distribution, Array | None, int]:
    """The underlying distribution, its mask at the positions, and their extra rank."""
    fn, mask, extra = peel(fn)
    if spelling_of(fn) == "numbers" and extra:  # the last event dimension is the vector
        return fn, None if mask is None else jnp.any(mask, -1), extra - 1
    if is_path(fn):
        mask = None if mask is None else mask[..., None]
        return fn, _within_length(fn, mask), extra + 1  # the first dimension is time
    return fn, mask, extra


def _within_length(fn: Any, mask: Array | None) -> Array | None:
    """The steps of chains that are not padding."""
    lengths = lengths_of(fn)
    if lengths is None:
        return mask
    exists = jnp.arange(fn.event_shape[0]) < jnp.asarray(lengths)[..., None]
    return exists if mask is None else mask & exists


def read_site(message: dict) -> Site:
    """The site that a message of a trace describes."""
    fn, value = message["fn"], message["value"]
    if message["is_observed"]:
        value = as_numbers(message["name"], value, is_state(peel(fn)[0]))
        if _is_number(fn):
            fn, value = as_vectors(fn, value)
    return Site(
        message["name"],
        fn,
        value,
        message["is_observed"],
        tuple(message["cond_indep_stack"]),
        1.0 if message["scale"] is None else message["scale"],
        message["infer"].get("ends"),
    )


def _is_number(fn: dist.Distribution) -> bool:
    return not fn.event_shape and spelling_of(peel(fn)[0]) == "numbers"


def is_gaussian(fn: dist.Distribution) -> bool:
    """Whether a distribution is of Gaussian numbers, vectors, matrices or paths."""
    kind, matrix = kind_of(fn), spelling_of(fn) == "matrix"
    return matrix or (kind is not None and not kind.discrete)


def is_path(fn: dist.Distribution) -> bool:
    """Whether the values of a distribution are paths, of vectors or of states."""
    kind = kind_of(fn)
    return kind is not None and kind.chain


def is_state(fn: dist.Distribution) -> bool:
    """Whether the values of a distribution are states, or paths of states."""
    kind = kind_of(fn)
    return kind is not None and kind.discrete


class GaussianView(NamedTuple):
    """Location ``(*positions, D)`` and covariance ``(..., D, D)`` by position.

    The covariance may have less batch axes, where positions share it.
    """

    loc: Array
    covariance: Array


def is_gaussian_vector(site: Site) -> bool:
    """Whether a site is a Gaussian vector at each position."""
    if spelling_of(site.fn) == "numbers":
        return len(site.outer.event_shape) == site.extra + 1
    return spelling_of(site.fn) == "vector"


def gaussian_view(site: Site) -> GaussianView | None:
    """The Gaussian at each position of a site; None if it is not a Gaussian vector."""
    if not is_gaussian_vector(site):
        return None
    fn: Any = site.fn
    if spelling_of(fn) == "vector":
        tril = fn.scale_tril
        loc = jnp.broadcast_to(fn.loc, site.positions + fn.event_shape)
        return GaussianView(loc, tril @ jnp.swapaxes(tril, -1, -2))
    shape = site.positions + site.outer.event_shape[-1:]
    dtype = jnp.result_type(fn.loc, fn.scale, float)  # Normal(0, 1) is of integers
    variance = _shared(jnp.asarray(fn.scale, dtype) ** 2, shape[-1])
    covariance = variance[..., None] * jnp.eye(shape[-1], dtype=dtype)
    loc = jnp.broadcast_to(jnp.asarray(fn.loc, dtype), shape)
    return GaussianView(loc, covariance)


def _shared(variance: Array, dim: int) -> Array:
    """Variances ``(..., D)`` without leading axes along which they are the same."""
    while variance.ndim > 1 and variance.shape[0] == 1:
        variance = variance[0]
    batch = variance.shape[:-1]
    return jnp.broadcast_to(variance, (*batch, dim))


def response_dim(site: Site) -> int | None:
    """The dimension of the vectors at a Gaussian site or chain; None for others."""
    kind = kind_of(site.fn)
    return None if kind is None or kind.discrete else kind.size(site)


@dataclass(frozen=True)
class Program:
    """A model with its arguments, ready to be run at chosen values.

    :param model: the NumPyro program.
    :param args: its positional arguments.
    :param kwargs: its keyword arguments.
    :param key: random key for whatever a run draws.
    :param fixed: values of parameters and plates that every run shares.
    :param scans: its scans; their sites are shown as those of whole chains.
    :param shown: its sites that are shown in another shape.
    """

    model: Callable
    args: tuple
    kwargs: dict[str, Any]
    key: Array
    fixed: dict[str, Any] = field(default_factory=dict)
    scans: tuple[Scan, ...] = ()
    shown: Shown = field(default_factory=Shown)

    def trace(
        self,
        values: dict[str, Any],
        default: Callable[[dict], Any] = lambda message: None,
        expose: bool = False,
    ) -> dict[str, dict]:
        """Trace of a run with sites at given values.

        :param values: values by site name.
        :param default: gives the value of a latent site without one, from its message.
        :param expose: whether enclosing handlers see parameters, states and plates.
        """
        values = self.shown.given(values)
        shown = ("param", "mutable", "plate") if expose else ()
        model: Any = Labelled(self.model, self.shown.mixtures)
        if self.scans:
            model = OneSite(model, self.scans, values, self.fixed, self.key)
        data = {**self.fixed, **{n: jax_array(v) for n, v in values.items()}}

        def fill(message: dict) -> Any:
            latent = message["type"] == "sample" and message["value"] is None
            return default(message) if latent else None

        with (
            block(hide_fn=lambda message: message["type"] not in shown),
            trace() as messages,
            seed(rng_seed=self.key),
            substitute(substitute_fn=fill),
            Fixed(data=data),
            OwnState(),
        ):
            model(*self.args, **self.kwargs)
        return {name: self._as_read(message) for name, message in messages.items()}

    def _as_read(self, message: dict) -> dict:
        """A message as the reader has it."""
        message = linearised(message)
        if message["type"] != "sample":
            return message
        if is_scanned(message):  # its shapes are those of one step, but for its arrays
            return {**message, "fn": as_states(message["fn"])}
        return self.shown.message(as_wide_as_data(message))

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
