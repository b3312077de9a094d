# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Checks of what the user gave, each with a message that names the site."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.families import NaturalParameters
from numpyro_svae.potentials import CategoricalPotential, GaussianPotential
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.run.fixed import check_given
from numpyro_svae.program.run.kinds import kind_of, lengths_of
from numpyro_svae.program.run.plates import check_shape
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Structure

__all__ = [
    "Potential",
    "check_data",
    "check_hyperparameters",
    "check_labels",
    "check_natural",
    "check_plates",
    "check_potentials",
    "check_shapes",
    "stand_ins",
]

Potential = GaussianPotential | CategoricalPotential


def _concrete(*arrays: Any) -> bool:
    return all(map(not_jax_tracer, arrays))


def stand_ins(tree: Any) -> Any:
    """Concrete arrays in place of traced ones: wiring does not depend on values."""

    def stand_in(leaf: Any) -> Any:
        if _concrete(leaf):
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(random.key(0), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return random.uniform(random.PRNGKey(0), leaf.shape, leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype)

    return jax.tree.map(stand_in, tree)


def check_shapes(sites: dict[str, Site]) -> None:
    """Observed values must have the shapes that their distributions draw.

    :raises ValueError: naming the site, both shapes and the plates, or a latent site or
        data of which there is nothing, or a global site that had another shape.
    """
    for site in sites.values():
        drawn, found = site.outer.shape(), np.shape(site.value)
        none = 0 in found and 0 not in drawn if site.observed else 0 in drawn
        if none:
            what = "data" if site.observed else "a latent site"
            raise ValueError(
                f"Site '{site.name}': found {what} of shape {found}, which is nothing. "
                "Accepted: one entry or more; without any, a program without the site."
            )
        if site.observed:
            check_shape(site.name, site.outer, site.value, site.frames)
        else:
            check_given(site.name, drawn, found)


def check_data(sites: dict[str, Site]) -> None:
    """Observed values must be finite wherever they are not masked out.

    :raises ValueError: naming the site and how many values are not.
    """
    for site in sites.values():
        value = site.value
        if not site.observed or not _concrete(value, site.mask):
            continue
        bad = ~np.isfinite(np.asarray(value, float))
        if site.entries is not None:
            bad = bad & site.entries
        elif site.mask is not None:
            mask = np.asarray(site.mask)
            trailing = bad.ndim - len(site.batch_shape) - site.extra
            bad = bad & np.reshape(mask, mask.shape + (1,) * max(trailing, 0))
        count = int(np.sum(bad))
        if count:
            raise ValueError(
                f"Site '{site.name}': found {count} observed values that are NaN or "
                "infinite. Accepted: finite values; mark missing ones with "
                "numpyro.handlers.mask or .mask(...) on the distribution, and on the "
                "potential with GaussianPotential.mask."
            )


def check_labels(sites: dict[str, Site]) -> None:
    """Labels that are data must be states that there are, and lengths those of paths.

    :raises ValueError: naming the site, what was found, where it is and what there is.
    """
    for site in sites.values():
        lengths = lengths_of(site.fn)
        if lengths is not None and _concrete(lengths):
            _check_range(site.name, "length", lengths, 0, site.fn.event_shape[0])
        kind = kind_of(site.fn)
        if kind is None or not (site.observed and kind.discrete):
            continue
        if _concrete(site.value, site.mask):
            value, states = np.asarray(site.value), int(kind.size(site) or 0)
            if site.mask is not None:
                value = np.where(site.mask, value, 0)
            _check_range(site.name, "label", value, 0, states - 1)


def _check_range(name: str, what: str, found: Any, first: int, last: int) -> None:
    found = np.asarray(found)
    wrong = np.argwhere(~((found >= first) & (found <= last)) | (found % 1 != 0))
    if len(wrong):
        at = tuple(wrong[0].tolist())
        where = f" at {at}, the first of {len(wrong)} such {what}s" if at else ""
        raise ValueError(
            f"Site '{name}': found the {what} {found[at]}{where}. Accepted: whole "
            f"numbers from {first} to {last}."
        )


def check_hyperparameters(
    priors: dict[str, Prior], naturals: dict[str, NaturalParameters]
) -> None:
    """Every prior must be in the domain of its family.

    :param priors: the global blocks.
    :param naturals: natural parameters of their priors.
    :raises ValueError: naming the site and what is out of its domain.
    """
    for name, prior in priors.items():
        fault = prior.fault(naturals[name])
        if fault is not None:
            raise ValueError(fault)


def check_potentials(
    structure: Structure, sites: dict[str, Site], potentials: dict[str, Potential]
) -> None:
    """Potentials must be for latent local sites and have their kind and positions.

    :raises ValueError: naming the site, what was found and what is accepted.
    """
    for name, potential in potentials.items():
        local = structure.locals.get(name)
        if local is None:
            what = "observed" if name in sites and sites[name].observed else "unknown"
            raise ValueError(
                f"Site '{name}': the recognition function returned a potential for it, "
                f"but it is {what}. Accepted: latent local sites, here "
                f"{sorted(structure.locals) or 'none'}."
            )
        kind = CategoricalPotential if local.discrete else GaussianPotential
        if not isinstance(potential, kind):
            raise ValueError(
                f"Site '{name}': the recognition function returned "
                f"{type(potential).__name__}. Accepted: a {kind.__name__}."
            )
        if isinstance(potential, CategoricalPotential):
            found, size = "states", potential.num_states
        else:
            found, size = "dimension", potential.dim
        expected = sites[name].positions, local.size
        if (potential.batch_shape, size) != expected:
            raise ValueError(
                f"Site '{name}': its potential has batch shape {potential.batch_shape} "
                f"and {found} {size}. Accepted: batch shape {expected[0]} "
                f"(the plates of the site, then time) and {found} {expected[1]}."
            )
        if isinstance(potential, GaussianPotential):
            _check_finite(name, potential.info_vector, potential.precision)
        else:
            _check_possible(name, potential.logits)


def check_natural(name: str, natural: NaturalParameters) -> None:
    """Natural parameters must be in the domain of their family, as far as can be seen.

    :raises ValueError: naming the site.
    """
    leaves = jax.tree.leaves(natural)
    if not _concrete(*leaves):
        return
    if not natural.in_domain():
        raise ValueError(
            f"Site '{name}': its natural parameters are outside of their domain in "
            f"{leaves[0].dtype}. Accepted: positive and finite ones; if a start was "
            "given by `init`, check it."
        )


def _check_finite(name: str, *arrays: Array) -> None:
    for array in arrays:
        if _concrete(array) and not np.all(np.isfinite(array)):
            raise ValueError(
                f"Site '{name}': its potential is NaN or infinite. Accepted: finite "
                "potentials; look for NaN in the data that the recognition function "
                "sees, and use GaussianPotential.mask where data are missing."
            )


def _check_possible(name: str, logits: Array) -> None:
    """Some state must be possible everywhere; minus infinity rules a state out."""
    if _concrete(logits):
        best = np.max(logits, -1)
        if np.any(np.isnan(logits)) or not np.all(np.isfinite(best)):
            raise ValueError(
                f"Site '{name}': its potential is NaN, infinite, or rules out every "
                "state somewhere. Accepted: finite logits, or minus infinity for some "
                "of the states; CategoricalPotential.mask where data are missing."
            )


def check_plates(model: dict[str, dict], recognition: dict[str, dict]) -> None:
    """The recognition function must open the model's plates as the model does.

    :param model: the messages of a run of the model.
    :param recognition: the plates of a run of the recognition function.
    :raises ValueError: naming the plate, what was found and what is accepted.
    """
    plates = {n: m for n, m in model.items() if m["type"] == "plate"}
    for name, message in recognition.items():
        if name not in plates:
            raise ValueError(
                f"Plate '{name}': the recognition function opens it and the model does "
                f"not. Accepted: the plates of the model, {sorted(plates)}."
            )
        found, accepted = _size(message), _size(plates[name])
        if found != accepted:
            raise ValueError(
                f"Plate '{name}': the recognition function opens it with (size, "
                f"subsample_size) = {found}. Accepted: {accepted}, as in the model."
            )


def _size(message: dict) -> tuple[int, int]:
    size, subsample = message["kwargs"].get("written", message["args"])
    return size, size if subsample is None else subsample
