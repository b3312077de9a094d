# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which likelihoods are regressions on global weights that are not conjugate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.program.bind.latent_weights import BoundWeights, bind_weights
from numpyro_svae.program.bind.predictor_layout import Layout
from numpyro_svae.program.bind.predictors import bind_predictors
from numpyro_svae.program.read.sums import MIXTURES, OF_MIXTURES
from numpyro_svae.program.read.wiring import Wiring, listed
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.sites import Program, Site, is_gaussian
from numpyro_svae.program.run.stepwise import of_one_step
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.linear_parts import Split
from numpyro_svae.program.structure.probing import Prober

__all__ = [
    "check_predictors",
    "is_regression",
    "of_likelihood",
    "predicting",
    "weights_alone",
    "with_orders",
]

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
    if not site.observed or not used <= {*wiring.block_of}:
        return ()
    if not is_regression(wiring, site):
        return ()
    return weights_alone(wiring, site, {wiring.block_of[name].name for name in used})


def is_regression(wiring: Wiring, site: Site) -> bool:
    """Whether data are not conjugate to the weights that they depend on.

    Normal numbers are not where their scales depend on some, as in ``Normal(X @ w,
    jnp.exp(X @ v))``, or their locations are not affine in each given the others.
    """
    if not is_gaussian(site.fn):
        return True
    if not site.observed or spelling_of(site.fn) != "numbers":
        return False
    needs = wiring.needs[site.name]
    weights = {n for n, block in wiring.block_of.items() if block.part == "weight"}
    if weights & needs["covariance"]:
        return True
    prober, names = wiring.prober, sorted(weights & needs["loc"])
    probers = [prober, *([prober.in_training] if site.name in prober.trained else [])]
    return not all(_is_affine(own, site, name) for own in probers for name in names)


def _is_affine(prober: Prober, site: Site, name: str) -> bool:
    """Whether the locations of data are affine in a site on a line through zero."""
    values = prober.random_values(0)

    def loc(times: float) -> Any:
        return prober.read({**values, name: times * values[name]})[site.name]["loc"]

    ahead, behind, between = loc(1.0), loc(-0.5), loc(0.25)
    finite = bool(np.all(np.isfinite(ahead)))  # other parameters may make no sense
    return not finite or same(2.0 * between, ahead + behind)


def weights_alone(
    wiring: Wiring, site: Site, names: Collection[str]
) -> tuple[str, ...]:
    """The blocks that a likelihood depends on, in program order, if all are weights.

    :param names: the blocks.
    :return: empty if none of them has weights.
    :raises ValueError: naming the site, if it has weights and other global sites.
    """
    blocks = {n: p for n, p in wiring.prober.priors.items() if n in names}
    others = [n for n, block in blocks.items() if block.part != "weight"]
    if not others:
        return tuple(blocks)
    if len(others) < len(blocks):
        log = f"log_{others[0]}"
        advice = (
            f"Write a positive parameter as the exponential of one, as in {log} = "
            f"numpyro.sample('{log}', dist.Normal(0.0, 1.0)) and jnp.exp({log}) in the "
            f"place of {others[0]}, which has a log-normal prior, and a probability as "
            "jax.nn.sigmoid of one."
        )
        if not isinstance(site.fn, dist.ZeroInflatedProbs):
            advice = _of_class(site).lstrip() or advice
        raise ValueError(
            f"Site '{site.name}' ({type(site.fn).__name__}): not conjugate, and "
            f"depends on latent {listed(others)} beside the weights "
            f"{listed({*blocks} - {*others})}. Accepted: Gaussian sites alone. {advice}"
        )
    return ()


def _of_class(site: Site) -> str:
    """What to write in the place of some distributions of data, for a message; empty
    for others."""
    if isinstance(site.fn, dist.LogNormal):
        return " Of positive data, write Normal(loc, scale) of their logs, jnp.log(y)."
    if isinstance(of_one_step(site.fn), MIXTURES):
        return OF_MIXTURES
    if isinstance(site.fn, dist.ZeroInflatedPoisson | dist.ZeroInflatedProbs):
        return (
            " Write which data are zero for another reason as a latent site in the "
            "same plates: z = numpyro.sample('z', dist.Bernoulli(gate)), and a rate of "
            "zero there, as in dist.Poisson(jnp.where(z == 1, 0.0, rate)). It is "
            "summed over."
        )
    return ""


def of_likelihood(site: Site) -> str:
    """What to write where data that are not conjugate depend on other blocks than
    Gaussian ones, for a message."""
    return _of_class(site) or (
        " A scale, a shape or a rate of such data is numpyro.param, or the exponential "
        "of a Normal site: s = numpyro.sample('s', dist.Normal(0, 1)), and jnp.exp(s) "
        "in its place."
    )


def check_predictors(
    program: Program, structure: Structure, sites: dict[str, Site]
) -> None:
    """Regressions must have few predictors at each position, which see no other.

    :raises ValueError: naming the site.
    """
    every = [
        *bind_predictors(program, structure, sites).values(),
        *bind_weights(program, structure).values(),
    ]
    for predictors in every:
        name, split = predictors.site, predictors.split()
        blocks = [block.name for block in predictors.blocks]
        layout = predictors.layout(split)
        size = sum(layout.sizes)
        if size > _LARGEST:
            found = f"{size} predictors at each position"
        elif not _are_apart(split, layout, predictors.order):
            found = "positions that see the predictors of others"
        else:
            continue
        raise ValueError(
            f"Site '{name}' ({type(sites[name].fn).__name__}): not conjugate, and "
            f"depends on latent {listed(blocks)}, with {found}. Accepted: {_ACCEPTED}."
        )


def with_orders(
    program: Program, structure: Structure, sites: dict[str, Site]
) -> Structure:
    """The wiring, with the order of axes that logits of latent weights have.

    In a ``scan`` they have time in front, and the state before in front of that, if
    they depend on it.
    """
    found = {}
    for key, bound in bind_weights(program, structure).items():
        read = _order_of(bound)
        if read is None and isinstance(bound, BoundWeights):
            if bound.role == "transition" and _is_alike(bound.split()):
                read = _order_of(replace(bound, alike=True))
        if read is not None:
            found[key] = read
    factors = (replace(f, **found.get((f.site, f.role), {})) for f in structure.factors)
    return replace(structure, factors=tuple(factors)) if found else structure


def _order_of(bound: Any) -> dict[str, Any] | None:
    """The order of axes in which few predictors are at each position."""
    split = bound.split()
    axes = range(len(split.output_shape) - bound.event_dim)
    layouts = {o: replace(bound, order=o).layout(split) for o in permutations(axes)}
    for order, layout in sorted(layouts.items(), key=_num_predictors):
        if sum(layout.sizes) <= _LARGEST and _are_apart(split, layout, order):
            alike = getattr(bound, "alike", None)
            return {"order": order} | ({} if alike is None else {"alike": alike})
    return None


def _is_alike(split: Split) -> bool:
    """Whether logits of a chain are the same after all of its states."""
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(rng.standard_normal(s)) for s in split.predictor_shapes]
    logs = np.asarray(split.finish(drawn))
    return np.array_equal(logs, np.broadcast_to(logs[..., :1, :], logs.shape))


def _num_predictors(ordered: tuple[tuple[int, ...], Layout]) -> int:
    """How many each position has. What is not at the positions all of them share."""
    return sum(ordered[1].sizes)


def _are_apart(split: Split, layout: Layout, order: tuple[int, ...]) -> bool:
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
    kept = ~(np.transpose(moved, np.argsort(order)) if order else moved)
    return np.array_equal(before[kept], after[kept], equal_nan=True)
