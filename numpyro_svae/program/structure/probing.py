# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Find out what a site's parameters depend on, and how, by running the program.

Which latent sites a parameter depends on is read off the computation (provenance). How
it does is a polynomial identity that is checked at random latent values: identities
that hold there hold everywhere, with probability one. Some are opposite to each other,
as an absolute value is linear on either side of zero. (A function with other kinks,
such as a clip far from where the probes fall, can pass for the identity that it is near
them.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.ops.provenance import eval_provenance

from numpyro_svae.program.priors.observations import observation_of
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.priors.row_products import Joined
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.arrays import jax_array
from numpyro_svae.program.run.kinds import kind_of
from numpyro_svae.program.run.origins import (
    at_others,
    depends,
    others_of,
    parameters_of,
    union_of,
)
from numpyro_svae.program.run.parts import label_of
from numpyro_svae.program.run.sites import Program, Site, sample_sites
from numpyro_svae.program.structure.factors import Local, Structure
from numpyro_svae.program.structure.labels import seen_labels
from numpyro_svae.tracing import computed_now

__all__ = [
    "Found",
    "Identity",
    "Prober",
    "parameters",
    "plain_run",
    "random_globals_of",
    "random_local",
    "read_of",
]

_NUM_PROBES = 3


class _Opposite(np.random.Generator):
    """Draws the opposite of what another generator draws from the same seed.

    That is on the other side of zero, or of the geometric mean of positive bounds.
    """

    def standard_normal(self, *args: Any, **kwargs: Any) -> Any:
        return -super().standard_normal(*args, **kwargs)

    def uniform(self, low: Any = 1.0, high: Any = 2.0, size: Any = None) -> Any:
        return low * high / super().uniform(low, high, size)


def parameters(site: Site) -> dict[str, Any]:
    """The parameters of a site's distribution, by name."""
    kind, seen = kind_of(site.fn), observation_of(site.fn)
    found = None if kind is None else kind.parameters(site)
    if found is not None:
        return found
    if seen is not None:
        return seen.read(site.fn)
    return {"parameters": jax.tree.leaves(site.fn)}


def read_of(structure: Structure, messages: dict[str, dict]) -> dict[str, Any]:
    """The parameters of the sites of a run that are read, and not only sampled."""
    sites = sample_sites(messages).items()
    return {n: parameters(site) for n, site in sites if n not in structure.likelihoods}


class Found(dict[str, dict[str, Any]]):
    """Parameters of every site of a run, by site and by name."""

    def agrees(self, site: str, **expected: Any) -> bool:
        """Whether parameters of a site are as expected."""
        return all(same(self[site][name], value) for name, value in expected.items())


Identity = Callable[[dict[str, Any], Found], bool]


class Prober:
    """Runs one program at random and at chosen latent values.

    :param program: the program, with its parameters fixed.
    :param sites: the sites of one run.
    :param priors: global blocks.
    :param locals: local sites.
    :param joins: joins of global blocks.
    :param at_plain: whether the run was at the plain values.
    """

    def __init__(
        self,
        program: Program,
        sites: dict[str, Site],
        priors: dict[str, Prior],
        locals: dict[str, Local],
        joins: dict[str, Joined] | None = None,
        at_plain: bool = False,
    ) -> None:
        self.program = program
        self.sites = sites
        self.priors = priors
        self.locals = locals
        self.joins: dict[str, Joined] = {} if joins is None else joins
        self.at_plain = at_plain
        self.read = jax.jit(self._read)

    def _read(self, values: dict[str, Array]) -> dict[str, dict[str, Any]]:
        """Parameters of every site, at given values of the latent ones."""
        sites = self.program.sites(values)
        return {name: parameters(site) for name, site in sites.items()}

    def plain(self, name: str) -> dict[str, Any]:
        """Parameters of a site at the plain values."""
        if self.at_plain:
            return parameters(self.sites[name])
        return self.read(self.plain_values())[name]

    def holds(self, identity: Identity) -> bool:
        """Whether an identity holds at random values of the latent sites."""
        return all(identity(v, Found(self.read(v))) for v in self.probes())

    def probes(self) -> Iterator[dict[str, Any]]:
        """Random values of the latent sites, the same every time."""
        yield from map(self.random_values, range(_NUM_PROBES))
        yield self._drawn(_Opposite(np.random.PCG64(0)))

    def random_values(self, seed: int) -> dict[str, Any]:
        """Random values of all latent sites."""
        return self._drawn(np.random.default_rng(seed))

    def _drawn(self, rng: np.random.Generator) -> dict[str, Any]:
        values = random_globals_of(self.priors, rng)
        for local in self.locals.values():
            draw = random_local(local, self.sites[local.name].value, rng)
            values[local.name] = (
                self._known(local.name, draw) if local.discrete else draw
            )
        return values

    def _known(self, name: str, draw: np.ndarray) -> np.ndarray:
        """What the program sees of a site that is observed in part."""
        site = self.sites.get(str(label_of(name)))
        if site is None or site.mask is None or not self.locals[name].discrete:
            return draw
        seen = seen_labels(self.program, self.sites, name)
        return np.where(np.asarray(seen), np.asarray(site.value), draw)

    def plain_values(self, column: Array | int = 0) -> dict[str, Array]:
        """The values that data are read at: locals zero, globals on a basis."""
        values = plain_globals(self.priors, column)
        for name in self.locals:
            values[name] = jnp.zeros_like(self.sites[name].value)
        return values

    @cached_property
    def needs(self) -> dict[str, frozenset[str]]:
        """The latent sites that each site depends on."""
        latents = [name for name, site in self.sites.items() if not site.observed]
        found = self.dependencies(latents)
        return {n: frozenset().union(*entry.values()) for n, entry in found.items()}

    def dependencies(self, latents: list[str]) -> dict[str, dict[str, frozenset[str]]]:
        """Which latent sites each parameter of each site depends on."""

        values = {name: self.sites[name].value for name in latents}
        sets = eval_provenance(lambda **values: self._read(values), **values)
        return {
            name: {key: union_of(value) for key, value in entry.items()}
            for name, entry in sets.items()
        }

    @cached_property
    def trained(self) -> frozenset[str]:
        """The sites whose parameters depend on those of ``numpyro.param``."""
        numbers, rebuild = parameters_of(self.program)
        values = self.random_values(0)
        sets = eval_provenance(
            lambda **own: self.at(rebuild(own))._read(values), **numbers
        )
        return frozenset(name for name, entry in sets.items() if union_of(entry))

    @cached_property
    def in_training(self) -> Prober:
        """The same at other values of ``numpyro.param``."""
        numbers, rebuild = parameters_of(self.program)
        return self.at(rebuild(others_of(numbers)))

    def holder(self, name: str | None) -> Any:
        """The block or the join with a name; None without one."""
        return self.joins.get(str(name), self.priors.get(str(name)))

    def at(self, program: Program) -> Prober:
        """The same for other arguments and parameters of the program."""
        return Prober(program, self.sites, self.priors, self.locals, self.joins)

    def read_elsewhere(self, read: Callable[[Prober], Any]) -> Any:
        """What is read at arguments and parameters that are not those of the program.

        :param read: reads arrays; if they are computed from neither, at its own.
        """
        moves = depends(self.program, lambda program: read(self.at(program)))
        return read(self.elsewhere if moves else self)

    @cached_property
    def elsewhere(self) -> Prober:
        """The same for other arguments and parameters of the program."""
        return self.at(at_others(self.program))


def random_globals_of(
    priors: dict[str, Prior], rng: np.random.Generator
) -> dict[str, Any]:
    """Random values of global sites, known within a trace too."""
    values: dict[str, Any] = {}
    with computed_now():
        for prior in priors.values():
            values.update(prior.random_values(rng))
    return values


def random_local(local: Local, like: Any, rng: np.random.Generator) -> np.ndarray:
    """A random value of a local site, of the shape and type of another one."""
    if local.discrete:
        draw: np.ndarray = rng.integers(0, local.size, like.shape)
    else:
        draw = rng.standard_normal(like.shape)
    return draw.astype(like.dtype)


def plain_globals(
    priors: dict[str, Prior], column: Array | int = 0
) -> dict[str, Array]:
    """The values of global sites that data are read at."""
    values: dict[str, Array] = {}
    for prior in priors.values():
        values.update(prior.plain_values(column))
    return values


def plain_run(
    program: Program,
    structure: Structure,
    values: dict[str, Any] | None = None,
    expose: bool = False,
) -> dict[str, dict]:
    """Trace of a run at the values that data are read at.

    :param program: the program.
    :param structure: its wiring.
    :param values: other values of some sites.
    :param expose: whether enclosing handlers see parameters, states and plates.
    """

    def zero(message: dict) -> Array | None:
        local = structure.locals.get(message["name"])
        if local is None:
            return None
        dtype = int if local.discrete else float
        return jax_array(np.zeros(message["fn"].shape(), dtype))

    given = {**plain_globals(structure.priors), **(values or {})}
    return program.trace(given, zero, expose)
