# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How the steps of a scan move a Gaussian state."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.run.classes import spelling_of, tril_of
from numpyro_svae.program.run.scan_calls import ScanCall, constants, run_body
from numpyro_svae.program.run.wrappers import peel

__all__ = ["steps_of"]


def steps_of(
    call: ScanCall, name: str, leaf: int, body: dict[str, dict], states: Set[int]
) -> dict[str, Any]:
    """Whether the steps of a chain are linear, and whether they have more than that.

    :param call: the scan.
    :param name: of the site of the chain in the body.
    :param leaf: the place of its state in the carry.
    :param body: messages of the latent sites of a step.
    :param states: the leaves of the carry that are states.
    :return: ``linear`` and ``moved``; empty if it is no Gaussian vector.
    :raises ValueError: naming the site, if its covariance depends on the state before
        it, or has no Cholesky factor.
    """
    if _gaussian(body[name]["fn"]) is None:
        return {}
    given = {n: jnp.zeros_like(m["value"]) for n, m in body.items()}
    start = call.init[leaf]

    @jax.jit
    def at(state: Array) -> tuple[Array, Array]:
        def one(carry: list[Any], x: Any) -> tuple[Array, Array]:
            carry = [state if i == leaf else part for i, part in enumerate(carry)]
            _, _, messages = run_body(call, carry, x, given)
            loc, spread = _gaussian(messages[name]["fn"]) or (start, start)
            return jnp.broadcast_to(loc, jnp.shape(start)), spread

        if len(states) < len(call.init):
            return jax.vmap(one)(constants(call, states, given), call.xs)
        each = partial(one, call.init)
        return jax.vmap(each)(call.xs) if jax.tree.leaves(call.xs) else each(call.xs)

    rng = np.random.default_rng(0)
    state = jnp.asarray(rng.standard_normal(jnp.shape(start)), jnp.result_type(start))
    (origin, spread), (ahead, other) = at(jnp.zeros_like(state)), at(state)
    (behind, _), (between, _) = at(-0.5 * state), at(0.25 * state)
    if not jnp.all(jnp.isfinite(spread)):
        raise ValueError(
            f"Site '{name}': in the scan it has no Cholesky factor of its "
            "covariance, which is singular or not finite. Accepted of parts of a state "
            "that move without noise: Normal(loc, scale, validate_args=False).to_event("
            "1) with zeros in scale, MultivariateNormal(loc, scale_tril=L, "
            "validate_args=False) with zeros on the diagonal of L, or "
            "ns.LinearGaussianChain, which takes a singular transition_cov as it is."
        )
    if not _alike(spread, other):
        raise ValueError(
            f"Site '{name}': in the scan its covariance depends on the state "
            "before it. Accepted: MultivariateNormal(f(x, u), Q) with any function f "
            "of that state and of inputs, and a Q that depends on inputs at most."
        )
    # A rectifier is linear on either side of zero.
    linear = _alike(ahead + behind - 2 * origin, 2 * (between - origin))
    return {"moved": bool(jnp.any(origin != 0)), "linear": linear}


def _gaussian(fn: Any) -> tuple[Array, Array] | None:
    """Location and scale of a Gaussian."""
    fn, _, _ = peel(fn)
    vectors = spelling_of(fn) in ("numbers", "vector")
    return (fn.loc, tril_of(fn)) if vectors else None


def _alike(found: Array, expected: Array) -> bool:
    size = max(float(jnp.max(jnp.abs(expected))), 1e-6)
    return bool(jnp.max(jnp.abs(found - expected)) < 1e-3 * size)
