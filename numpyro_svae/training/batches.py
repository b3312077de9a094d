# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""SVI on minibatches from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from itertools import chain, islice
import os
from pathlib import Path
from typing import Any, NamedTuple
import warnings

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.svi import SVIRunResult, SVIState
import tqdm

from numpyro_svae.training.checkpoints import load_state, save_state
from numpyro_svae.training.plateau import finite_mean
from numpyro_svae.whole_steps import skipped_steps

__all__ = ["run_batches", "shuffled"]


def shuffled(num_data: int, batch_size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Indices of minibatches without end, each epoch in an order of its own.

    What does not fill a batch at the end of an epoch is left out of it.

    :param num_data: number of data.
    :param batch_size: number of them in a batch.
    :param seed: of the orders.
    :return: an iterator over arrays of shape ``(batch_size,)``.
    """
    if not 0 < batch_size <= num_data:
        raise ValueError(
            f"batch_size: found {batch_size}; accepted are 1 to {num_data}, the number "
            "of data."
        )
    rng = np.random.default_rng(seed)
    whole = num_data // batch_size * batch_size
    while True:
        yield from rng.permutation(num_data)[:whole].reshape(-1, batch_size)


def run_batches(
    svi: SVI,
    rng_key: Array | None,
    batches: Iterable,
    num_steps: int | None = None,
    *,
    constants: Mapping[str, Any] | None = None,
    progress_bar: bool = True,
    stable_update: bool = False,
    init_state: SVIState | None = None,
    init_params: dict[str, Any] | None = None,
    stop: Callable[[np.ndarray], bool] | None = None,
    checkpoint: str | os.PathLike | None = None,
    every: int = 100,
) -> SVIRunResult:
    """:meth:`~numpyro.infer.svi.SVI.run` with a minibatch for each step.

    A batch is a tuple or list of positional arguments of the model and the guide, a
    dictionary of keyword arguments, or one array; of NumPy, JAX or whatever NumPy can
    read. Its plate in the model has ``subsample_size=len(batch)``, which weighs the
    batch by the number of data. Batches of one shape are compiled once.

    With a checkpoint, the same call goes on where it was killed: from the same batches
    it gets the parameters that it would have got, bit for bit.

    Steps that are left out as they are not finite are counted beside the loss, and at
    the end (:func:`skipped_steps`).

    :param svi: the inference.
    :param rng_key: random key; None with an ``init_state``.
    :param batches: any iterable of batches, such as a data loader.
    :param num_steps: the most steps to take, counted over all resumed runs; by default
        as many as there are batches.
    :param constants: keyword arguments of the model and the guide that are the same in
        each step: arrays, and numbers or whatever else is hashable, such as the size of
        a plate.
    :param progress_bar: whether to show one, with the mean loss of the last steps.
    :param stable_update: whether to leave out steps that would make NaN, with an
        optimiser other than :func:`~numpyro_svae.svae_optimizer`, which does so anyway.
    :param init_state: the state to start from, of an earlier run; by default a new one.
    :param init_params: parameters to start from.
    :param stop: a function of all losses so far that says whether to stop, such as
        :class:`Plateau`.
    :param checkpoint: file for :func:`save_state`. If it exists, the run goes on from
        it, and the batches that it has seen are skipped.
    :param every: number of steps between looks at the losses: to show them, to ask
        ``stop``, and to write the checkpoint.
    :return: parameters, state and losses.
    :raises ValueError: if there is no batch, neither a key nor a state, or an argument
        is in a batch and a constant.

    **Example**

    .. code-block:: python

        batches = (y[index] for index in shuffled(len(y), 100))
        result = run_batches(svi, random.key(0), batches, 2000, stop=Plateau())
    """
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise ValueError("batches: found none; accepted is at least one.")
    if rng_key is None and init_state is None:
        raise ValueError("rng_key: found None; accepted only with an init_state.")
    constant = _Constants.of(constants or {}, first)
    state, losses = init_state, np.zeros(0)
    resumes = checkpoint is not None and Path(checkpoint).exists()
    if state is None or resumes:
        args, kwargs = constant.join(*_arguments(first))
        key = jax.random.PRNGKey(0) if rng_key is None else rng_key
        state = svi.init(key, *args, init_params=init_params, **kwargs)
    if checkpoint is not None and resumes:
        state, losses = load_state(checkpoint, state)
    left = islice(chain([first], source), len(losses), num_steps)
    total = num_steps or (len(batches) if isinstance(batches, Sized) else None)
    pending: list[Array] = []
    with tqdm.tqdm(
        left, total=total, initial=len(losses), disable=not progress_bar
    ) as bar:
        ended = stop is not None and len(losses) > 0 and stop(losses)
        for batch in () if ended else bar:
            given = constant.arrays, *_arguments(batch)
            state, loss = _update(svi, stable_update, constant.rest, state, *given)
            pending.append(loss)
            if (len(losses) + len(pending)) % every:
                continue
            losses = np.append(losses, jax.device_get(pending))
            bar.set_postfix_str(_progress(losses[-len(pending) :], state), False)
            pending.clear()
            if checkpoint is not None:
                save_state(checkpoint, state, losses)
            if stop is not None and stop(losses):
                break
    losses = np.append(losses, jax.device_get(pending))
    if checkpoint is not None:
        save_state(checkpoint, state, losses)
    _say_skipped(state, len(losses))
    return SVIRunResult(svi.get_params(state), state, jnp.asarray(losses))


def _progress(losses: np.ndarray, state: SVIState) -> str:
    """Mean loss of the last steps, and how many of all were left out."""
    mean, skipped = finite_mean(losses), skipped_steps(state)
    return f"loss {mean:.4f}" + (f", {skipped} steps left out" if skipped else "")


def _say_skipped(state: SVIState, num_steps: int) -> None:
    skipped = skipped_steps(state)
    if skipped:
        warnings.warn(
            f"run_batches: {skipped} of {num_steps} steps were left out, as their loss "
            "or gradients were not finite.",
            RuntimeWarning,
            stacklevel=3,
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _update(
    svi: SVI,
    stable: bool,
    rest: tuple,
    state: SVIState,
    arrays: dict,
    args: tuple,
    kwargs: dict,
) -> tuple[SVIState, Array]:
    update = svi.stable_update if stable else svi.update
    return update(state, *args, **kwargs, **arrays, **dict(rest))


class _Constants(NamedTuple):
    """Keyword arguments that are the same in each step.

    :param arrays: by name.
    :param rest: names and values of the others, which are known while compiling.
    """

    arrays: dict[str, Array | np.ndarray]
    rest: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, constants: Mapping[str, Any], batch: Any) -> _Constants:
        """Tell arrays from others; none may be in a batch too."""
        both = sorted(set(constants) & set(_arguments(batch)[1]))
        if both:
            raise ValueError(
                f"constants: found {both}, which batches have as well; accepted are "
                "other arguments of the model."
            )
        arrays, rest = {}, []
        for name, value in sorted(constants.items()):
            if isinstance(value, Array | np.ndarray):
                arrays[name] = value
            else:
                rest.append((name, value))
        return cls(arrays, tuple(rest))

    def join(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """All arguments, with those of a batch."""
        return args, {**kwargs, **self.arrays, **dict(self.rest)}


def _arguments(batch: Any) -> tuple[tuple, dict[str, Any]]:
    """The positional and the keyword arguments that a batch stands for."""
    batch = jax.tree.map(_array, batch)
    if isinstance(batch, dict):
        return (), batch
    if isinstance(batch, tuple | list):
        return tuple(batch), {}
    return (batch,), {}


def _array(leaf: Any) -> Array | np.ndarray:
    return leaf if isinstance(leaf, Array) else np.asarray(leaf)
