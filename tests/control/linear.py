# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Linear-quadratic problems with everything that changes in time, for several tests."""

import jax.numpy as jnp
import numpy as np

import numpyro_svae as ns
from numpyro_svae.control import LinearGaussianPolicy, QuadraticCost

T, D, A, E = 4, 2, 2, 1
SIZE = D + A


def positive(rng, *shape, least=0.3):
    root = rng.standard_normal((*shape, shape[-1]))
    return root @ root.mT + least * np.eye(shape[-1])


def costs(rng):
    """A cost with each part there, which changes in time, and one of the last state."""
    joint = positive(rng, T, SIZE)
    cost = QuadraticCost(
        joint[:, :D, :D],
        joint[:, D:, D:],
        rng.standard_normal((T, D)),
        joint[:, D:, :D],
        rng.standard_normal((T, D)),
        rng.standard_normal((T, A)),
        rng.standard_normal(T),
    )
    last = QuadraticCost(positive(rng, D), np.eye(A), rng.standard_normal(D))
    return cost, last


def weights(rng):
    return 0.7 * rng.standard_normal((T, D, SIZE + E))


def posterior(rng):
    """Of the dynamics at each step, far from certain."""
    scale = 0.4 * positive(rng, T, D)
    return ns.MatrixNormalInverseWishart(
        weights(rng), 3 * positive(rng, T, SIZE + E), np.full(T, 9.0), scale
    )


def policy(rng):
    return LinearGaussianPolicy(
        jnp.asarray(0.3 * rng.standard_normal((T, A, D))),
        jnp.asarray(rng.standard_normal((T, A))),
        jnp.asarray(positive(rng, T, A)),
    )


def value_of(cost, t, x, action):
    """The cost by its definition."""
    part = {
        name: np.asarray(getattr(cost, name))[t]
        for name in ("state", "action", "target", "cross", "state_slope")
    }
    gap = x - part["target"]
    return (
        0.5 * gap @ part["state"] @ gap
        + 0.5 * action @ part["action"] @ action
        + action @ part["cross"] @ x
        + part["state_slope"] @ x
        + cost.action_slope[t] @ action
        + cost.constant[t]
    )
