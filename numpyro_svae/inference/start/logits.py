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
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax.example_libraries.optimizers import adam
import jax.numpy as jnp
import numpyro
from numpyro.distributions import biject_to, constraints

from numpyro_svae.families import GaussianNatural, NaturalParameters
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import infer_discrete
from numpyro_svae.inference.local.recurrence import IMPOSSIBLE, Recurrence
from numpyro_svae.inference.start.hierarchies import priors_alone
from numpyro_svae.inference.start.regimes import recurrent_steps
from numpyro_svae.inference.start.smoothed import smoothed
from numpyro_svae.inference.start.values import estimate_paths
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.structure.factors import GaussianFactor, Structure
from numpyro_svae.program.structure.latent_logits import LatentLogits
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["begin_logits", "begin_weights"]

Naturals = dict[str, NaturalParameters]

_STEPS = 1000
_RATE = 0.3


def begin_logits(
    structure: Structure,
    bound: Bound,
    naturals: Naturals,
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
    found: dict[str, Any] = {}

    def start(name: str, _: Array) -> Any:
        if not found:
            spaces = {n: _support(message) for n, message in declared.items()}
            begun = {n: spaces[n].inv(m["value"]) for n, m in declared.items()}
            climb = partial(_climbed, structure, tuple(steps), spaces)
            ended = jax.jit(climb)(bound, naturals, _Free(begun, {}))
            found.update(_constrained(spaces, ended))
        return found[name]

    for name, message in declared.items():
        numpyro.param(name, partial(start, name), **message["kwargs"])


def begin_weights(
    structure: Structure, bound: Bound, naturals: Naturals, given: Collection[str]
) -> Naturals:
    """Where Gaussian weights of the logits of a path start: at the best values.

    :param structure: the wiring of the program.
    :param bound: the program with its data.
    :param naturals: where global posteriors start but for these.
    :param given: the blocks of which this is not a guess.
    :return: by block of such weights.
    """
    steps = recurrent_steps(structure, given)
    factors = [f for f in structure.factors if f.form == "logits" and f.site in steps]
    names = {n for f in factors for n in f.weights if n not in given}
    if not names:
        return {}
    begun = {n: structure.priors[n].moments(naturals[n]).mean for n in sorted(names)}
    climb = partial(_climbed, structure, tuple(steps), {})
    ended = jax.jit(climb)(bound, naturals, _Free({}, begun))

    def placed(name: str, weight: Array) -> Any:
        own: Any = naturals[name]
        mean = weight.reshape(own.info_vector.shape)
        return GaussianNatural.from_mean(mean, own.precision)

    return {name: placed(name, weight) for name, weight in ended.weights.items()}


def _support(message: dict) -> Any:
    """From all numbers to the values that a parameter may have."""
    return biject_to(message["kwargs"].get("constraint", constraints.real))


class _Free(NamedTuple):
    """What is fitted.

    :param params: parameters of the program, without constraints.
    :param weights: of Gaussian blocks, ``(..., D, M)``.
    """

    params: dict[str, Any]
    weights: dict[str, Array]


def _constrained(spaces: dict[str, Any], free: _Free) -> dict[str, Any]:
    return {name: spaces[name](value) for name, value in free.params.items()}


def _climbed(
    structure: Structure,
    sites: tuple[str, ...],
    spaces: dict[str, Any],
    bound: Bound,
    naturals: Naturals,
    begun: _Free,
) -> _Free:
    """Values of parameters and weights, at which states are likely where they are.

    :param sites: the discrete sites.
    :param spaces: of the parameters.
    :param begun: where they begin.
    """
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    factors = ExpectedFactors(structure, bound, moments)
    paths = smoothed(factors, estimate_paths(factors, {}))
    known = [_Steps(factors, name, paths) for name in sites]
    priors: dict[str, Any] = priors_alone(structure, bound)

    def loss(free: _Free) -> Array:
        values = _constrained(spaces, free)
        fit = sum((steps.fit(values, free.weights) for steps in known), jnp.zeros(()))
        for name, weight in free.weights.items():
            fit = fit + _log_density(priors[name], weight)
        return -fit

    begin, update, read = adam(_RATE)

    def step(index: Any, state: Any) -> Any:
        return update(index, jax.grad(loss)(read(state)), state)

    ended = read(lax.fori_loop(0, _STEPS, step, begin(begun)))
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(ended)]
    usable = jnp.all(jnp.array(finite))
    return jax.tree.map(partial(jnp.where, usable), ended, begun)


def _log_density(prior: GaussianNatural, weight: Array) -> Array:
    """Of a weight under its prior, but for a constant."""
    value = weight.reshape(prior.info_vector.shape)
    pull = prior.info_vector - 0.5 * jnp.squeeze(prior.precision @ value[..., None], -1)
    return jnp.sum(pull * value)


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

    def fit(self, params: dict[str, Any], weights: dict[str, Array]) -> Array:
        """How well logits agree with the states, which are inferred with them.

        :param params: parameters of the program; others are as they are.
        :param weights: those of blocks; others are at their means.
        """
        factors, rows = self.factors, dict[str, Array]()
        for factor in self.recurrence.coupled:
            sites: dict[str, Array] = {}
            for name in factor.weights:
                mean = weights.get(name, factors.moments[name].mean)
                block: Any = factors.structure.priors[name]
                sites |= block.values(mean)
            logits = _with(factors.bound.logits[factor.site], params)
            rows[factor.site] = jnp.maximum(logits.at(self.path, sites), IMPOSSIBLE)
        held = lax.stop_gradient(rows)
        belief = infer_discrete(self.recurrence.given(held), self.name, self.scores)
        (factor,) = self.recurrence.coupled
        counted = lax.stop_gradient(self.recurrence.counted(factor, belief))
        return jnp.sum(counted * rows[self.name])


def _with(logits: LatentLogits, values: dict[str, Any]) -> LatentLogits:
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
