# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The bound of each datum: what is independent given the global sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.groups import coupled_groups, scope

__all__ = ["Datum", "bound_of", "data_of", "datum_of", "sending"]

Shape = tuple[int, ...]


def sending(factors: ExpectedFactors) -> dict[str, tuple[str, ...]]:
    """The sites that likelihoods with data send gradients to, with these.

    :param factors: the factors.
    """
    found = {}
    for name, senders in factors.structure.gradients.items():
        seen = tuple(s for s in senders if factors.site(s).observed)
        if seen:
            found[name] = seen
    return found


@dataclass(frozen=True)
class Datum:
    """Local sites that are inferred together, of many data side by side.

    The data are the entries of those plates that all of its terms are in.

    :param targets: the sites that are sent gradients.
    :param batches: batch shapes of the terms of its bound: of the local sites, and of
        what is observed of them.
    """

    targets: tuple[str, ...]
    batches: dict[str, Shape]

    @property
    def shape(self) -> Shape:
        """Shape of the data: plates that not all terms are in have size one."""
        rank = max(map(len, self.batches.values()))
        padded = [(1,) * (rank - len(b)) + b for b in self.batches.values()]
        return tuple(s[0] if len(set(s)) == 1 else 1 for s in zip(*padded))

    def _reduced(self, value: Array, name: str, reduce: Callable) -> Array:
        """One number for each datum."""
        shape, batch = self.shape, self.batches[name]
        value = jnp.broadcast_to(value, batch)
        value = value.reshape((1,) * (len(shape) - len(batch)) + batch)
        axes = [i for i, size in enumerate(shape) if size == 1 < value.shape[i]]
        return reduce(value, tuple(axes), keepdims=True)

    def bound(
        self,
        sites: Mapping[str, Site],
        local: LocalPosterior,
        terms: dict[str, Array],
    ) -> Array:
        """The terms of each datum: expected log likelihoods, less divergences.

        :param sites: those of the program.
        :param local: the posterior of the local sites.
        :param terms: the expected log likelihoods that have no closed form.
        """
        total = jnp.zeros(self.shape)
        for name in self.batches:
            if name in local.kl:
                value = -local.kl[name]
            elif name in terms:
                value = terms[name]
            else:
                value = local.expected_log_prob[name]
            scale = sites[name].scale
            total = total + self._reduced(scale * value, name, jnp.sum)
        return total

    def largest(self, values: dict[str, Array]) -> Array:
        """The largest value of each datum.

        :param values: by site, per entry of its batch.
        """
        found = [self._reduced(values[n], n, jnp.max) for n in self.targets]
        return jnp.max(jnp.stack(found), 0)

    def at_positions(self, factors: ExpectedFactors, name: str, value: Array) -> Array:
        """Values of the data at the positions of a site.

        :param value: of the shape of the data.
        """
        extent = factors.extent(name)
        missing = value.ndim - len(extent.batch_shape)  # of size one
        value = value.reshape(value.shape[missing:])
        value = jnp.expand_dims(value, tuple(range(value.ndim, len(extent.positions))))
        return jnp.broadcast_to(value, extent.positions)


def data_of(
    factors: ExpectedFactors, senders: dict[str, tuple[str, ...]]
) -> tuple[Datum, ...]:
    """The groups of local sites that gradients are sent to.

    :param factors: the factors.
    :param senders: the sites, with the likelihoods that send to them.
    """
    structure, found = factors.structure, []
    for members in _joined(structure, senders):
        targets = tuple(n for n in structure.locals if n in members and n in senders)
        names = [n for n in structure.locals if n in members]
        for factor in structure.factors:
            if members & set(scope(structure, factor)) and factor.site not in members:
                if factors.bound.active(factor.site, structure):
                    names.append(factor.site)
        names += dict.fromkeys(sender for n in targets for sender in senders[n])
        names += [label for n, label in structure.labels.items() if n in members]
        batches = {n: tuple(factors.site(n).batch_shape) for n in names}
        found.append(Datum(targets, batches))
    return tuple(found)


def datum_of(sites: Mapping[str, Site], local: LocalPosterior) -> Datum:
    """The data of one group of local sites, with all of its sites as targets.

    :param sites: those of the program.
    :param local: the posterior of the group.
    """
    names = *local.kl, *local.expected_log_prob
    batches = {name: tuple(sites[name].batch_shape) for name in names}
    return Datum((*local.kl,), batches)


def bound_of(
    structure: Structure, sites: Mapping[str, Site], local: LocalPosterior
) -> Array:
    """The bound of each datum of a program whose local sites are one group.

    :param structure: the wiring.
    :param sites: those of the program.
    :param local: the posterior of the local sites.
    :return: by the plates that all terms are in; NaN where a likelihood is sampled.
    """
    datum = datum_of(sites, local)
    found, batches = datum.bound(sites, local, {}), datum.batches
    # A scan has an axis of time in front of the plates, which not all terms have.
    rank = min(map(len, batches.values()))
    found = found.reshape(found.shape[found.ndim - rank :])
    closed = set(structure.likelihoods) <= set(local.expected_log_prob)
    return found if closed else jnp.full_like(found, jnp.nan)


def _joined(
    structure: Structure, senders: dict[str, tuple[str, ...]]
) -> list[set[str]]:
    """Local sites that are coupled, or that a likelihood depends on together."""
    groups = [{*g.discrete, *g.states} for g in coupled_groups(structure)]
    used = [structure.likelihoods[n] for names in senders.values() for n in names]
    for scope_of in used:
        touched = [group for group in groups if group & scope_of]
        groups = [group for group in groups if not group & scope_of]
        groups.append(set[str]().union(*touched))
    parents = frozenset(senders).union(*used)
    return [group for group in groups if group & parents]
