# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds programs whose steps depend on a number that they give them themselves.

The future is a run of the program that begins at the last step of the data. What counts
its own steps, as a season or a trend of ``jnp.arange(T)``, would begin anew there.

A program that makes nothing that grows with the number of steps, but from arguments, is
left alone. Another one is run with arguments and states that are the same at all steps:
then so must be the law of each step after the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
from jax import Array, random
from jax.extend.core import Jaxpr, Literal
import jax.numpy as jnp

from numpyro_svae.forecasting.continuation import chain_of
from numpyro_svae.forecasting.timeline import InTime, at_last, blank
from numpyro_svae.program.run.known_starts import Starts
from numpyro_svae.program.run.wrappers import peel

if TYPE_CHECKING:
    from numpyro_svae.forecasting.course import Course

__all__ = ["OwnTime", "own_time"]

_MORE = 8  # steps than the data have, so that short seasons show


class OwnTime(NamedTuple):
    """A site whose steps depend on their number.

    :param name: its name.
    """

    name: str

    def refuse(self) -> NoReturn:
        """Say what to write.

        :raises ValueError: always.
        """
        raise ValueError(
            f"Site '{self.name}': its steps differ by what the model makes of their "
            "number, as jnp.arange(T) in it, which begins anew after the data. "
            "Accepted: the number of each step, or what is made of it, as an argument "
            "of the model, with its future among the values at later steps."
        )


def own_time(course: Course) -> dict[OwnTime, Array]:
    """The sites in time of a program that may count its steps, and whether it does."""
    steps, sites = course.num_steps + _MORE, course.times[1]

    def messages() -> dict[str, dict]:
        args, kwargs = course.arguments.join(_still(course, steps))
        fit = course.fit._replace(args=args, kwargs=kwargs)
        values = _still_values(course, steps)
        model = Starts(fit.model, fit.guide.structure.scans, values)
        return fit.trace(model, random.PRNGKey(0), values)

    def parameters() -> list[Array]:
        found = messages()
        laws = (peel(found[n]["fn"])[0] for n in sites if "fn" in found[n])
        return [x for x in jax.tree.leaves(list(laws)) if jnp.ndim(x)]

    shown = [n for n in sites if course.messages[n]["type"] == "sample"]
    if not shown or not _grows(jax.make_jaxpr(parameters)().jaxpr, {steps, steps - 1}):
        return {}
    found = messages()
    return {OwnTime(n): _differs(found[n], sites[n]) for n in shown}


def _still(course: Course, steps: int) -> tuple[Any, ...]:
    """Arguments that are at all steps what they are at the last one."""
    leaves = []
    for i, (leaf, time) in enumerate(zip(course.arguments.leaves, course.times[0])):
        if i in course.says_lengths:
            leaf = jnp.where(course.says_lengths[i], steps, leaf)
        elif time is not None:
            bare = time.axis is None or leaf.dtype == bool or not leaf.size
            leaf = (
                blank(leaf, time, steps) if bare else _last(course, leaf, time, steps)
            )
        leaves.append(leaf)
    return tuple(leaves)


def _still_values(course: Course, steps: int) -> dict[str, Array]:
    """Values of the latent sites that are likewise."""
    times, values = course.times[1], dict(course.start)
    for name in values.keys() & times.keys():
        values[name] = _last(course, values[name], times[name], steps)
    chains = ((n, c) for n, c in course.chains.items() if c.first != n)
    return values | {c.first: jnp.take(values[n], 0, c.axis) for n, c in chains}


def _last(course: Course, x: Any, time: InTime, steps: int) -> Array:
    x, axis, lengths = jnp.asarray(x), int(time.axis or 0), course.lengths
    if lengths is not None:
        lengths = jnp.maximum(lengths - time.lag, 1)
    last = jnp.expand_dims(at_last(x, axis, lengths), axis)
    return jnp.repeat(last, steps - time.lag, axis)


def _differs(message: dict, time: InTime) -> Array:
    """Whether log densities of the same value differ between the steps."""
    value, chain = message["value"], chain_of(message["fn"])
    if chain is not None:
        axis = len(message["fn"].batch_shape)
        before, after = (
            jax.lax.slice_in_dim(value, a, b, axis=axis)
            for a, b in ((0, -1), (1, None))
        )
        terms = chain[0].log_steps(chain[1], before, after)
    else:
        axis, fn = int(time.axis or 0), peel(message["fn"])[0]
        terms = jnp.moveaxis(fn.log_prob(value), axis, -1)[..., 1 - time.lag :]
    off, scale = jnp.abs(terms - terms[..., -1:]), 1 + jnp.abs(terms)
    return jnp.any(off > jnp.finfo(terms.dtype).eps ** 0.5 * scale)


def _grows(jaxpr: Jaxpr, sizes: set[int]) -> bool:
    """Whether outputs depend on what is made with an axis of one of some sizes.

    What is inside of a function that is called is taken to matter.
    """
    needed = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
    for eqn in reversed(jaxpr.eqns):
        if needed & set(eqn.outvars):
            if any(_makes(each, sizes) for each in _innermost(eqn)):
                return True
            needed |= {x for x in eqn.invars if not isinstance(x, Literal)}
    return bool(_sizes_of(needed & set(jaxpr.constvars)) & sizes)


def _innermost(eqn: Any) -> Iterator[Any]:
    """An equation, or those of the functions that it calls."""
    inside = jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns"))
    called: list[Any] = [getattr(x, "jaxpr", x) for x in inside if hasattr(x, "eqns")]
    for inner in called:
        for each in inner.eqns:
            yield from _innermost(each)
    if not called:
        yield eqn


def _makes(eqn: Any, sizes: set[int]) -> bool:
    """Whether an axis of such a size is new and no repetition, or is summed along."""
    name, params = eqn.primitive.name, eqn.params
    if name == "broadcast_in_dim":
        return False
    if name == "iota":
        return params["shape"][params["dimension"]] in sizes
    if name.startswith("cum"):
        return eqn.invars[0].aval.shape[params["axis"]] in sizes
    given = _sizes_of(x for x in eqn.invars if not isinstance(x, Literal))
    return not given & sizes and bool(_sizes_of([*eqn.invars, *eqn.outvars]) & sizes)


def _sizes_of(atoms: Iterable[Any]) -> set[int]:
    return {size for x in atoms for size in getattr(x.aval, "shape", ())}
