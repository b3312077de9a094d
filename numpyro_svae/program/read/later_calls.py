# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Later calls of a program must be wired as the one that it was read from.

The program is read once. What a flag, a number or an argument that is not there makes
of it in another call is looked at when it first comes: if what it computes has not the
same text as in the first call, the program is read again, and what is found there must
be covered by what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import random
from jax.core import eval_context
import jax.numpy as jnp
import numpy as np
from numpyro import validation_enabled
from numpyro.handlers import block, condition
from numpyro.ops.provenance import eval_provenance
from numpyro.util import not_jax_tracer

from numpyro_svae.program.run.deterministic import is_shape, shapes_of
from numpyro_svae.program.run.indices import check_indices
from numpyro_svae.program.run.mutable_state import Given
from numpyro_svae.program.run.operations import named, text_of
from numpyro_svae.program.run.origins import union_of
from numpyro_svae.program.run.plates import shared_values
from numpyro_svae.program.run.recorder import used_in_bodies
from numpyro_svae.program.run.scans import is_scanned
from numpyro_svae.program.run.shown import Shown
from numpyro_svae.program.run.sites import Program, Site, sample_sites
from numpyro_svae.program.structure.checks import check_labels
from numpyro_svae.program.structure.covered import check_covered, data_of
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.probing import parameters
from numpyro_svae.program.structure.same_classes import check_classes
from numpyro_svae.shared_programs import Leaf, Recent
from numpyro_svae.tracing import computed_now

__all__ = ["LaterCalls"]

_Read = tuple[Structure, *tuple[Any, ...]]


class LaterCalls:
    """The calls of a program that are known to be wired as the first one.

    :param first: the arguments and keyword arguments of that, as :func:`shapes_of` has
        them.
    """

    def __init__(self, first: tuple[tuple, dict[str, Any]]) -> None:
        self._first = first
        self._text: Hashable | None = None  # of the first call, when another one comes
        self._known = Recent()
        self._known[_key(first)] = True

    def __reduce__(self) -> tuple:
        return LaterCalls, (self._first,)

    def check(
        self,
        program: Program,
        structure: Structure,
        messages: dict[str, dict],
        read: Callable[[Callable], _Read],
    ) -> None:
        """Look at a call, if there was none like it.

        A call without some of the data is looked at as if it had them: the model draws
        them. Whole numbers that are known must be in range in every call: labels, and
        what picks entries of sites.

        :param program: the program, with the arguments of the call.
        :param structure: its wiring, as it was read of the first call.
        :param messages: the trace of a run with these arguments.
        :param read: reads the wiring, and more, of a model with these arguments.
        :raises ValueError: naming a site that depends on more than was read, or whose
            labels or entries there are not; or one that is not observed any more, on
            which others depend.
        """
        _check_values(program, messages)
        call = shapes_of((program.args, program.kwargs))
        key = _key(call)
        if key in self._known:
            return
        drawn = _drawn(structure, messages)
        if drawn:
            _check_drawn(replace(program, fixed=shared_values(messages)), drawn)
        if _can_be_read(structure, messages, drawn):
            if drawn:
                program = replace(program, model=_as_observed(program.model, drawn))
            if self._text is None:
                self._text = _text(program, self._first)
            text = _text(program, call)
            if text is None or text != self._text or _shows_more(self._first, call):
                check_classes(structure, sample_sites(messages))
                found = _again(partial(read, program.model))[0]
                check_covered(structure, found, drawn)
        self._known.get_or(key, lambda: True)


def _drawn(structure: Structure, messages: dict[str, dict]) -> dict[str, dict]:
    """The latent sites of a call that were not latent when the program was read."""
    read = {name for prior in structure.priors.values() for name in prior.sites}
    return {
        name: message
        for name, message in messages.items()
        if message["type"] == "sample"
        and not (message["is_observed"] or name in read.union(structure.locals))
    }


def _check_drawn(program: Program, drawn: dict[str, dict]) -> None:
    """What is not observed any more is drawn, and may say nothing of other sites.

    :param program: the program, with its parameters fixed.
    :param drawn: the messages of these sites.
    :raises ValueError: naming one that an observed or a latent site depends on.
    """

    for name, used in _used(program, drawn):
        needed = sorted(used.intersection(drawn))
        if needed and name not in drawn:
            raise ValueError(
                f"Site '{needed[0]}': found no data for it, as there were when the "
                f"guide was set up, and '{name}' depends on it. AutoSVAE reads its "
                "model once, and would not infer it. Accepted: arguments that have its "
                "data; or a second guide, AutoSVAE(model), that is set up with these "
                "arguments. It takes the parameters of the first one, as global sites "
                f"are the same: it gives '{needed[0]}' its posterior."
            )


def _used(
    program: Program, drawn: dict[str, dict]
) -> Iterator[tuple[str, frozenset[str]]]:
    """Which of the sites that are drawn each other site depends on."""
    values = {n: m["value"] for n, m in drawn.items() if not _of_scan(m)}

    def read(**values: Any) -> dict[str, dict[str, Any]]:
        sites = program.sites(values)
        return {name: parameters(site) for name, site in sites.items()}

    found = [eval_provenance(read, **values)]
    if len(values) < len(drawn):
        written = replace(program, scans=(), shown=Shown())
        found.extend(used_in_bodies(written))
    for used in found:
        yield from ((name, union_of(sets)) for name, sets in used.items())


def _of_scan(message: dict) -> bool:
    return is_scanned(message) or "ends" in message["infer"]


def _as_observed(model: Callable, drawn: dict[str, dict]) -> Callable:
    """A model in which what is drawn is observed, at values that can be.

    :param drawn: the messages of the sites.
    """
    with computed_now():
        values = {
            name: message["fn"].support.feasible_like(jnp.zeros(message["fn"].shape()))
            for name, message in drawn.items()
        }
    return condition(model, data=values)


def _can_be_read(
    structure: Structure, messages: dict[str, dict], drawn: dict[str, dict]
) -> bool:
    """Whether a call can be read again.

    It cannot where a site is not there; nor, without some of its data, where a
    recognition function would have to speak, or data of a scan would be made.
    """
    if not data_of(structure) <= messages.keys():
        return False
    scanned = any(map(_of_scan, drawn.values()))
    return not drawn or not (structure.likelihoods or scanned)


def _check_values(program: Program, messages: dict[str, dict]) -> None:
    """What is known of a call must be in range, as within ``jit`` nothing is."""
    leaves = jax.tree.leaves((program.args, program.kwargs))
    if not any(map(_is_whole, leaves)):
        return
    check_labels(sample_sites(messages))
    given = program.fixed | shared_values(messages)
    samples = {n: m for n, m in messages.items() if m["type"] == "sample"}
    values = program.shown.given({n: m["value"] for n, m in samples.items()})
    own = {n: m | {"value": values[n]} for n, m in samples.items() if not _of_scan(m)}
    check_indices(program.model, given, program.args, program.kwargs, own)


def _is_whole(leaf: Any) -> bool:
    known = isinstance(leaf, np.ndarray | jax.Array) and not_jax_tracer(leaf)
    return known and jnp.issubdtype(leaf.dtype, jnp.integer)


def _shows_more(first: Any, call: Any) -> bool:
    """Whether arrays may have several entries along an axis that had one.

    What is the same for all of one entry may differ between several, in the same text.
    """
    own, other = jax.tree.leaves(first), jax.tree.leaves(call)
    trees: list[Any] = [jax.tree.structure(arguments) for arguments in (first, call)]
    if trees[0] != trees[1]:
        return any(1 in np.shape(leaf) for leaf in own)
    return any(
        1 in (size for size, now in zip(np.shape(old), np.shape(new)) if now != 1)
        for old, new in zip(own, other)
    )


def _again(read: Callable[[], _Read]) -> _Read:
    """What is read, compiled as outside of any trace."""
    try:
        with eval_context():
            return read()
    except (ValueError, TypeError) as error:
        error.add_note(
            "The guide was set up with other arguments, with which the model could be "
            "read. A program that a flag makes another one has a guide of its own."
        )
        raise


def _key(call: tuple[tuple, dict[str, Any]]) -> Hashable:
    """What tells a call from others, but for the values of its arrays."""
    leaves, tree = jax.tree.flatten(call)
    return tree, tuple(map(Leaf, leaves))


def _text(program: Program, call: tuple[tuple, dict[str, Any]]) -> Hashable | None:
    """What a program computes of latent sites; None if it has to know its arguments."""
    leaves, tree = jax.tree.flatten(call)
    arrays = {i: leaf for i, leaf in enumerate(leaves) if is_shape(leaf)}

    def run(own: dict[int, Any]) -> dict[str, Any]:
        every = [own.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(tree, every)
        other = replace(program, args=args, kwargs=kwargs, key=random.PRNGKey(0))
        sites = sample_sites(other.trace({}, _zeros))
        return {name: {_kind(site): parameters(site)} for name, site in sites.items()}

    with block(), Given(), validation_enabled(False):
        try:
            return text_of(run, arrays)
        except Exception:  # of the model, where it cannot run without values
            return None


def _kind(site: Site) -> str:
    return f"{'observed' if site.observed else 'latent'} {type(site.fn).__name__}"


def _zeros(message: dict) -> Any:
    dtype = int if message["fn"].is_discrete else float
    return named(jnp.zeros(message["fn"].shape(), dtype), message["name"])
