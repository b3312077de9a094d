# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the latent sites of a program are, and what depends on them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from numpyro_svae.program.bind.affine import View
from numpyro_svae.program.priors.joined_noises import JoinedNoises
from numpyro_svae.program.priors.joins import Join
from numpyro_svae.program.priors.joint_prior import JointPrior
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.read.find_noises import find_noises
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.run.wrappers import inside
from numpyro_svae.program.structure.probing import Prober
from numpyro_svae.program.structure.supports import Support

__all__ = ["Wiring", "listed", "not_conjugate"]


@dataclass(frozen=True)
class Wiring:
    """A program that is being read.

    :param prober: runs it.
    :param block_of: the global block of each of its global sites.
    :param needs: the latent sites that each parameter of each site depends on.
    """

    prober: Prober
    block_of: dict[str, Prior]
    needs: dict[str, dict[str, frozenset[str]]]

    def used(self, name: str) -> frozenset[str]:
        """The latent sites that a site depends on."""
        return frozenset().union(*self.needs[name].values())

    def ordered(self, names: Collection[str], discrete: bool) -> tuple[str, ...]:
        """The discrete or the Gaussian ones among latent sites, in program order."""
        locals = self.prober.locals
        return tuple(n for n in locals if n in names and locals[n].discrete == discrete)

    def holder(
        self,
        site: Site,
        role: str,
        blocks: Collection[str],
        dim: int | None,
        support: Support | None = None,
    ) -> JointPrior | Join | None:
        """What holds the parameters of a Gaussian factor; None if nothing can.

        :param site: the site of the factor.
        :param role: the part of its density.
        :param blocks: the global blocks that the factor depends on.
        :param dim: the dimension of its response.
        :param support: where the part has noise; None if that is everywhere.
        """
        found: list[Any] = [p for n, p in self.prober.priors.items() if n in blocks]
        if [p.part for p in found] == ["both"]:
            return found[0]
        weights = tuple(p for p in found if p.part == "weight")
        noises = [p for p in found if p.part == "noise"]
        if len(weights) + len(noises) < len(found):
            return None
        if not found or dim is None or any(w.dim != dim for w in weights):
            return None
        if len({p.components for p in found} - {None}) > 1:
            return None  # batches that are picked apart
        noise = None
        if len(noises) == 1 and noises[0].covers(dim):
            noise = JoinedNoises.of(noises[0], dim)
        elif len(noises) > 1:
            view = View(self.prober, site, role, None, support)
            noise = find_noises(view, noises, dim)
        if noises and noise is None:
            return None
        join = Join(f"{site.name} {role}", dim, weights, noise)
        self.prober.joins[join.name] = join
        return join


def listed(names: Collection[str]) -> str:
    """Names of sites, for a message."""
    return ", ".join(f"'{name}'" for name in sorted(names))


def not_conjugate(
    site: Site, what: str, used: Collection[str], accepted: str, advice: str = ""
) -> ValueError:
    """The error for parameters that depend on latent sites in another way.

    :param advice: what to write instead, in sentences.
    """
    hint = (
        ""
        if site.observed
        else " If it has data, and they are only not given here (such as rewards while "
        "acting), let the guide read the model with them first: by training, SVI.init "
        "or training.load_fit."
    )
    return ValueError(
        f"Site '{site.name}' ({type(inside(site.outer)).__name__}): {what} depend "
        f"on latent {listed(used)} in a way that is not conjugate.{advice} Accepted: "
        f"{accepted}. No neural network or other nonlinear function may stand "
        f"between a global and a local site.{hint}"
    )
