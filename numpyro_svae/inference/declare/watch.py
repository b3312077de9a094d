# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Says once what is wrong with what a guide infers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any
import warnings

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.notices import Said, notice
from numpyro_svae.program.run.ended import refuse_ends
from numpyro_svae.program.run.ordered import as_given, in_order
from numpyro_svae.program.run.sites import Site

__all__ = ["Watch"]


class Watch:
    """Watches the posteriors of a guide, in training and afterwards.

    There is a ``RuntimeWarning`` the first time that coordinate ascent has ended before
    it has converged, and the first time that data have probability zero.

    :param few: whether few sweeps are meant, so that ends of ascent are not looked at.
    """

    def __init__(self, few: bool = False) -> None:
        self.few = few
        self.noticed = Said()

    def watch(
        self, local: LocalPosterior, sites: Mapping[str, Site] | None = None
    ) -> LocalPosterior:
        """The same posterior, from which nothing can be read unwatched.

        :param local: the posterior.
        :param sites: those of the model, if their masks are to be looked at.
        :raises ValueError: naming a chain whose mask in a scan is none of ends; if
            arguments are traced, the compiled program does, when it runs.
        """
        found = [self._ascent(local), self._evidence(local)]
        found += self._ends(sites or {})
        zeros = [z for z in found if z is not None and not not_jax_tracer(z)]
        if not zeros:
            return local
        zero = sum(zeros[1:], zeros[0])

        def add(leaf: Array) -> Array:
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf + zero.astype(leaf.dtype) if floating else leaf

        parts = "totals", "marginals", "components", "expected_log_prob"
        all_of_it = in_order({name: getattr(local, name) for name in parts})
        return replace(local, **as_given(jax.tree.map(add, all_of_it)))

    def _ascent(self, local: LocalPosterior) -> Array | None:
        ends = local.convergence.items()  # refinement has as many sweeps as it is given
        found = {n: (c.sweeps, c.residual) for n, c in ends if c.gain is None}
        if not found or self.few or "ascent" in self.noticed:
            return None
        ended = jnp.stack([~(residual <= 1) for _, residual in found.values()])
        return notice(jnp.any(ended), found, _say_ascent, self.noticed)

    def _ends(self, sites: Mapping[str, Site]) -> list[Array]:
        return [
            notice(jnp.any(where), where, partial(_refuse, name, what), self.noticed)
            for name, site in sites.items()
            if site.ends is not None
            for what, where in site.ends.wrong.items()
        ]

    def _evidence(self, local: LocalPosterior) -> Array | None:
        entries = local.impossible
        if not entries or "impossible" in self.noticed:
            return None
        lost = jnp.stack([jnp.any(bad) for bad in entries.values()])
        shapes = {name: bad.shape for name, bad in entries.items()}
        say = partial(_say_impossible, shapes)
        return notice(jnp.any(lost), entries, say, self.noticed, _first)


def _refuse(name: str, what: str, _: Said, where: np.ndarray) -> None:
    refuse_ends(name, what, where)


def _say_ascent(noticed: Said, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    ended = {n: pair for n, pair in found.items() if not pair[1] <= 1}
    sweeps = max(int(pair[0]) for pair in ended.values())
    residuals = ", ".join(f"{pair[1]:.3g} at '{n}'" for n, pair in ended.items())
    _say(
        noticed,
        "ascent",
        f"AutoSVAE: coordinate ascent has ended after {sweeps} sweeps and has not "
        f"converged: found residuals of {residuals}, in units of the tolerance; "
        "one or less is converged. It is not said again: `guide.convergence` and "
        "`report` show how it ended. Accepted: more sweeps, or another tolerance, "
        "by `AutoSVAE(..., fixed_point=FixedPoint(max_sweeps=...))`.",
    )


def _say_impossible(
    shapes: dict[str, tuple[int, ...]], noticed: Said, found: dict[str, Any]
) -> None:
    texts = []
    for name, (count, first) in found.items():
        if count:
            place = tuple(map(int, np.unravel_index(first, shapes[name])))
            size = int(np.prod(shapes[name]))
            texts.append(f"'{name}' at {int(count)} of {size} entries from {place}")
    _say(
        noticed,
        "impossible",
        f"AutoSVAE: found data of probability zero under the model: "
        f"{'; '.join(texts)}. The bound is minus infinity there, and the posterior "
        "means nothing. It is not said again. Accepted: data that are possible; "
        "look for zeros among the probabilities and rates of the model.",
    )


def _say(noticed: Said, kind: str, text: str) -> None:
    if kind not in noticed:
        noticed.add(kind)
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def _first(entries: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    """How many entries are true, and the first of them."""
    return {name: (jnp.sum(bad), jnp.argmax(bad)) for name, bad in entries.items()}
