# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which likelihoods are regressions on global weights that are not conjugate."""

from __future__ import annotations

from functools import partial

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.bind.predictors import Layout, bind_predictors
from numpyro_svae.program.read.wiring import Wiring, listed
from numpyro_svae.program.run.sites import Program, Site, is_gaussian
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.linear_parts import Split

__all__ = ["check_predictors", "predicting"]

_LARGEST = 32  # predictors at one position
_ACCEPTED = (
    "a likelihood that treats positions apart, each given by a few numbers that are "
    f"affine in the weights (at most {_LARGEST}), as Bernoulli(logits=X @ w + b) in a "
    "plate of data, or Poisson(jnp.exp(X @ w)). The layers of a network are "
    "numpyro.param, or have a guide of their own in AutoGuideList"
)


def predicting(wiring: Wiring, site: Site) -> tuple[str, ...]:
    """The blocks of the weights of a regression, in program order.

    :return: empty if the site is conjugate, or none of a regression.
    """
    used = wiring.used(site.name)
    if not site.observed or is_gaussian(site.fn) or not used <= {*wiring.block_of}:
        return ()
    names = {wiring.block_of[name].name for name in used}
    blocks = {n: p for n, p in wiring.prober.priors.items() if n in names}
    apart = all(block.part == "weight" for block in blocks.values())
    return tuple(blocks) if apart else ()


def check_predictors(
    program: Program, structure: Structure, sites: dict[str, Site]
) -> None:
    """Regressions must have few predictors at each position, which see no other.

    :raises ValueError: naming the site.
    """
    if not structure.predicted:
        return
    for name, predictors in bind_predictors(program, structure, sites).items():
        split, blocks = predictors.split(), structure.predicted[name]
        layout = Layout.of(split)
        size = sum(layout.sizes)
        if size > _LARGEST:
            found = f"{size} predictors at each position"
        elif not _are_apart(split, layout):
            found = "positions that see the predictors of others"
        else:
            continue
        raise ValueError(
            f"Site '{name}' ({type(sites[name].fn).__name__}): not conjugate, and "
            f"depends on latent {listed(blocks)}, with {found}. Accepted: {_ACCEPTED}."
        )


def _are_apart(split: Split, layout: Layout) -> bool:
    """Whether the result at some positions stays if predictors elsewhere change."""
    rng = np.random.default_rng(0)
    draw = partial(rng.standard_normal, (*layout.positions, sum(layout.sizes)))
    first: np.ndarray = np.asarray(draw())
    other: np.ndarray = np.asarray(draw())
    moved = rng.random(layout.positions) < 0.5
    other = np.where(layout.is_shared, first, other)

    @jax.jit
    def finish(packed: Array) -> Array:
        return split.finish(layout.unpack(packed))

    before = np.asarray(finish(jnp.asarray(first)))
    after = np.asarray(finish(jnp.asarray(np.where(moved[..., None], other, first))))
    return np.array_equal(before[~moved], after[~moved], equal_nan=True)
