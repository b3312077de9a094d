# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads Gaussian sites and chains."""

from __future__ import annotations

from numpyro_svae.program.bind.affine import PARAMETERS, View
from numpyro_svae.program.read.bilinear import find_bilinear
from numpyro_svae.program.read.find_supports import find_support
from numpyro_svae.program.read.gaussian_factors import find_factor
from numpyro_svae.program.read.sums import (
    of_noises,
    of_picks,
    of_products,
    of_steps,
    of_sums,
    of_walks,
)
from numpyro_svae.program.read.wiring import Wiring, listed, not_conjugate
from numpyro_svae.program.run.sites import Site, is_gaussian_vector, response_dim
from numpyro_svae.program.structure.factors import (
    Beside,
    Factor,
    GaussianFactor,
    Source,
)
from numpyro_svae.program.structure.supports import Support

__all__ = ["read_chain", "read_gaussian", "read_known_regression"]


_ACCEPTED = (
    "the weight F and the covariance Sigma of one global block or of independent ones, "
    "or fixed values, as loc = K + F S and covariance = s Sigma with any known K, S "
    "and s; of a batch of blocks, the member that data, one discrete site or both pick "
    "(as in F[z[..., 1:]], or F[z][..., None, :, :] for a state that lasts)"
)


def read_chain(wiring: Wiring, site: Site, steps: str = _ACCEPTED) -> list[Factor]:
    """The factors of a Gaussian chain: its first state, and its steps.

    :param wiring: the program.
    :param site: the chain.
    :param steps: what is accepted of what is learnt of its steps, for a message.
    """
    accepted = {"initial": _ACCEPTED, "transition": steps}
    return [_read(wiring, site, role, accepted[role]) for role in accepted]


def _read(wiring: Wiring, site: Site, role: str, accepted: str) -> GaussianFactor:
    """The factor of a part of a chain."""
    loc, cov = PARAMETERS[role]
    used = wiring.needs[site.name][loc] | wiring.needs[site.name][cov]
    support = find_support(wiring.prober, site, role)
    if not used:
        given = Beside("map")
        return GaussianFactor(site.name, Source(), role, beside=given, support=support)
    found, parents = None, wiring.ordered(used, False)
    if parents and role == "initial" and support is not None:
        raise ValueError(
            f"Site '{site.name}' ({type(site.fn).__name__}): found an initial_loc that "
            f"depends on latent {listed(parents)} beside a singular initial_cov. "
            "Accepted: an initial_cov that is positive definite, such as one of 1e-4 "
            "times the variance of the first state."
        )
    if not parents or (role == "initial" and not site.observed):
        found = _find(wiring, site, role, used, support)
    if found is None and parents and role == "transition":
        raise ValueError(
            f"Site '{site.name}' ({type(site.fn).__name__}): its steps depend on "
            f"latent {listed(parents)}. Accepted: what drives a path as a part of its "
            "state, that is one path of [x; u], whose transition_cov may have zeros "
            "where u does not move, or a first state that depends on latent vectors."
            f"{_of_both(wiring, site.name, parents[0])}"
        )
    if found is None:
        accepted += of_noises(wiring, used)
        raise not_conjugate(site, f"({loc}, {cov})", used, accepted)
    return found


def _of_both(wiring: Wiring, name: str, parent: str) -> str:
    """What to write where states of a scan depend on others of it, for a message."""
    if not any({name, parent} <= {*s.chains} for s in wiring.prober.program.scans):
        return ""
    both = f"{name}_{parent}"
    return (
        f" In the scan, write one site of both: x = numpyro.sample('{both}', "
        f"dist.Normal(A @ x, s).to_event(1)), with '{name}' and '{parent}' the entries "
        "of x and of s, as A = [[1, 1], [0, 1]] of a level and its slope; of the first "
        "state too."
    )


def _find(
    wiring: Wiring,
    site: Site,
    role: str,
    used: frozenset[str],
    support: Support | None = None,
) -> GaussianFactor | None:
    """The factor of a site that depends on some latent sites, if there is one."""
    blocks = {wiring.block_of[n].name for n in used if n in wiring.block_of}
    dim = response_dim(site) if support is None else support.dim
    holder = wiring.holder(site, role, blocks, dim, support)
    if blocks and holder is None:
        return None
    selectors = wiring.ordered(used, True)
    cov = PARAMETERS[role][1]
    of_noise = bool(wiring.needs[site.name][cov].intersection(selectors))
    known_noise = holder is None or not holder.has_noise
    parents = wiring.ordered(used, False)
    vector = role == "value" or bool(parents)
    view = View(wiring.prober, site, role, holder, support, vector)
    return find_factor(view, parents, selectors, of_noise and known_noise)


def read_gaussian(wiring: Wiring, site: Site) -> Factor:
    """The factor of a Gaussian site that is latent or depends on a global block."""
    used = wiring.used(site.name)
    if not used:
        return GaussianFactor(site.name, beside=Beside("offset"))
    found = _find(wiring, site, "value", used) or find_bilinear(wiring, site)
    if found is None:
        raise not_conjugate(
            site,
            "(loc, covariance)",
            used,
            "loc = (K + F S) [x; 1] and covariance = s Sigma, with x latent Gaussian "
            "sites, K, S and s known, and (F, Sigma) of one global block or of "
            "independent ones (Normal means and weights, of which those of several "
            "blocks are added up; a Gamma, InverseGamma or InverseWishart noise), "
            "picked by latent discrete sites or data from one batch, as in "
            "mu.reshape(J, K, D)[z, w] (weights of two batches that sites pick apart "
            "are written as one batch of all pairs); weights that are used "
            "together are one site, as Normal(0, 1).expand([M]).to_event(1), and no "
            "plate; a latent chain over time is one LinearGaussianChain, or one site "
            "for each step" + of_noises(wiring, used),
            of_picks(wiring, site)
            or of_steps(wiring, site)
            or of_walks(site)
            or of_sums(wiring, site)
            or of_products(wiring, site),
        )
    return found


def read_known_regression(wiring: Wiring, site: Site) -> GaussianFactor | None:
    """A likelihood that is linear and Gaussian in latent states, if it is."""
    if not is_gaussian_vector(site):
        return None
    return _find(wiring, site, "value", wiring.used(site.name))
