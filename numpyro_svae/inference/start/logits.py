# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the parameters of logits start that depend on a latent path.

Which state is which is not known before the dynamics of the states have been guessed.
So whatever values such parameters have in the program are only where a regression of
the states on the path begins. The states are those of a hidden Markov model: the guess
says how probable each step of an estimated path is in each state, and the logits say
the rest. Its likelihood is climbed by Adam, with the gradient of expectation
maximisation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax.example_libraries.optimizers import adam
import jax.numpy as jnp
import numpyro
from numpyro.distributions import biject_to, constraints

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import infer_discrete
from numpyro_svae.inference.local.recurrence import IMPOSSIBLE, Recurrence
from numpyro_svae.inference.start.regimes import recurrent_steps
from numpyro_svae.inference.start.smoothed import smoothed
from numpyro_svae.inference.start.values import estimate_paths
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.structure.factors import GaussianFactor, Structure
from numpyro_svae.program.structure.latent_logits import LatentLogits
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["begin_logits"]

Params = dict[str, Any]

_STEPS = 1000
_RATE = 0.3


def begin_logits(
    structure: Structure,
    bound: Bound,
    naturals: dict[str, NaturalParameters],
    given: Collection[str],
    trace: dict[str, dict],
) -> None:
    """Declare the parameters of the program anew, where logits of a path start.

    One that ``init_params`` of :meth:`~numpyro.infer.svi.SVI.init` gives keeps its
    value there.

    :param structure: the wiring of the program.
    :param bound: the program with its data.
    :param naturals: where global posteriors start.
    :param given: the blocks of which this is not a guess.
    :param trace: of a run of the program.
    """
    steps = recurrent_steps(structure, given)
    declared = {n: m for n, m in trace.items() if m["type"] == "param"}
    if not steps or not declared:
        return
    found: Params = {}

    def start(name: str, _: Array) -> Any:
        if not found:
            spaces = {n: _support(message) for n, message in declared.items()}
            begun = {n: spaces[n].inv(m["value"]) for n, m in declared.items()}
            climb = partial(_climbed, structure, tuple(steps), spaces)
            found.update(jax.jit(climb)(bound, naturals, begun))
        return found[name]

    for name, message in declared.items():
        numpyro.param(name, partial(start, name), **message["kwargs"])


def _support(message: dict) -> Any:
    """From all numbers to the values that a parameter may have."""
    return biject_to(message["kwargs"].get("constraint", constraints.real))


def _climbed(
    structure: Structure,
    sites: tuple[str, ...],
    spaces: dict[str, Any],
    bound: Bound,
    naturals: dict[str, NaturalParameters],
    begun: Params,
) -> Params:
    """Values of the parameters, at which states are likely to be where they are.

    :param sites: the discrete sites.
    :param spaces: of the parameters.
    :param begun: where they begin, without constraints.
    """
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    factors = ExpectedFactors(structure, bound, moments)
    paths = smoothed(factors, estimate_paths(factors, {}))
    known = [_Steps(factors, name, paths) for name in sites]

    def constrained(params: Params) -> Params:
        return {name: spaces[name](value) for name, value in params.items()}

    def loss(params: Params) -> Array:
        values = constrained(params)
        return -sum((steps.fit(values) for steps in known), jnp.zeros(()))

    begin, update, read = adam(_RATE)

    def step(index: Any, state: Any) -> Any:
        return update(index, jax.grad(loss)(read(state)), state)

    ended = read(lax.fori_loop(0, _STEPS, step, begin(begun)))
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(ended)]
    usable = jnp.all(jnp.array(finite))
    return constrained(jax.tree.map(partial(jnp.where, usable), ended, begun))


class _Steps:
    """The steps of a path that is given, as what a discrete site says of them.

    :param factors: the factors at a guess of the globals.
    :param name: the discrete site.
    :param paths: estimates of the paths.
    """

    def __init__(
        self, factors: ExpectedFactors, name: str, paths: dict[str, Array]
    ) -> None:
        factor = recurrent_steps(factors.structure)[name]
        self.factors, self.name, self.path = factors, name, paths[factor.site]
        self.recurrence = Recurrence(factors, (name,))
        self.scores = factors.to_selector(factor, _scored(factors, factor, self.path))

    def fit(self, values: Params) -> Array:
        """How well logits agree with the states, which are inferred with them."""
        factors, rows = self.factors, dict[str, Array]()
        for factor in self.recurrence.coupled:
            logits = _with(factors.bound.logits[factor.site], values)
            rows[factor.site] = jnp.maximum(logits.at(self.path), IMPOSSIBLE)
        held = lax.stop_gradient(rows)
        belief = infer_discrete(self.recurrence.given(held), self.name, self.scores)
        (factor,) = self.recurrence.coupled
        counted = lax.stop_gradient(self.recurrence.counted(factor, belief))
        return jnp.sum(counted * rows[self.name])


def _with(logits: LatentLogits, values: Params) -> LatentLogits:
    """The same at other values of the parameters of the program."""
    program = Likelihoods(logits.statics, logits.arrays, logits.structure).program
    program = replace(program, fixed={**program.fixed, **values})
    points = logits.points, logits.weights
    return LatentLogits.of(program, logits.structure, logits.factor, points)


def _scored(factors: ExpectedFactors, factor: GaussianFactor, path: Array) -> Array:
    """Expected log densities of the steps of a path, by state."""
    extent, support = factors.extent(factor), factor.support
    inputs = factors.site(factor.site).fn.inputs
    inputs = jnp.broadcast_to(inputs, (*extent.positions, inputs.shape[-1]))
    path = jnp.broadcast_to(path, (*extent.batch_shape, *path.shape[-2:]))
    before = jnp.concatenate([path[..., :-1, :], inputs], -1)[..., None, :]
    later = (
        path[..., 1:, :] if support is None else support.seen_vector(path[..., 1:, :])
    )
    nothing = jnp.zeros((1, later.shape[-1], later.shape[-1]))
    regression = factors.regression(factor)
    return messages.expected_response(regression, before, later[..., None, :], nothing)
