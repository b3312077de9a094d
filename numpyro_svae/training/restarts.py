# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Several runs at once, from different random starts."""

from __future__ import annotations

from typing import Any, NamedTuple
import warnings

import jax
from jax import Array, lax, random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.svi import SVIRunResult, SVIState

from numpyro_svae.shared_programs import shared_jit
from numpyro_svae.tracing import needs_values

__all__ = ["Restarts", "run_restarts"]


class Restarts(NamedTuple):
    """Runs from several starts.

    :param result: of the best one, as from :meth:`~numpyro.infer.svi.SVI.run`.
    :param losses: of all of them, ``(R, S)``.
    :param best: which one it was.
    """

    result: SVIRunResult
    losses: Array
    best: int


def run_restarts(
    svi: SVI,
    rng_key: Array,
    num_restarts: int,
    num_steps: int,
    *args: Any,
    init_params: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Restarts:
    """Run SVI from several random starts, all at once, and keep the best.

    The runs are one program under :func:`jax.vmap`. The best one has the lowest mean
    loss over the last tenth of its steps, of those that are finite; one that has none
    there never is. What the key decides differs between starts: the centres that
    components begin at, networks that NumPyro initialises (not those whose parameters
    exist already, as in ``nnx_module``), and noise. Other data of the same shapes
    compile nothing anew, unless the model has to know the values of its arguments.

    :param svi: the inference.
    :param rng_key: random key; that of restart r is ``random.split(rng_key, R)[r]``.
    :param num_restarts: R.
    :param num_steps: S.
    :param args: arguments of the model and the guide.
    :param init_params: parameters that all of them start at.
    :param kwargs: keyword arguments of the model and the guide.
    :raises FloatingPointError: if none of them ends with finite losses.
    """
    keys = random.split(rng_key, num_restarts)
    svi.init(
        keys[0], *args, init_params=init_params, **kwargs
    )  # reads the model, with concrete values

    states, losses = _run_all(svi, num_steps, keys, args, init_params, kwargs)
    last = losses[:, -max(1, num_steps // 10) :]
    final = jnp.mean(last, -1, where=jnp.isfinite(last))  # NaN where there are none
    final = jnp.where(jnp.isfinite(final), final, jnp.inf)
    best = int(jnp.argmin(final))
    if not jnp.isfinite(final[best]):
        raise FloatingPointError(
            f"run_restarts: the losses of all {num_restarts} restarts ended NaN or "
            "infinite."
        )
    if num_restarts > 1 and np.allclose(losses, losses[:1], 1e-6, equal_nan=True):
        warnings.warn(
            f"run_restarts: all {num_restarts} restarts took the same steps: nothing "
            "that counts depends on the random key. What `init` of the guide and "
            "`init_params` give does not, nor does the best of many guesses where all "
            "keys find the same one. Accepted: leave some of it out, "
            "`AutoSVAE(..., num_starts=1)`, or one run.",
            RuntimeWarning,
            stacklevel=2,
        )
    state = jax.tree.map(lambda leaf: leaf[best], states)
    result = SVIRunResult(svi.get_params(state), state, losses[best])
    return Restarts(result, losses, best)


def _run_all(svi: SVI, num_steps: int, keys: Array, *given: Any) -> Any:
    """The last states of all runs and their losses, by data that are no constants."""

    def run(keys: Array, args: tuple, params: Any, kwargs: dict[str, Any]) -> Any:
        def step(state: SVIState, _: None) -> tuple[SVIState, Array]:
            return svi.update(state, *args, **kwargs)

        def one(key: Array) -> tuple[SVIState, Array]:
            state = svi.init(key, *args, init_params=params, **kwargs)
            return lax.scan(step, state, length=num_steps)

        return jax.vmap(one)(keys)

    try:
        return shared_jit(run)(keys, *given)
    except TypeError as error:
        if not needs_values(error):
            raise
        return jax.jit(lambda keys: run(keys, *given))(keys)
