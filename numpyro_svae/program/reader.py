# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads how a program is wired: priors, local sites, conjugate factors, likelihoods."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.program.factors import (
    CategoricalFactor,
    ChainFactor,
    Factor,
    GaussianFactor,
    Structure,
    TableFactor,
)
from numpyro_svae.program.latents import CATEGORICAL, read_locals, read_priors
from numpyro_svae.program.priors import DirichletPrior, Prior, RegressionPrior
from numpyro_svae.program.probing import Found, Identity, Prober
from numpyro_svae.program.regressions import find_regression, is_linear
from numpyro_svae.program.sites import Program, Site, gaussian_view

__all__ = ["read_structure"]


def read_structure(
    program: Program, sites: dict[str, Site], spoken: Collection[str]
) -> Structure:
    """Read the wiring of a program.

    :param program: the program, with concrete arguments.
    :param sites: the sites of one run.
    :param spoken: names of the sites that the recognition function speaks to.
    :return: its wiring.
    :raises ValueError: naming the site, if a latent site or a dependence on one is
        neither conjugate nor covered by a potential.
    """
    priors = read_priors(program, sites)
    locals = read_locals(sites, priors)
    prober = Prober(program, sites, priors, locals)
    return _Reader(prober, frozenset(spoken)).read()


class _Reader:
    """Classifies the sites of one program."""

    def __init__(self, prober: Prober, spoken: frozenset[str]) -> None:
        self.prober = prober
        self.spoken = spoken
        self.block_of = {
            name: prior for prior in prober.priors.values() for name in prior.sites
        }
        latents = [*self.block_of, *prober.locals]
        self.needs = prober.dependencies(latents)

    def read(self) -> Structure:
        factors: list[Factor] = []
        likelihoods: dict[str, frozenset[str]] = {}
        for name, site in self.prober.sites.items():
            if name in self.block_of:
                self._check_hyperparameters(self.block_of[name])
                continue
            factor = self._factor(site)
            if factor is not None:
                factors.append(factor)
            elif self._used(name):
                likelihoods[name] = self._used(name)
        return Structure(
            self.prober.priors, self.prober.locals, tuple(factors), likelihoods
        )

    def _used(self, name: str) -> frozenset[str]:
        return frozenset().union(*self.needs[name].values())

    def _check_hyperparameters(self, prior: Prior) -> None:
        for name in prior.sites:
            others = self._used(name) - set(prior.sites)
            if others:
                raise ValueError(
                    f"Site '{name}': its hyperparameters depend on latent "
                    f"{_listed(others)}, which is not conjugate. Accepted: fixed "
                    "values or numpyro.param."
                )

    def _factor(self, site: Site) -> Factor | None:
        latent = not site.observed
        blocks = {
            self.block_of[n].name for n in self._used(site.name) if n in self.block_of
        }
        parents = {n for n in self._used(site.name) if n in self.prober.locals}
        if isinstance(site.fn, LinearGaussianChain):
            return self._chain(site)
        if isinstance(site.fn, CATEGORICAL) and (latent or blocks):
            return self._categorical(site)
        if gaussian_view(site) is not None and (latent or blocks):
            return self._gaussian(site, blocks, parents)
        if blocks:
            raise _not_conjugate(
                site, "its parameters", blocks, "no latent global site"
            )
        kinds = {self.prober.locals[n].kind for n in parents}
        if kinds == {"categorical"} and len(parents) == 1:
            return TableFactor(site.name, parents.pop())
        unspoken = {
            n
            for n in parents - self.spoken
            if self.prober.locals[n].kind != "categorical"
        }
        return self._known_regression(site, parents, unspoken) if unspoken else None

    # categorical sites

    def _categorical(self, site: Site) -> CategoricalFactor:
        used = self._used(site.name)
        if not used:
            return CategoricalFactor(site.name)
        accepted = (
            "the value of one Dirichlet site, or fixed probabilities (discrete Markov "
            "chains are not supported yet)"
        )
        prior = self.block_of.get(next(iter(used)))
        if len(used) > 1 or not isinstance(prior, DirichletPrior):
            raise _not_conjugate(site, "probs", used, accepted)

        def holds(values: dict[str, Any], found: Found) -> bool:
            return found.agrees(site.name, probs=values[prior.name])

        self._demand(holds, site, "probs", used, accepted)
        return CategoricalFactor(site.name, prior.name)

    # Gaussian chains

    def _chain(self, site: Site) -> ChainFactor:
        return ChainFactor(
            site.name,
            self._chain_block(site, "initial_loc", "initial_cov"),
            self._chain_block(site, "transition_matrix", "transition_cov"),
        )

    def _chain_block(self, site: Site, loc: str, cov: str) -> str | None:
        used = self.needs[site.name][loc] | self.needs[site.name][cov]
        accepted = (
            "the weight and the covariance of one global block, or fixed values "
            "(switching dynamics are not supported yet)"
        )
        if not used:
            return None
        names = {self.block_of[n].name for n in used if n in self.block_of}
        prior = self.prober.priors.get(next(iter(names))) if len(names) == 1 else None
        if not isinstance(prior, RegressionPrior) or used - set(prior.sites):
            raise _not_conjugate(site, f"({loc}, {cov})", used, accepted)

        def holds(values: dict[str, Any], found: Found) -> bool:
            weight, covariance = prior.pair(values)
            weight = weight[..., 0] if loc == "initial_loc" else weight
            return found.agrees(site.name, **{loc: weight, cov: covariance})

        self._demand(holds, site, f"({loc}, {cov})", used, accepted)
        return prior.name

    # Gaussian vectors

    def _gaussian(
        self, site: Site, blocks: set[str], parents: set[str]
    ) -> GaussianFactor:
        accepted = (
            "loc = F u and covariance = Sigma of one global block, with u affine in at "
            "most one latent Gaussian site (observations only; a latent chain over "
            "time is one LinearGaussianChain), picked by at most one latent Categorical"
        )
        kinds = {n: self.prober.locals[n].kind for n in parents}
        selectors = [n for n, kind in kinds.items() if kind == "categorical"]
        states = [n for n, kind in kinds.items() if kind != "categorical"]
        too_many = len(blocks) > 1 or len(selectors) > 1 or len(states) > 1
        if too_many or (states and not site.observed):
            raise _not_conjugate(site, "(loc, covariance)", blocks | parents, accepted)
        selector = selectors[0] if selectors else None
        if not blocks:
            return GaussianFactor(site.name, selector=selector)
        prior = self.prober.priors[blocks.pop()]
        if not isinstance(prior, RegressionPrior):
            raise _not_conjugate(site, "(loc, covariance)", {prior.name}, accepted)
        parent = states[0] if states else None
        factor = find_regression(self.prober, site, prior, selector, parent)
        if factor is None:
            used = {prior.name} | parents
            raise _not_conjugate(site, "(loc, covariance)", used, accepted)
        return factor

    def _known_regression(
        self, site: Site, parents: set[str], unspoken: set[str]
    ) -> GaussianFactor:
        """A likelihood that is linear and Gaussian in a state with no potential."""
        parent = sorted(unspoken)[0]
        if gaussian_view(site) is not None and parents == {parent}:
            free = parent not in self.needs[site.name]["covariance"]
            if free and is_linear(self.prober, site, parent):
                return GaussianFactor(site.name, parent=parent)
        raise ValueError(
            f"Site '{parent}': latent, observed through site '{site.name}' "
            f"({type(site.fn).__name__}), and neither conjugate to it nor given a "
            "potential. Return a GaussianPotential for it from the recognition "
            "function, or make the observation linear and Gaussian in it."
        )

    # identities at random points

    def _demand(
        self,
        identity: Identity,
        site: Site,
        what: str,
        used: Collection[str],
        accepted: str,
    ) -> None:
        if not self.prober.holds(identity):
            raise _not_conjugate(site, what, used, accepted)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _not_conjugate(
    site: Site, what: str, used: Collection[str], accepted: str
) -> ValueError:
    return ValueError(
        f"Site '{site.name}' ({type(site.fn).__name__}): {what} depend on latent "
        f"{_listed(used)} in a way that is not conjugate. Accepted: {accepted}. No "
        "neural network or other nonlinear function may stand between a global and a "
        "local site."
    )
