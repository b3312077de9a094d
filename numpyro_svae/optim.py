# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Natural-gradient steps as an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple
import warnings

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import NaturalParameters
from numpyro_svae.notices import Said, notice
from numpyro_svae.whole_steps import whole_steps

if TYPE_CHECKING:
    import optax

__all__ = ["NaturalStepState", "svae_optimizer"]

_HARDLY = 0.01  # of a step: a block that goes less far has hardly moved
_LONG = 10  # steps in a row, after which a block that hardly moved is said to be stuck
_COUNTED = Said()  # the number of steps in a row tells when it is said

_NOT_TAKEN = (
    "svae_optimizer: `neural` ended in an error. SVI hands it the gradient, the state, "
    "the parameters in one dictionary by name (those that natural steps move are empty "
    "there), and the `value` of the loss. It evaluates no loss a second time: a line "
    "search, as that of optax.lbfgs(), and what else needs `value_fn`, `obj_fn`, "
    "`grad_fn` or a gradient for each datum is not accepted, nor are parameters in a "
    "class of its own. Accepted: optax.adam(1e-3), or optax.lbfgs(1e-2, "
    "linesearch=None); in optax.masked, a function of the parameters."
)


class NaturalStepState(NamedTuple):
    """State of the natural-gradient step.

    :param steps: number of steps taken.
    :param shortened: number of times that the step of a block was shortened, or left
        out, because it would have left the domain of its family.
    :param stuck: number of steps in a row in which some block hardly moved because of
        that; once it is ten, which is said, it stays.
    """

    steps: Array
    shortened: Array
    stuck: Array


def svae_optimizer(
    neural: optax.GradientTransformation | None = None,
    natural: Any = 0.1,
    *,
    boundary_fraction: float = 0.9,
) -> optax.GradientTransformation:
    """Natural-gradient steps for global posteriors, ``neural`` for everything else.

    The guide hands the natural gradient to the natural parameters, so their step is
    :math:`\\eta \\leftarrow \\eta - \\rho \\nabla`: with :math:`\\rho = 1`, on a
    conjugate model and the full data, the exact update of coordinate ascent. A step
    that would leave the domain of its family (a scale matrix that is no longer positive
    definite, say) is shortened to a fraction of the way to the boundary. A posterior
    that hardly moves for ten steps, because it is at the end of its domain, gives a
    warning.

    A step with a loss or a gradient that is NaN or infinite is left out: all parameters
    and the state of the optimiser stay as they were. The first one gives a warning, and
    :func:`~numpyro_svae.training.skipped_steps` counts them.

    :param neural: optax transformation for networks and other parameters, by default
        ``optax.adam(1e-3)``.
    :param natural: step size :math:`\\rho`, or an optax schedule of it.
    :param boundary_fraction: the largest part of the way to the boundary of the domain
        that one step may go, between 0 and 1.
    :return: an optax transformation for :class:`~numpyro.infer.svi.SVI`.
    :raises TypeError: if ``neural`` is not an optax transformation, or ``natural`` is
        neither a number nor a schedule; in the first step, if ``neural`` wants more
        than SVI has: the gradient, the parameters and the value of the loss.
    :raises ValueError: if a step size or the fraction is out of range.
    """
    import optax

    neural = optax.adam(1e-3) if neural is None else neural
    if isinstance(neural, optax.MultiSteps):
        neural = neural.gradient_transformation()
    if not isinstance(neural, optax.GradientTransformation):
        raise TypeError(
            "svae_optimizer: `neural` must be an optax transformation such as "
            f"optax.adam(1e-3), found {type(neural).__name__}."
        )
    if isinstance(natural, optax.GradientTransformation):
        raise TypeError(
            "svae_optimizer: `natural` found an optax transformation. Natural "
            "parameters take plain natural-gradient steps: rescaling them elementwise, "
            "as Adam does, is no longer a conjugate update and can leave the family's "
            "domain. Give the step size rho, a number in (0, 1], or an optax schedule."
        )
    if not callable(natural) and not isinstance(natural, Real | Array):
        raise TypeError(
            "svae_optimizer: `natural` must be a number in (0, 1] or an optax schedule "
            f"of it, found {type(natural).__name__}."
        )
    if not callable(natural) and not 0 < natural <= 1:
        raise ValueError(
            f"svae_optimizer: `natural` must be a step size in (0, 1], found {natural}."
        )
    if not 0 < boundary_fraction < 1:
        raise ValueError(
            "svae_optimizer: `boundary_fraction` must be strictly between 0 and 1, "
            f"found {boundary_fraction}."
        )
    step = _natural_step(natural, boundary_fraction)
    parts = {"natural": step, "neural": _said_by_name(neural)}
    return whole_steps(optax.partition(parts, _label))


def _is_natural(tree: Any) -> bool:
    return isinstance(tree, NaturalParameters)


def _label(params: Any) -> Any:
    def name(leaf: Any) -> str:
        return "natural" if _is_natural(leaf) else "neural"

    return jax.tree.map(name, params, is_leaf=_is_natural)


def _said_by_name(
    neural: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The same transformation, whose errors say what SVI hands it."""
    import optax

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **extra: Any) -> Any:
            try:
                return function(*args, **extra)
            except Exception as error:
                raise TypeError(f"{_NOT_TAKEN} It says: {error}") from error

        return call

    inner = optax.with_extra_args_support(neural)
    return optax.GradientTransformationExtraArgs(named(inner.init), named(inner.update))


def _natural_step(rate: Any, fraction: float) -> optax.GradientTransformation:
    import optax

    def init(params: Any) -> NaturalStepState:
        # Arrays of their own, as a step that donates its state gives none away twice.
        return NaturalStepState(*(jnp.zeros((), jnp.int32) for _ in range(3)))

    def update(gradients: Any, state: NaturalStepState, params: Any = None) -> Any:
        rho = rate(state.steps) if callable(rate) else rate
        structure: Any
        blocks, structure = jax.tree.flatten(params, is_leaf=_is_natural)
        steps = structure.flatten_up_to(gradients)
        moves = [_safe_move(b, g, rho, fraction) for b, g in zip(blocks, steps)]
        updates = structure.unflatten([move for move, _ in moves])
        lengths = [length for _, length in moves]
        shortened = sum((jnp.sum(x < 1, dtype=jnp.int32) for x in lengths), 0)
        stuck = _count_stuck(_names(params), lengths, state.stuck)
        after = state.steps + 1, state.shortened + shortened, stuck
        return updates, NaturalStepState(*after)

    return optax.GradientTransformation(init, update)


def _names(params: Any) -> tuple[str, ...]:
    """The names of the blocks, in the order of the tree."""
    found = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_natural)
    return tuple(jax.tree_util.keystr(path, simple=True) for path, _ in found)


def _safe_move(
    block: NaturalParameters, gradient: NaturalParameters, rho: Any, fraction: float
) -> tuple[NaturalParameters, Array]:
    """Each member of the batch goes as far as its domain allows.

    :return: the move, and which part of the step it is; zero where it is left out.
    """
    direction = gradient.scale(-rho)
    enough = 1 / fraction  # for the whole of the step
    largest = block.largest_step(direction, enough)
    length = jnp.where(largest >= enough, 1.0, fraction * largest)
    known = jnp.isfinite(length)
    move = _keep(known, direction.scale(length))
    landed = _finite((block + move).witness(), block.batch_shape)
    return _keep(landed, move), jnp.where(known & landed, length, 0.0)


def _count_stuck(names: tuple[str, ...], lengths: list[Array], before: Array) -> Array:
    """Count steps in a row in which a block hardly moved; say so when it is stuck."""
    if not lengths:
        return before
    hardly = jnp.stack([jnp.any(length < _HARDLY) for length in lengths])
    count = jnp.where(before >= _LONG, before, (before + 1) * jnp.any(hardly))
    is_stuck = (count == _LONG) & (before < _LONG)
    noticed = notice(is_stuck, hardly, partial(_say_stuck, names), _COUNTED)
    return count + noticed.astype(count.dtype)


def _say_stuck(names: tuple[str, ...], _: Said, hardly: np.ndarray) -> None:
    stuck = [name for name, short in zip(names, hardly) if short]
    warnings.warn(
        f"svae_optimizer: {stuck} hardly moved in {_LONG} steps of SVI, as longer ones "
        "would leave the domain of their family, or what the floating-point type has "
        "digits for: data or states are very large beside the noise about them. If "
        "this is at the beginning, when networks are random, let natural steps begin "
        "small, as by natural=optax.linear_schedule(0.0, 0.1, 500), or give a start by "
        "`init`. If it is at the end, some noise has been learnt to be zero: hold it, "
        "or give its prior a larger scale. Else centre the data, or use float64.",
        RuntimeWarning,
        stacklevel=2,
    )


def _finite(tree: Any, batch_shape: tuple[int, ...]) -> Array:
    """Which members of the batch are finite in every entry."""
    leaves = [leaf.reshape(*batch_shape, -1) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.isfinite(jnp.concatenate(leaves, -1)), -1)


def _keep(keep: Array, move: NaturalParameters) -> NaturalParameters:
    """Zero the members of the batch that are not kept."""

    def select(leaf: Array) -> Array:
        extra = leaf.ndim - keep.ndim
        return jnp.where(jnp.expand_dims(keep, tuple(range(-extra, 0))), leaf, 0.0)

    return jax.tree.map(select, move)
