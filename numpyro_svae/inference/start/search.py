# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where training starts: the best of several guesses, each after a few sweeps.

A guess is judged by the bound, so that all that is sampled must be known in closed
form. Sweeps are natural-gradient steps of full size, or of half of it where blocks are
independent of each other under the prior and meet in a factor. Guesses differ in their
clusters or, where there are none, in the coordinates of latent paths. The best one is
swept for longer. All go through one loop, which is compiled once. The weights of
regressions that are not conjugate are swept from a single guess: full steps from far
away may overshoot, and the sweeps are safeguarded by the bound. States that hang on the
path whose steps they pick are found with where they are, which also is a single guess.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax, random
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.start.ascent import ascend
from numpyro_svae.inference.start.guess import Guess
from numpyro_svae.inference.start.judge import bound_of
from numpyro_svae.inference.start.members import Kind
from numpyro_svae.inference.start.regimes import recurrent_steps
from numpyro_svae.inference.start.smoothed import smoothed
from numpyro_svae.inference.start.values import estimate_paths, turned
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.groups import coupled_groups
from numpyro_svae.shared_programs import quick_jit

__all__ = ["Search", "check_num_starts", "find_start"]

Naturals = dict[str, NaturalParameters]

_SWEEPS = 30
_COUPLED_SWEEPS = 5  # where each of them infers local sites by sweeps of its own
_TURNED_SWEEPS = 60  # guesses that differ by a rotation are alike for longer
_REGRESSION_SWEEPS = 100  # of weights that need no guesses, only to be in reach
_HALVINGS = 40  # of a step of theirs, which may begin far off: exp(x) has no scale
_ALIKE = 1e-2  # nats by which the bounds of guesses that lead to the same may differ
_ROUNDING = 16  # units in the last place, likewise


class Search(NamedTuple):
    """How the start is searched for, static.

    :param guesses: how many there are.
    :param mean_field: as in the guide.
    :param fixed_point: as in the guide.
    """

    guesses: int
    mean_field: bool
    fixed_point: FixedPoint


def check_num_starts(number: int) -> int:
    """The number of guesses, if it is one.

    :raises ValueError: if it is not.
    """
    if isinstance(number, bool) or int(number) != number or number < 1:
        raise ValueError(
            f"AutoSVAE: `num_starts` found {number!r}; accepted are whole numbers from "
            "1, which makes a single guess."
        )
    return int(number)


def _searches(structure: Structure, given: Any, potentials: dict[str, Any]) -> bool:
    """Whether several guesses make sense.

    They must differ, which they do where a discrete site or a chain is latent, and the
    bound must not need the samples or what an untrained network says.

    :param structure: the wiring of the program.
    :param given: the blocks whose start is given.
    :param potentials: what the recognition function says.
    """
    if structure.likelihoods or potentials or set(structure.priors) <= set(given):
        return False
    return any(local.discrete or local.chain for local in structure.locals.values())


@quick_jit
def find_start(
    key: Array,
    structure: Structure,
    search: Search,
    bound: Bound,
    potentials: dict[str, Any],
    given: Naturals,
) -> Naturals:
    """Natural parameters that all global blocks start at.

    :param key: random key.
    :param structure: wiring of the program.
    :param search: how to search.
    :param bound: the program with its data.
    :param potentials: what the recognition function says at the start.
    :param given: starts of blocks that are to stay as they are.
    """
    factors = ExpectedFactors(structure, bound, {})
    paths = estimate_paths(factors, potentials)
    recurrent = not potentials and bool(recurrent_steps(structure, given))
    paths = smoothed(factors, paths) if recurrent else paths

    def guess(key: Array, kind: Kind, paths: dict[str, Array]) -> Naturals:
        return Guess(key, kind, factors, paths).naturals() | given

    size = 0.5 if structure.joins or structure.populations else 1.0
    rising = bound_of(structure, bound, potentials, given, *search[1:])
    if recurrent or search.guesses == 1 or not _searches(structure, given, potentials):
        begun = guess(key, Kind(), paths)
        climbs = (bound.predictors or bound.bilinear) and not structure.likelihoods
        return _climbed(rising, begun, size) if climbs else begun
    kinds, picks = _kinds(structure, search.guesses), _picks(structure)
    count, few = search.guesses, _few(structure, search.mean_field, picks)
    longer, smooth = few * count // 2, _smooths(structure)

    def consider(best: _Best, chosen: tuple) -> tuple[_Best, Array]:
        index, own_key, kind = chosen
        shown = best.paths
        if not picks:
            other = turned(own_key, factors, paths)
            shown = jax.tree.map(partial(jnp.where, index == 0), paths, other)
        naturals = guess(own_key, kind, shown)
        if smooth:
            kept = {n: best.first[n] for n in naturals if not _picked(structure, n)}
            naturals = jax.tree.map(
                partial(jnp.where, index == 0), naturals, naturals | kept
            )
        ends = index == count
        naturals = jax.tree.map(partial(jnp.where, ends), best.naturals, naturals)
        steps = jnp.where(ends, longer, few)
        value, swept, means = ascend(rising, naturals, steps, size)
        rounding = _ROUNDING * jnp.finfo(value.dtype).eps * jnp.abs(value)
        better = value > best.value + jnp.where(ends, 0.0, _ALIKE + rounding)
        choose = partial(jax.tree.map, partial(jnp.where, better | (index == 0)))
        begin = (index == 0) & jnp.isfinite(value)
        start = partial(jax.tree.map, partial(jnp.where, begin))
        own = best.paths | {n: means[n] for n in means if smooth and n in best.paths}
        return _Best(
            choose(swept, best.naturals),
            jnp.where(better, value, best.value),
            start(own, best.paths),
            start(swept, best.first),
        ), value

    indices = jnp.arange(count + 1)
    keys = jax.vmap(partial(random.fold_in, key))(indices).at[0].set(key)
    begin = _Best.of(jax.eval_shape(guess, key, Kind(), paths), paths)
    best, _ = lax.scan(consider, begin, (indices, keys, kinds))
    return best.naturals


def _climbed(rising: Any, begun: Naturals, size: float) -> Naturals:
    """Sweeps of the weights of regressions from a single guess."""
    return ascend(rising, begun, _REGRESSION_SWEEPS, size, _HALVINGS)[1]


class _Best(NamedTuple):
    """The best guess so far, and what the first one led to."""

    naturals: Naturals
    value: Array
    paths: dict[str, Array]
    first: Naturals

    @classmethod
    def of(cls, shapes: Any, paths: dict[str, Array]) -> _Best:
        """Before the first guess."""
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return cls(none, -jnp.inf * jnp.ones(()), paths, none)


def _kinds(structure: Structure, guesses: int) -> Kind:
    """What the guesses are, stacked, and one more for the sweeps of the best.

    Where the dynamics of a latent path are picked, the first guess is one linear
    system, whose smoothed path the others cluster.
    """
    smooth = _smooths(structure)
    cycle = _SMOOTHED if smooth else _CLUSTERED
    first = [Kind(1.0, 1.0)] if smooth else [Kind()]
    rest = [cycle[i % len(cycle)] for i in range(guesses)]
    return jax.tree.map(lambda *leaves: jnp.array(leaves), *first, *rest)


_SMOOTHED = (Kind(), Kind(0.75))
_CLUSTERED = (Kind(), Kind(0.5), Kind(1.0, 0.9), Kind(0.25))


def _smooths(structure: Structure) -> bool:
    """Whether a discrete site picks the dynamics of a latent path."""
    return any(
        factor.role == "transition"
        and factor.source.selector is not None
        and factor.site in structure.locals
        for factor in structure.factors
    )


def _picks(structure: Structure) -> bool:
    """Whether a discrete site picks anything; guesses have clusters to differ in."""
    return any(factor.source.selector is not None for factor in structure.factors)


def _few(structure: Structure, mean_field: bool, picks: bool) -> int:
    """How many sweeps a guess has before it is judged."""
    if not picks:
        return _TURNED_SWEEPS
    coupled = not all(g.is_exact(mean_field) for g in coupled_groups(structure))
    return _COUPLED_SWEEPS if coupled else _SWEEPS


def _picked(structure: Structure, name: str) -> bool:
    """Whether a block has the components, or the probabilities, of a discrete site."""
    return any(
        name in structure.blocks_of(factor)
        and (factor.source.selector or (factor.form == "rows" and not factor.coupled))
        for factor in structure.factors
    )
