# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gradients of batches of which some results are shared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.derivatives import define_vjp
from numpyro_svae.inference.local.on_demand import on_demand

BATCH = jnp.arange(3.0)


def plain(h, J):
    return h * J, J**2


@jax.custom_vjp
def with_rule(h, J):
    return plain(h, J)


def backward(residuals, g):
    h, J = residuals
    return g[0] * J, g[0] * h + 2 * g[1] * J


define_vjp(with_rule, lambda h, J: (plain(h, J), (h, J)), backward)


@pytest.mark.parametrize(
    "function", [with_rule, lambda h, J: on_demand(plain, h, J)], ids=["rule", "again"]
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_a_batch_shares_counts_once(function, wrap):
    def total(function, J):
        means, shared = jax.vmap(wrap(lambda h: function(h, J)))(BATCH)
        return jnp.sum(means) + jnp.sum(shared)

    both = [lambda J, f=f: total(f, J) for f in (function, plain)]
    np.testing.assert_allclose(*(jax.grad(f)(2.0) for f in both))
    np.testing.assert_allclose(*(jax.grad(jax.grad(f))(2.0) for f in both))
