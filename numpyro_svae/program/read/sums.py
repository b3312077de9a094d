# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Advice on Gaussian sites of which parts are added or multiplied in other ways."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Any

import numpy as np
import numpyro.distributions as dist

from numpyro_svae.program.read.wiring import Wiring, listed
from numpyro_svae.program.run.sites import Program, Site, is_gaussian, is_path
from numpyro_svae.program.run.wrappers import inside
from numpyro_svae.program.structure.probing import Prober

__all__ = [
    "MIXTURES",
    "OF_MIXTURES",
    "of_noises",
    "of_picks",
    "of_products",
    "of_scale",
    "of_shape",
    "of_steps",
    "of_sums",
    "of_walks",
    "of_weights_beside",
]

MIXTURES = dist.MixtureSameFamily, dist.MixtureGeneral
OF_MIXTURES = (
    " Write the label of a mixture as a latent site in the same plates: z = "
    "numpyro.sample('z', dist.Categorical(weights)), and the components at z, as in "
    "dist.Normal(mu[z], sigma). It is summed over."
)

_PARTS = (
    "each part is a site: of factors, as in W @ W.T + jnp.diag(psi), "
    "x = numpyro.sample('x', Normal(0, 1).expand([K]).to_event(1)) in the plate of the "
    "data, and Normal(x @ W.T, jnp.sqrt(psi)).to_event(1) in the place of this site; "
    "of two variances, as in jnp.sqrt(tau**2 + s**2), x ~ Normal(loc, tau) and "
    "Normal(x, s)"
)

_FACTORS = (
    " Of a scale for all and one for each group, as in s * t[group], write those of "
    "the groups alone, and the first as a number in their prior: m = numpyro.sample("
    "'m', dist.Normal(0.0, 1.0)), t ~ LogNormal(m, 0.5) in their plate, and t[group]. "
    "Of one for each datum, as in s / jnp.sqrt(w), with w ~ Gamma(df / 2, df / 2), "
    "write data of dist.StudentT(df, loc, s), with numpyro.param for s or jnp.exp of a "
    "Normal site."
)


def of_sums(wiring: Wiring, site: Site) -> str:
    """What to write where a covariance is a sum, for a message; empty if it is none."""
    blocks = {wiring.block_of.get(n) for n in wiring.needs[site.name]["covariance"]}
    found = {block.name for block in blocks if block and block.part == "weight"}
    noises = [block for block in blocks if block and block.part == "noise"]
    if noises and not found and not _scales(wiring.prober, site, noises):
        found = {block.name for block in noises}
    if not found:
        return ""
    alone = (_scales(wiring.prober, site, [block]) for block in noises)
    if len(noises) > 1 and all(alone):
        return f" Its covariance is a product of {listed(found)}.{_FACTORS}"
    log = ""
    if not {block.name for block in noises} >= found:
        log = (
            " The exponential of a Normal site is a site by itself: dist.LogNormal in "
            "its place."
        )
    return (
        f" Its covariance is a sum, or another function of {listed(found)} than a "
        f"product.{log} Of a sum, {_PARTS}."
    )


def of_walks(site: Site) -> str:
    """What to write for a random walk of which the noise is learnt, for a message;
    empty if the site is none."""
    walk = inside(site.outer)
    if not isinstance(walk, dist.GaussianRandomWalk):
        return ""
    return (
        " Of a walk of which the noise s is learnt, write a chain: ns."
        "LinearGaussianChain(jnp.zeros(1), s**2 * one, one, s**2 * one, num_steps="
        f"{walk.event_shape[0]}) with one = jnp.eye(1), in the plate of the walks, and "
        f"{site.name}[..., 0] where it is used."
    )


def of_weights_beside(wiring: Wiring, site: Site) -> str:
    """What to write where data that are no Gaussians depend on weights and on latent
    vectors, for a message; empty if they do not."""
    used = wiring.used(site.name)
    blocks = (wiring.block_of.get(name) for name in used)
    weights = {block.name for block in blocks if block and block.part == "weight"}
    vectors = wiring.ordered(used, False)
    if is_gaussian(site.fn) or is_path(site.fn) or not (weights and vectors):
        return ""
    return (
        f" It depends on the weights {listed(weights)} and on the latent vectors "
        f"{listed(vectors)}. Write the former as numpyro.param; or the latter, where "
        "they are effects of groups, as numbers in a plate of their own: a = "
        "numpyro.sample(name, dist.Normal(mu, s)) in numpyro.plate('groups', G), and "
        "a[group] in the plate of the data."
    )


def _scales(prober: Prober, site: Site, noises: list[Any]) -> bool:
    """Whether noises that are all twice as large make the covariance twice as large."""
    values, more = prober.plain_values(), {}
    for block in noises:
        for name, unit in block.unit_noise().items():
            values[name] = unit
            more[name] = block.of_precisions(0.5) * unit if block.by_entry else 2 * unit
    once, twice = (
        np.asarray(prober.read(own)[site.name]["covariance"])
        for own in (values, {**values, **more})
    )
    return np.allclose(twice, 2 * once, 1e-4)


def of_products(wiring: Wiring, site: Site) -> str:
    """What to write where Gaussian sites may be multiplied, for a message."""
    locals, block_of = wiring.prober.locals, wiring.block_of
    gaussian = [
        name
        for name in wiring.needs[site.name]["loc"]
        if (name in block_of and block_of[name].part == "weight")
        or (name in locals and not locals[name].discrete)
    ]
    pairs = combinations(sorted(gaussian), 2)
    found = next((p for p in pairs if _are_multiplied(wiring.prober, site, p)), ())
    if not found:
        return ""
    return (
        f" It multiplies {listed(found)}. Of vectors, as in matrix factorisation, "
        "multiply two at a time, write each in a plate of its own, and "
        "Normal(jnp.sum(u[row] * v[column], -1), s) in one plate of the data, with the "
        "row and the column of each, and s known, numpyro.param, or from one Gamma, "
        "InverseGamma or HalfNormal site."
    )


def _are_multiplied(prober: Prober, site: Site, pair: tuple[str, ...]) -> bool:
    """Whether a location is no sum of functions of one of two sites each."""
    values = prober.random_values(0)

    def loc(*zeros: str) -> np.ndarray:
        others = {name: np.zeros_like(values[name]) for name in zeros}
        return np.asarray(prober.read({**values, **others})[site.name]["loc"])

    first, second = pair
    return not np.allclose(loc() + loc(*pair), loc(first) + loc(second), 1e-3, 1e-4)


def of_shape(site: Site, dims: Collection[int], beside: list[Site]) -> ValueError:
    """The error for a mean or weight of another shape than one may have.

    :param dims: the dimensions of its responses.
    :param beside: the Gaussian sites that are used with it, itself among them.
    """
    return ValueError(
        f"Site '{site.name}' ({type(site.fn).__name__}): found batch shape "
        f"{site.batch_shape} and event shape {tuple(site.outer.event_shape)}, for "
        f"responses of dimension {sorted(dims)}. Accepted for a global mean or weight: "
        "at most one plate of K components, dim=-1 (of a table, one plate of all "
        "entries: a[row], or X @ w with ones in X for row and column); numbers in "
        "several plates, with what depends on them in all of these; a mean "
        "of the dimension D of its responses, a weight F of shape (D, M) as in F @ u, "
        "or (M, D) as in u @ F, or the weights (M,) of a response of dimension one. "
        "Weights of logits of latent states are known, or numpyro.param. The logarithm "
        "of a scale is none: write a dist.LogNormal site. Of a product of matrices, as "
        "u @ v.T, write the rows of both in plates, dim=-2 and dim=-1, and "
        "Normal(jnp.sum(u * v, -1), s) in both." + _of_stacked(site, beside)
    )


def _of_stacked(site: Site, beside: list[Site]) -> str:
    """What to write where numbers are entries of one vector, for a message.

    :param beside: the Gaussian sites that are used with a site, itself among them.
    """
    found = [other.name for other in beside if not other.outer.event_shape]
    if site.name not in found or len(found) < 2:
        return ""
    return (
        f" Of numbers {listed(found)} that are entries of one vector, as in "
        "jnp.stack([a, b], -1), write one site, with a location and a scale for each: "
        f"dist.Normal(locs, scales).to_event(1) of {len(found)} entries."
    )


def of_noises(wiring: Wiring, used: frozenset[str]) -> str:
    """What is accepted where several blocks are noises, for a message."""
    blocks = {wiring.block_of[n] for n in used if n in wiring.block_of}
    noises = [block.name for block in blocks if block.part == "noise"]
    if len(noises) < 2:
        return ""
    return (
        f"; of several noises, as {listed(noises)}, each alone that of entries of its "
        "own, as in jnp.stack([a, b]), and those of members from one batch; of those "
        "that a label z or data pick, as in jnp.where(z == 1, a, b), each a member of "
        "one site, s = numpyro.sample(name, prior) in numpyro.plate('members', 2), and "
        "s[z], where priors may differ by member"
    )


def of_picks(wiring: Wiring, site: Site) -> str:
    """What to write where labels pick a noise that is learnt, for a message; empty if
    none does."""
    of_cov, of_loc = (wiring.needs[site.name][part] for part in ("covariance", "loc"))
    blocks = {wiring.block_of[n] for n in of_cov if n in wiring.block_of}
    noises = [block for block in blocks if block.part == "noise"]
    labels = wiring.ordered(frozenset(of_cov), True)
    if len(noises) != 1 or not labels:
        return ""
    if noises[0].components is None:
        return (
            f" {listed(labels)} says where '{noises[0].name}' is its noise. A noise "
            "that is known elsewhere is a member with a narrow prior: s = "
            "numpyro.sample(name, dist.LogNormal(jnp.log(jnp.array([1.0, 10.0])), "
            "jnp.array([1.0, 0.01]))) in numpyro.plate('members', 2), and s[z]."
        )
    means = wiring.ordered(frozenset(of_loc), True)
    if means and set(means) != set(labels):
        return (
            f" {listed(means)} picks its mean and {listed(labels)} its noise. Where "
            "they differ, the means are entries of one site, mu = numpyro.sample(name, "
            "dist.Normal(m, s).expand([K]).to_event(1)) in the place of a plate, and "
            "mu[z]."
        )
    return ""


def of_steps(wiring: Wiring, site: Site) -> str:
    """What to write where data are of some steps of a path, for a message."""
    prober, (*_, count) = wiring.prober, (1, *site.positions)
    paths = [
        name
        for name in wiring.used(site.name)
        if name in prober.locals and prober.locals[name].chain
    ]
    longer = [name for name in paths if prober.sites[name].positions[-1] > count]
    if not longer:
        return ""
    return (
        f" Of some steps of {listed(longer)}, as x[1:], write data of all steps, and a "
        "mask that says which there are: numpyro.sample(name, dist.Normal(x, s)"
        ".mask(seen).to_event(2), obs=y), with seen and y of the shape of x."
    )


def of_scale(program: Program, sites: dict[str, Site], site: Site) -> str:
    """What to write where a scale is not alone the noise of Gaussian sites.

    :param site: the scale, which is no block.
    :return: advice for a message; empty if no Gaussian site has it in its noise.
    """
    needs = Prober(program, sites, {}, {}).dependencies([site.name])
    found: Collection[str] = {
        name
        for name, used in needs.items()
        if is_gaussian(sites[name].fn) and site.name in used.get("covariance", ())
    }
    if not found:
        return ""
    return (
        f" In the noise of {listed(found)} it is no power alone. Where that is a sum, "
        f"{_PARTS}."
    )
