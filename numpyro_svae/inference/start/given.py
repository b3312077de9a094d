# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Starts of global posteriors that a user gives."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, TypeAlias

import jax
import numpyro.distributions as dist

from numpyro_svae.families import NaturalParameters
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.run.wrappers import peel

__all__ = ["check_names", "check_starts", "natural_of"]

Start: TypeAlias = dist.Distribution | NaturalParameters


def check_names(blocks: Collection[str], given: dict[str, Start]) -> None:
    """Starts must be for global blocks.

    :param blocks: their names.
    :param given: the starts.
    :raises ValueError: naming those that are not.
    """
    unknown = sorted(set(given) - set(blocks))
    if unknown:
        raise ValueError(
            f"init: found a start for {unknown}, and no global posterior of that name. "
            f"Accepted: some of {sorted(blocks)}; the posterior of two sites has the "
            "name of the location or weight."
        )


def check_starts(
    blocks: dict[str, Prior],
    given: dict[str, Start],
    priors: dict[str, NaturalParameters],
) -> None:
    """Starts must have the family and the shape of the posterior.

    :param blocks: the global blocks.
    :param given: the starts.
    :param priors: natural parameters of the priors.
    :raises ValueError: naming the site, what was found and what is accepted.
    """
    for name, start in given.items():
        block, prior = blocks[name], priors[name]
        try:
            found = jax.eval_shape(partial(natural_of, block, start))
        except (AttributeError, TypeError, ValueError):
            found = None
        if type(found) is not type(prior) or _shapes(found) != _shapes(prior):
            family = block.posterior(prior)
            raise ValueError(
                f"init: found {_described(start)} for site '{name}'. Accepted: "
                f"{_described(family)}, or {_described(prior)}."
            )


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def _described(start: Any) -> str:
    if not isinstance(start, dist.Distribution):
        return f"{_name(start)} with arrays of shapes {_shapes(start)}"
    start = peel(start)[0]
    return f"{_name(start)} that draws arrays of shape {start.shape()}"


def _name(start: Any) -> str:
    """The name of a class, with the package to import it from if it is ours."""
    package, *folders = type(start).__module__.split(".")
    ours = f"{package}.{folders[0]}." if package == "numpyro_svae" else ""
    return ours + type(start).__name__


def natural_of(block: Prior, given: Start) -> NaturalParameters:
    """Natural parameters of a distribution that a user gave as a start of a block."""
    if isinstance(given, NaturalParameters):
        return given.widened()
    return block.natural_of(peel(given)[0]).widened()
