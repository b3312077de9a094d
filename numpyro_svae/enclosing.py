# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a guide looks at in the SVI that begins it: its optimiser and its loss."""

from __future__ import annotations

from collections.abc import Collection
import sys
from typing import Any
import warnings

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
from numpyro.optim import Minimize

from numpyro_svae.families import NaturalParameters, RegressionNatural
from numpyro_svae.tracing import computed_now
from numpyro_svae.whole_steps import WholeStepState

__all__ = ["check_enclosing", "check_step", "is_initialising"]

_STEPS = 8  # of a trial: momentum and sums of several steps have shown by then


def check_enclosing(sites: Collection[str], keeps: bool) -> None:
    """Look at the optimiser and the loss of the SVI that a guide is begun by.

    NumPyro tells a guide nothing of them, so the frame of the ``SVI.init`` that is
    calling it is looked up; outside of SVI nothing is checked.

    :param sites: the sites whose posteriors the optimiser would move.
    :param keeps: whether the guide keeps anything else from step to step.
    :raises TypeError: if steps of the optimiser are no natural-gradient steps, or are
        longer than the domain of the family allows in spite of ``svae_optimizer``.
    """
    svi = _initialising()
    if svi is None:
        return
    found = _trial(svi.optim) if sites else None
    if found:
        raise TypeError(
            f"The posterior of site '{next(iter(sites))}' is held by natural "
            f"parameters, and the optimiser given to SVI would {found}. Accepted: "
            "numpyro_svae.svae_optimizer(neural=<your optimiser>, natural=0.1), which "
            "routes only the other parameters to yours; in front of it "
            "optax.clip_by_global_norm, and around it "
            "optax.MultiSteps(...).gradient_transformation()."
        )
    if (sites or keeps) and type(svi.loss).__module__.startswith("numpyro."):
        _say_loss(svi.loss)


def _say_loss(loss: Any) -> None:
    """What is a natural gradient of :class:`~numpyro_svae.SVAE_ELBO` is not one of any
    other loss."""
    warnings.warn(
        f"AutoSVAE: found the loss {type(loss).__name__} in SVI. It scores the guide, "
        "but its gradients for the posteriors of global sites are no natural "
        "gradients, and not all losses take what the guide keeps from step to step. "
        "Accepted to train: SVI(..., loss=ns.SVAE_ELBO()).",
        RuntimeWarning,
        stacklevel=2,
    )


def is_initialising() -> bool:
    """Whether this is called by an ``SVI.init``, where everything begins."""
    return _initialising() is not None


def _initialising() -> SVI | None:
    found = _calling(SVI.init)
    return None if found is None else found["self"]


def _calling(*methods: Any) -> dict[str, Any] | None:
    """The variables of the call of one of these that this is within, if it is."""
    frame: Any = sys._getframe()
    while frame is not None and frame.f_code not in {m.__code__ for m in methods}:
        frame = frame.f_back
    return None if frame is None else frame.f_locals


def check_step(params: dict[str, Any], summed: bool) -> None:
    """Look at how the step of an SVI, within which a loss is, differentiates it.

    :param params: the parameters.
    :param summed: whether the loss is a number.
    :raises TypeError: if it is not, it is differentiated in forward mode, or training
        began in fewer bits than JAX computes in now.
    """
    found = _calling(SVI.update, SVI.stable_update)
    if found is None:
        return
    if not summed:
        raise TypeError(
            "SVAE_ELBO: found sum_sites=False in a step of SVI, which takes the "
            "gradient of a number. Accepted: SVAE_ELBO() to train, and for terms by "
            "site SVAE_ELBO(sum_sites=False).loss, or an SVI with it to evaluate."
        )
    if found["forward_mode_differentiation"]:
        raise TypeError(
            "SVAE_ELBO: found forward_mode_differentiation=True in a step of SVI. Its "
            "derivatives are rules for reverse mode, natural gradients among them. "
            "Accepted: forward_mode_differentiation=False, the default."
        )
    for name, value in params.items():
        natural = isinstance(value, NaturalParameters)
        types = {leaf.dtype for leaf in jax.tree.leaves(value)} if natural else set()
        others = types - {jnp.result_type(float)}
        if others:
            raise TypeError(
                f"SVAE_ELBO: found '{name}' in {others.pop()}, while JAX computes in "
                f"{jnp.result_type(float)}. Accepted: one precision in a process, as "
                "by numpyro.enable_x64() before anything else; or training that begins "
                "anew, SVI.run(..., init_params=...) with parameters of its precision."
            )


def _trial(optimizer: Any) -> str | None:
    """What an optimiser does that is no natural-gradient step, if it does.

    It takes steps from a trial point: without a gradient, and down a long slope. The
    entries of a regression are of several shapes and signs, and one member of a batch.
    """
    if isinstance(optimizer, Minimize):
        return "search along their natural gradient for lower values of the loss"
    block = _regression([[4.0, 1.0], [1.0, 3.0]], [[-1.0], [0.5]], [[2.0]], 9.0)
    slope = _regression([[40.0, 9.0], [9.0, 2.0]], [[-1.0], [30.0]], [[5.0]], 0.3)
    start = {"trial": block, "weights": np.ones(2, block.df.dtype)}

    @jax.jit
    def step(weight: Array, state: Any) -> Any:
        def loss(params: Any) -> tuple[Array, None]:
            return weight * slope.inner(params["trial"]), None

        return optimizer.eval_and_update(loss, state)[1]

    def after(state: Any) -> RegressionNatural:
        return optimizer.get_params(state)["trial"]

    try:
        with computed_now():
            if isinstance(jax.eval_shape(optimizer.init, start)[1][1], WholeStepState):
                return None  # svae_optimizer by itself, which keeps to all of this
            begun = optimizer.init(jax.tree.map(jnp.asarray, start))
            idle = _entries(after(step(jnp.zeros(()), begun)) - block)
            states = [begun]
            for _ in range(_STEPS):
                states.append(step(jnp.ones(()), states[-1]))
            path = [after(state) for state in states]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None  # an optimiser tied to its own parameters cannot be tried out
    if np.any(idle != 0):
        return "move them where they have no gradient, as weight decay and noise do"
    moves = [_entries(point - block) for point in path]
    moved = next((move for move in moves if np.any(move != 0)), None)
    if moved is not None and not _is_along(moved, -_entries(slope)):
        return (
            "turn their natural gradient, as Adam does, which rescales it elementwise: "
            "that can leave the domain of the family"
        )
    held = any(_is_ours(x) for x in jax.tree.leaves(begun, is_leaf=_is_ours))
    if held and not all(point.in_domain() for point in path):
        return (
            "make the steps of svae_optimizer longer than the domain of the family "
            "allows, as momentum, sums over steps and factors above one do"
        )
    return None


def _regression(vv: Any, vu: Any, uu: Any, df: float) -> RegressionNatural:
    """Arrays of NumPy, of which none is compiled."""
    leaves: Any = (np.asarray(x, jnp.result_type(float)) for x in (vv, vu, uu, df))
    return RegressionNatural(*leaves)


def _entries(block: RegressionNatural) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(block)])


def _is_along(move: np.ndarray, direction: np.ndarray) -> bool:
    length = np.linalg.norm(move) * np.linalg.norm(direction)
    return bool(move @ direction > 0.99 * length)


def _is_ours(node: Any) -> bool:
    return isinstance(node, WholeStepState)
