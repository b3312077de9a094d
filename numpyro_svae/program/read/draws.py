# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds random draws of a program that the guide cannot see.

The guide runs the program to read its factors. What is hidden from it, or drawn without
a sample site, has another value there than where the program is scored. It may stand in
likelihoods, which are evaluated in the program alone, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import jax
from jax import Array
from jax.extend.core import Literal
from jax.extend.core.primitives import jit_p
from numpyro import handlers, primitives

from numpyro_svae.program.read.wiring import listed
from numpyro_svae.program.run.origins import NOT_TRACEABLE
from numpyro_svae.program.run.sites import Program, sample_sites
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["check_draws"]


def check_draws(program: Program, structure: Structure) -> None:
    """No prior, factor or message may depend on a draw that the guide cannot see.

    :param program: the program.
    :param structure: its wiring.
    :raises ValueError: naming the site, and what is hidden as far as that is known.
    """
    read = {factor.site for factor in structure.factors}
    read |= set().union(*structure.gradients.values())
    read |= {name for prior in structure.priors.values() for name in prior.sites}
    names = sorted(_drawn(program, structure, read))
    if not names:
        return
    hidden = _hidden(program)
    what = f"the hidden site {listed(hidden)}" if len(hidden) == 1 else "a random draw"
    if len(hidden) > 1:
        what = f"one of the hidden sites {listed(hidden)}"
    raise ValueError(
        f"Site '{names[0]}': its parameters or data depend on {what}, which AutoSVAE "
        "cannot see: it would take another value of it than the model has. Accepted "
        "where a prior or a conjugate factor depends on it: a numpyro.param or a fixed "
        "value (numpyro.handlers.condition), a prior that AutoSVAE knows, or data. A "
        "site that is hidden with numpyro.handlers.block, or a draw of jax.random, may "
        "only stand in likelihoods that are evaluated at samples: those of which all "
        "latent vectors have a potential."
    )


def _drawn(program: Program, structure: Structure, names: Collection[str]) -> list[str]:
    """The sites among some that depend on a draw."""
    watch = _Watch(program.model)

    def run(key: Array) -> list[list[Any]]:
        own = replace(program, model=watch, key=key)
        sites = sample_sites(plain_run(own, structure))
        return [jax.tree.leaves(sites[name]) for name in names]

    try:
        traced, shapes = jax.make_jaxpr(run, return_shape=True)(program.key)
    except NOT_TRACEABLE:
        return []
    tainted = _tainted(traced.jaxpr, [True], watch.seeded)
    found = jax.tree.unflatten(jax.tree.structure(shapes), tainted)
    return [name for name, leaves in zip(names, found) if any(leaves)]


class _Watch(primitives.Messenger):
    """Notices whether a program has seeds of its own.

    A seed with a fixed key feeds sites that are hidden. Without one, what is computed
    from a fixed key is the same wherever the program runs.
    """

    seeded = False

    def process_message(self, msg: dict) -> None:
        stack = primitives._PYRO_STACK
        inner = stack[stack.index(self) + 1 :]
        self.seeded |= any(isinstance(handler, handlers.seed) for handler in inner)


def _tainted(jaxpr: Any, given: list[bool], seeded: bool) -> list[bool]:
    """Which outputs depend on given inputs, or on random numbers.

    :param seeded: whether random numbers count whatever their key.
    """
    known = dict(zip(jaxpr.invars, given))

    def read(atom: Any) -> bool:
        return not isinstance(atom, Literal) and known.get(atom, False)

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive is jit_p:
            outputs = _tainted(eqn.params["jaxpr"].jaxpr, inputs, seeded)
        else:
            drawn = any(inputs) or (seeded and _draws(eqn))
            outputs = [drawn] * len(eqn.outvars)
        known.update(zip(eqn.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars]


def _draws(eqn: Any) -> bool:
    """Whether an equation draws random numbers, or something inside of it does."""
    if eqn.primitive.name in ("random_bits", "random_gamma"):
        return True
    inner = jax.tree.leaves(list(eqn.params.values()))
    inner = [getattr(leaf, "jaxpr", leaf) for leaf in inner]
    return any(_draws(e) for leaf in inner for e in getattr(leaf, "eqns", ()))


def _hidden(program: Program) -> list[str]:
    """Latent sites that handlers around a program hide, as far as these are known."""
    inner = program.model
    while isinstance(inner, primitives.Messenger) and inner.fn is not None:
        inner = inner.fn
    every = sample_sites(replace(program, model=inner, scans=()).trace({}))
    seen = replace(program, scans=()).trace({})
    return [n for n, s in every.items() if not s.observed and n not in seen]
