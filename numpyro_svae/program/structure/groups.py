# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which local sites are coupled, and so have to be inferred together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpyro_svae.program.structure.factors import Factor, Local, Structure

__all__ = [
    "Group",
    "coupled_groups",
    "is_exact",
    "mixtures",
    "parents_of",
    "scope",
    "with_mixtures",
]


@dataclass(frozen=True)
class Group:
    """Local sites that factors couple.

    :param discrete: its discrete sites.
    :param states: its Gaussian sites and chains.
    :param kind: ``"mixture"`` if the states are independent of each other given the one
        discrete site, each position given one of its states, so that the exact joint
        posterior is as cheap as a product; ``"graph"`` if a factor is coupled and there
        is no chain; ``"product"`` for all others.
    """

    discrete: tuple[str, ...]
    states: tuple[str, ...]
    kind: str

    def is_exact(self, mean_field: bool) -> bool:
        """Whether its posterior is no product of sites that are dependent."""
        alone = len(self.discrete) + len(self.states) == 1
        mixture = self.kind == "mixture" and not mean_field
        return alone or mixture or self.kind == "graph"


def parents_of(factor: Factor) -> list[str]:
    """The local sites that a factor depends on: what picks it, and its parents."""
    picks = [factor.source.selector, *factor.parents, *factor.selectors]
    return list(dict.fromkeys(name for name in picks if name is not None))


def scope(structure: Structure, factor: Factor) -> tuple[str, ...]:
    """The local sites that a factor joins: its parents, what picks it, its own site."""
    names = [*parents_of(factor), factor.site]
    return tuple(dict.fromkeys(n for n in names if n in structure.locals))


def coupled_groups(structure: Structure) -> list[Group]:
    """The connected components of the local sites, in program order."""
    member = {name: {name} for name in structure.locals}
    for factor in structure.factors:
        joined = set[str]().union(*(member[n] for n in scope(structure, factor)))
        for name in joined:
            member[name] = joined
    groups, seen = [], set[str]()
    for name in structure.locals:
        if name not in seen:
            seen |= member[name]
            groups.append(_group(structure, member[name]))
    return groups


def is_exact(structure: Structure, mean_field: bool) -> bool:
    """Whether the posterior of the local sites is exact, given the global ones.

    :param structure: the wiring of a program without a recognition function.
    :param mean_field: whether coupled sites are made independent under the guide.
    """
    linear = not any(local.kind.linearised for local in structure.locals.values())
    conjugate = not any(f.form == "logits" or f.weights for f in structure.factors)
    groups = all(group.is_exact(mean_field) for group in coupled_groups(structure))
    return linear and conjugate and groups and not structure.likelihoods


def with_mixtures(structure: Structure) -> Structure:
    """The same program, where more groups with a chain are mixtures.

    A factor whose known location differs between states joins its sites as those of
    graphs do. It is a regression for each state too, and where all coupled factors of a
    group are, and what is left is a mixture, its joint posterior is exact.
    """
    alone = tuple(_by_state_alone(structure, f) for f in structure.factors)
    if alone == structure.factors:
        return structure
    other = replace(structure, factors=alone)
    chains = {name for name, local in structure.locals.items() if local.chain}
    groups = [g for g in coupled_groups(other) if g.kind == "mixture"]
    exact = {n for g in groups for n in g.discrete + g.states if chains & {*g.discrete}}
    factors = (
        new if exact & set(scope(structure, old)) else old
        for old, new in zip(structure.factors, alone)
    )
    return replace(structure, factors=tuple(factors))


def _by_state_alone(structure: Structure, factor: Any) -> Factor:
    """A factor that is an observed regression on one site by state as no more than
    that; others as they are."""
    if factor.form != "regression" or factor.site in structure.locals:
        return factor
    one = len(factor.parents) == 1 and factor.selectors == (factor.source.selector,)
    shared = factor.source.prior is None or factor.parent_map is not None
    return replace(factor, coupled=False) if one and shared else factor


def _group(structure: Structure, members: set[str]) -> Group:
    names = [name for name in structure.locals if name in members]
    locals = [structure.locals[name] for name in names]
    discrete = tuple(local.name for local in locals if local.discrete)
    states = tuple(local.name for local in locals if not local.discrete)
    kind = "product"
    if _is_mixture(structure, locals):
        kind = "mixture"
    if any(f.coupled and members & set(scope(structure, f)) for f in structure.factors):
        kind = "product" if any(local.chain for local in locals) else "graph"
    if any(f.form == "logits" and f.site in members for f in structure.factors):
        kind = "product"
    return Group(discrete, states, kind)


def _is_mixture(structure: Structure, locals: list[Local]) -> bool:
    discrete = [local.name for local in locals if local.discrete]
    states = [local for local in locals if not local.discrete]
    if len(discrete) != 1 or not states or any(state.chain for state in states):
        return False
    return not any(
        _lasts(structure, factor, discrete[0])
        for factor in structure.factors
        if factor.form == "regression" and factor.source.selector == discrete[0]
    )


def _lasts(structure: Structure, factor: Factor, selector: str) -> bool:
    """Whether a position of a parent is seen with several states of the selector."""
    if factor.parent is None:
        return False
    axes = structure.axes
    seen = set(axes[selector]) & set(axes[factor.site])
    return not seen <= set(axes[factor.parent])


def mixtures(structure: Structure) -> dict[str, str]:
    """Gaussian sites whose exact posterior is a mixture, with what picks from it."""
    return {
        state: group.discrete[0]
        for group in coupled_groups(structure)
        if group.kind == "mixture"
        for state in group.states
    }
