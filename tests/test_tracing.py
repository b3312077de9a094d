# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs that are compiled quickly, by themselves and as parts of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae import tracing

POINT = jnp.array([0.3, -1.2])


def half_of_squares(x):
    return 0.5 * jnp.sum(x**2)


def test_a_program_by_itself_has_options(monkeypatch):
    """An option that XLA does not know tells where it is used."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    expected = half_of_squares(POINT)
    np.testing.assert_allclose(tracing.quick_jit(half_of_squares)(POINT), expected)
    monkeypatch.setattr(tracing, "_LEVEL", "xla_no_such_option")
    quick = tracing.quick_jit(half_of_squares)
    with pytest.raises(Exception, match="xla_no_such_option"):
        quick(POINT)
    np.testing.assert_allclose(jax.jit(lambda x: quick(x))(POINT), expected)
    np.testing.assert_allclose(jax.grad(quick)(POINT), POINT)
    np.testing.assert_allclose(jax.vmap(quick)(POINT[None]), [expected])
    np.testing.assert_allclose(jax.lax.map(quick, POINT[None]), [expected])


def test_an_option_of_the_user_stays(monkeypatch):
    monkeypatch.setattr(tracing, "_LEVEL", "xla_no_such_option")
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_option=1")
    quick = tracing.quick_jit(half_of_squares)
    np.testing.assert_allclose(quick(POINT), half_of_squares(POINT))
