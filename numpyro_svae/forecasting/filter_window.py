# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Inference on a window of two steps, of which one is seen.

The window is an ordinary run of the model, shown to the guide's inference with two
changes: chains begin with the beliefs, if there are any, and nothing but the chains is
at the step that is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jax import Array, random
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.handlers import block

from numpyro_svae.forecasting.continuation import chain_of
from numpyro_svae.forecasting.timeline import InTime, at_last
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.local.datum_bounds import bound_of
from numpyro_svae.inference.local.site_posteriors import site_posteriors
from numpyro_svae.program.bind.binding import bind
from numpyro_svae.program.read.setup import recognise
from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.sites import Program, sample_sites
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.factors import Source, Structure
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["Belief", "Beliefs", "Window", "belief_of", "continued"]


class Belief(NamedTuple):
    """Moments of a Gaussian state: ``(..., D)`` and ``(..., D, D)``."""

    mean: Array
    covariance: Array


Beliefs = dict[str, Belief | Array]  # an array has the probabilities of a discrete one


def belief_of(
    marginal: Any,
    batch: tuple[int, ...],
    lengths: Array | None = None,
    first: bool = False,
) -> Belief | Array:
    """The marginal distribution of the last state of a chain, or of the first."""

    def one(x: Array, event_dim: int) -> Array:
        axis = x.ndim - event_dim - 1
        x = jnp.broadcast_to(x, (*batch, *x.shape[axis:]))
        if first:
            return jnp.take(x, 0, len(batch))
        return at_last(x, len(batch), lengths)

    if marginal.is_discrete:
        return one(marginal.probs, 1)
    return Belief(one(marginal.mean, 1), one(marginal.covariance, 2))


def continued(structure: Structure) -> Structure:
    """The wiring of a window: its chains are linear, and what begins them is given."""
    factors = tuple(
        replace(factor, source=Source()) if factor.role == "initial" else factor
        for factor in structure.factors
        if factor.role != "initial" or factor.site in structure.locals
    )
    found = structure.classes.items()
    classes = {name: kind for name, kind in found if name not in structure.locals}
    return replace(structure, factors=factors, classes=classes)


@dataclass(frozen=True)
class Window:
    """A model over two steps.

    :param guide: its guide.
    :param structure: its wiring; that of :func:`continued` if there are beliefs.
    :param times: where time is in the sites of the program.
    :param params: parameters.
    :param args: of the model, for two steps.
    :param kwargs: likewise.
    :param beliefs: what chains begin with, by site; their own priors where none is.
    :param seen: which of the steps have data.
    """

    guide: AutoSVAE
    structure: Structure
    times: dict[str, InTime]
    params: dict[str, Any]
    args: tuple
    kwargs: dict[str, Any]
    beliefs: Beliefs
    seen: tuple[bool, bool]

    def infer(self) -> tuple[dict[str, Any], Array]:
        """Marginals of the local sites over the steps, and the bound of the data."""
        guide, structure, key = self.guide, self.structure, random.PRNGKey(0)
        program = _WindowProgram(
            guide.model,
            self.args,
            self.kwargs,
            key,
            self.params,
            structure.scans,
            structure.shown,
            self.beliefs,
            self.times,
            frozenset(structure.locals),
            self.seen,
        )
        messages = plain_run(program, structure)
        with block(), Fixed(data=self.params):
            recognised, _ = recognise(
                guide.recognition, messages, self.args, self.kwargs, key
            )
        sites = sample_sites(messages)
        bound = bind(program, structure, sites, guide.cubature)
        potentials = {}
        for name, potential in recognised.items():
            timed = potential.batch_shape[-1:] == (2,)
            potentials[name] = potential.mask(jnp.array(self.seen) if timed else False)
        naturals = {n: self.params[guide._natural_name(n)] for n in structure.priors}
        known = structure, program, guide.ascent, bound, naturals, potentials
        local = guide.watch.watch(site_posteriors(*known))
        return local.marginals, bound_of(structure, bound.sites, local)


@dataclass(frozen=True)
class _WindowProgram(Program):
    """A program over two steps.

    :param beliefs: what its chains begin with.
    :param times: where time is in its sites.
    :param latent: its latent local sites.
    :param seen: which of the steps have data.
    """

    beliefs: Beliefs = field(default_factory=dict)
    times: dict[str, InTime] = field(default_factory=dict)
    latent: frozenset[str] = frozenset()
    seen: tuple[bool, bool] = (False, True)

    def trace(self, *args: Any, **kwargs: Any) -> dict[str, dict]:
        """Trace of a run, with what the window changes of it."""
        messages = super().trace(*args, **kwargs)
        return {
            name: {**m, "fn": self._shown(name, m)} if m["type"] == "sample" else m
            for name, m in messages.items()
        }

    def _shown(self, name: str, message: dict) -> Any:
        fn, chain = message["fn"], chain_of(message["fn"])
        if name in self.beliefs and chain is not None:
            kind, path = chain
            return kind.begin_with(path, self.beliefs[name])
        local = message["is_observed"] or name in self.latent
        return self._masked(name, message) if local and chain is None else fn

    def _masked(self, name: str, message: dict) -> dist.Distribution:
        """A site that counts at the steps that are seen.

        A latent one counts at each of them, but where the beliefs have it already.
        """
        fn = message["fn"]
        base, mask, extra = peel(fn)
        full = tuple(fn.batch_shape) + tuple(fn.event_shape[:extra])
        steps = self.seen if message["is_observed"] else (self.seen[0], True)
        counts, time = jnp.array(steps[0]), self.times.get(name)
        if time is not None:
            scanned = any(self.scans) and time.lag == 1
            moved = scanned or name in self.shown.time_plates
            axis = len(fn.batch_shape) if moved else int(time.axis or 0)
            counts = jnp.array(steps)[0 if scanned else time.lag :]
            counts = counts.reshape((-1,) + (1,) * (len(full) - axis - 1))
        mask = counts if mask is None else mask & counts
        return base.expand(full).mask(jnp.broadcast_to(mask, full)).to_event(extra)
