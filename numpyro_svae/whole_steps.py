# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Steps of an optimiser that are taken as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple
import warnings

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.notices import Said, notice

if TYPE_CHECKING:
    import optax

__all__ = ["WholeStepState", "skipped_steps", "spoilt", "whole_steps"]


_SMALL = 4096  # entries of an array that are looked at together with others
_COUNTED = Said()  # the number of skipped steps tells what is the first one


class WholeStepState(NamedTuple):
    """State of an optimiser that leaves out steps which are not finite.

    :param inner: state of the optimiser that makes the steps.
    :param skipped: number of steps that were left out.
    """

    inner: Any
    skipped: Array


def whole_steps(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Leave out the steps of an optimiser that are not finite in all they hold.

    If the loss, a gradient, an update or the new state of the optimiser is NaN or
    infinite, parameters and the state stay as they were, and the step is counted. The
    first such step of a run gives a ``RuntimeWarning`` that names the parameters.

    Unlike :func:`optax.apply_if_finite` it looks at the loss, which
    :class:`~numpyro.infer.svi.SVI` hands over, and at what a step would do, and it
    never gives up and takes a bad step after all.

    :param inner: the optimiser.
    """
    import optax

    optimizer = optax.with_extra_args_support(inner)

    @jax.jit  # not an operation for the shape of each parameter
    def init(params: Any) -> WholeStepState:
        return WholeStepState(optimizer.init(params), jnp.zeros((), jnp.int32))

    def update(
        gradients: Any, state: WholeStepState, params: Any = None, **extra: Any
    ) -> tuple[Any, WholeStepState]:
        moves, after = optimizer.update(gradients, state.inner, params, **extra)
        loss = jnp.asarray(extra.get("value", 0.0))
        flags = [
            *_each(jnp.isfinite, gradients),
            *_each(jnp.isfinite, moves),
            *_each(_as_before, after, state.inner),
        ]
        good = jnp.isfinite(loss) & _all(flags)
        first = ~good & (state.skipped == 0)
        say = partial(_say, _names(gradients))
        noticed = notice(first, (loss, _inexact(gradients)), say, _COUNTED)
        skipped = state.skipped + jnp.where(good, 0, 1) + noticed.astype(jnp.int32)
        keep = partial(jnp.where, good)
        moves = jax.tree.map(lambda move: keep(move, jnp.zeros_like(move)), moves)
        return moves, WholeStepState(jax.tree.map(keep, after, state.inner), skipped)

    return optax.GradientTransformationExtraArgs(init, update)


def skipped_steps(state: Any) -> Array | None:
    """How many steps of SVI were left out because they were not finite.

    :param state: of SVI, as :meth:`~numpyro.infer.svi.SVI.update` returns it and
        :meth:`~numpyro.infer.svi.SVI.run` in its result; or of the optimiser.
    :return: the number; one for each member of a batch of states; None if
        :func:`~numpyro_svae.svae_optimizer` is not the optimiser.

    **Example**

    .. code-block:: python

        result = svi.run(random.key(0), 1000, y)
        print(training.skipped_steps(result.state), "of 1000 steps were left out")
    """

    def is_ours(node: Any) -> bool:
        return isinstance(node, WholeStepState)

    found = [s.skipped for s in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(s)]
    return found[0] if found else None


def spoilt(before: Any, after: Any) -> Array:
    """Whether a number is not finite any more; some are meant to begin as infinite."""
    return ~_all(_each(_as_before, after, before))


def _as_before(new: Array, old: Array) -> Array:
    return jnp.isfinite(new) | ~jnp.isfinite(old)


def _each(holds: Callable[..., Array], *trees: Any) -> list[Array]:
    """Where something holds of the numbers of trees, for each of their arrays."""
    return [holds(*column) for column in zip(*map(_inexact, trees), strict=True)]


def _inexact(tree: Any) -> list[Array]:
    """The arrays of numbers of a tree."""
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if _is_inexact(leaf)]


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _all(flags: list[Array]) -> Array:
    """Whether all of several arrays are true.

    Arrays of one shape, as the gradient, the step and the moments of one parameter are,
    are looked at in one kernel, which has the operations that make them in it: as parts
    of one vector each would have to be written down before.
    """
    alike: dict[tuple[int, ...], list[Array]] = {}
    for flag in flags:
        alike.setdefault(flag.shape, []).append(flag)
    each = [reduce(jnp.logical_and, group) for group in alike.values()]
    small = [jnp.ravel(x) for x in each if x.size <= _SMALL]
    large = [jnp.all(x)[None] for x in each if x.size > _SMALL]
    return jnp.all(jnp.concatenate([*small, *large, jnp.ones(1, bool)]))


def _names(gradients: Any) -> tuple[str, ...]:
    """What each array of numbers is of, by the first key in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    return tuple(
        jax.tree_util.keystr(path[:1], simple=True)
        for path, leaf in leaves
        if _is_inexact(leaf)
    )


def _say(
    names: tuple[str, ...], _: Said, found: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    loss, gradients = found  # whole: to look at each in the program is a kernel more
    each = zip(names, gradients, strict=True)
    bad = [*dict.fromkeys(name for name, own in each if not np.isfinite(own).all())]
    what = f"gradients that are not finite for {bad}" if bad else "finite gradients"
    if np.isfinite(loss) and not bad:
        what += ", of which the optimiser makes a step that is not"
    warnings.warn(
        f"A step of SVI is left out: found a loss of {loss:.6g} and {what}. Parameters "
        "and the state of the optimiser stay as they were. Further steps like this one "
        "are counted (`training.skipped_steps`), and not reported.",
        RuntimeWarning,
        stacklevel=2,
    )
