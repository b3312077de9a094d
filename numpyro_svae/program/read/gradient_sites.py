# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which likelihoods send latent sites the gradient of their expectation.

They are those of the vectors and paths that no potential is given for, or one that is
refined, and that are not seen through a conjugate factor there. They send it to all
sites that they depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.read.wiring import listed
from numpyro_svae.program.run.positions import Extent, extent_of, read_at
from numpyro_svae.program.run.sites import Program, Site
from numpyro_svae.program.run.wrappers import at_positions
from numpyro_svae.program.structure.factors import Local, Structure
from numpyro_svae.program.structure.groups import Group, coupled_groups
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["check_groups", "read_positions", "senders_of"]

Values = dict[str, Array]

_NUM_PROBES = 3
_INSTEAD = (
    "return a GaussianPotential for it from the recognition function, and do not "
    "refine that"
)


def senders_of(
    likelihoods: Mapping[str, frozenset[str]],
    locals: Mapping[str, Local],
    recognised: Collection[str],
) -> dict[str, tuple[str, ...]]:
    """The latent sites that likelihoods send gradients to, with these likelihoods.

    :param likelihoods: the likelihoods, with the latent sites that each depends on.
    :param locals: the local sites.
    :param recognised: names of the sites whose potential is the only message to them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, parents in likelihoods.items():
        targets = sorted(parents.difference(recognised))
        if any(not locals[target].discrete for target in targets):
            for target in targets:
                found[target] = (*found.get(target, ()), name)
    return found


def check_groups(structure: Structure, mean_field: bool) -> None:
    """Sites that a likelihood depends on must be independent of each other, and have
    one Gaussian at each position.

    :raises ValueError: naming the sites and their likelihood.
    """
    senders = {s for names in structure.gradients.values() for s in names}
    for group in coupled_groups(structure):
        for sender in sorted(senders):
            inside = [n for n in group.states if n in structure.likelihoods[sender]]
            if inside and _is_mixed(group, mean_field):
                graph = group.kind == "graph"
                other = "" if graph else "AutoSVAE(..., mean_field=True), or "
                raise ValueError(
                    f"Site '{inside[0]}': latent, without a potential, and seen "
                    f"through '{sender}', while {listed(group.discrete)} makes a "
                    "mixture of its posterior. Accepted without a potential: "
                    f"{other}a vector or path that no discrete site is inferred "
                    f"jointly with; or {_INSTEAD}."
                )
            if len(inside) > 1 and group.kind == "graph":
                raise ValueError(
                    f"Sites {listed(inside)}: latent, without a potential, inferred "
                    f"jointly, and seen together through '{sender}', which is not "
                    "conjugate. Accepted without a potential: several vectors that "
                    "are independent of each other under the prior; one site that "
                    f"they are parts of; or {_INSTEAD}."
                )


def _is_mixed(group: Group, mean_field: bool) -> bool:
    if not group.discrete:
        return False
    return group.kind == "graph" or (group.kind == "mixture" and not mean_field)


def read_positions(
    program: Program, structure: Structure, sites: dict[str, Site]
) -> Structure:
    """Likelihoods must see each position of a site by itself.

    :return: the structure, with the products of vectors that they see.
    :raises ValueError: naming the site and its likelihoods.
    """
    if not structure.gradients:
        return structure
    probes = _Probes(Likelihoods(*Likelihoods.split(program), structure), sites)
    for name, senders in structure.gradients.items():
        discrete = structure.locals[name].discrete
        apart = probes.picked if discrete else probes.apart
        if not all(apart(name, sender) for sender in senders):
            raise ValueError(
                f"Site '{name}': latent, without a potential, and seen through "
                f"{listed(senders)}, not conjugate, which sees several positions or "
                "steps of it together. Accepted without a potential: a likelihood that "
                f"is a product over the positions of '{name}', each at its value there "
                f"(no sum, convolution or normalisation over them); or {_INSTEAD}."
            )
    entries = {
        name: set.intersection(*(probes.multiplied(name, s) for s in senders))
        for name, senders in structure.gradients.items()
    }
    products = {name: tuple(sorted(own)) for name, own in entries.items() if own}
    return replace(structure, products=products)


@dataclass(frozen=True)
class _Probes:
    """Log likelihoods at random values of the sites that they depend on."""

    known: Likelihoods
    sites: dict[str, Site]
    gradients: dict[tuple[str, str], Callable] = field(default_factory=dict)

    def values(self, sender: str, seed: int) -> Values:
        """Random values of the latent sites of a likelihood."""
        structure, rng = self.known.structure, np.random.default_rng(seed)
        found: dict[str, Array] = {}
        for name in sorted(structure.likelihoods[sender]):
            local, like = structure.locals[name], self.sites[name].value
            draw: np.ndarray = (
                rng.integers(0, local.size, like.shape)
                if local.discrete
                else rng.standard_normal(like.shape)
            )
            found[name] = jnp.asarray(draw, like.dtype)
        return found

    def gradient(self, name: str, sender: str) -> Callable[[Array, Values], Array]:
        """The gradient of a log likelihood in one site, given the others."""

        def log_prob(value: Array, others: Values) -> Array:
            found = self.known.at([sender], {**others, name: value})
            return jnp.sum(found[sender])

        key = name, sender
        if key not in self.gradients:
            self.gradients[key] = jax.jit(jax.grad(log_prob))
        return self.gradients[key]

    def multiplied(self, name: str, sender: str) -> set[int]:
        """The entries of a vector that do not matter where other vectors are zero."""
        locals, others = self.known.structure.locals, self.values(sender, 0)
        value = others.pop(name)
        vectors = {n: x for n, x in others.items() if not locals[n].discrete}
        if locals[name].discrete or not vectors:
            return set()
        zeros = {n: jnp.zeros_like(x) for n, x in vectors.items()}
        slope = self.gradient(name, sender)(value, {**others, **zeros})
        largest = np.max(np.abs(slope), tuple(range(slope.ndim - 1)), initial=0.0)
        return set(np.flatnonzero(largest == 0.0).tolist())

    def apart(self, name: str, sender: str) -> bool:
        """Whether the gradient at some positions stays the same if others change."""
        positions = extent_of(self.sites[name]).positions

        gradient = self.gradient(name, sender)
        for seed in range(_NUM_PROBES):
            others = self.values(sender, seed)
            first, second = others.pop(name), self.values(sender, seed + 100)[name]
            moved = np.random.default_rng(seed).random(positions)[..., None] < 0.5
            before = np.asarray(gradient(first, others))
            after = np.asarray(gradient(jnp.where(moved, second, first), others))
            if _differ(before, after, ~moved):
                return False
        return True

    def picked(self, name: str, sender: str) -> bool:
        """Whether log likelihoods by position are those of the states there."""
        structure = self.known.structure
        own, site = extent_of(self.sites[name]), self.sites[sender]
        scope = structure.likelihoods[sender]
        discrete = [n for n in scope if structure.locals[n].discrete]
        extra = max(extent_of(self.sites[n]).extra for n in discrete)
        if at_positions(site.outer, extra) is None:
            return False
        shape = site.outer.batch_shape + tuple(site.outer.event_shape[:extra])
        extent = Extent(site.outer.batch_shape, shape, None, 1.0)

        @jax.jit
        def log_prob(values: dict[str, Array]) -> Array:
            return self.known.at([sender], values, extra)[sender]

        for seed in range(_NUM_PROBES):
            values = self.values(sender, seed)
            states = read_at(values[name], own, extent, 0)
            states = jnp.broadcast_to(states, shape)
            found = np.asarray(log_prob(values))
            for state in range(structure.locals[name].size):
                alike = jnp.full_like(values[name], state)
                table = np.asarray(log_prob({**values, name: alike}))
                if _differ(table, found, np.asarray(states == state)):
                    return False
        return True


def _differ(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> bool:
    """Whether arrays differ somewhere, relative to the largest entry."""
    known = np.isfinite(one) & np.isfinite(other) & where
    size = np.max(np.abs(one), initial=0.0, where=np.isfinite(one))
    change = np.where(known, one, 0.0) - np.where(known, other, 0.0)
    return bool(np.max(np.abs(change), initial=0.0) > 1e-3 * size)
