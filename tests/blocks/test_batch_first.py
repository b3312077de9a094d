# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Large matrices, whose batch comes first, against the same with lanes last."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.blocks import batch_first, conditioning, elimination, linalg, loops
from tests.blocks.test_gaussian_chain import outputs, problem


@pytest.fixture
def all_large(monkeypatch):
    """A switch to library calls, in blocks of so many steps."""

    def switch(own):
        monkeypatch.setattr(batch_first, "suits", lambda *trees: True)
        monkeypatch.setattr(
            loops, "steps_at_once", lambda length, lanes: min(own, length)
        )
        for module in (conditioning, elimination, linalg):
            monkeypatch.setattr(module, "MAX_UNROLLED", 1)
        jax.clear_caches()

    yield switch
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.x64
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize(
    ("steps", "lanes", "own", "shared"),
    [(1, 2, 1, False), (4, 1, 1, False), (6, 2, 3, False), (6, 3, 2, True)],
)
def test_agrees_with_lanes_last(all_large, steps, lanes, own, shared, diagonal):
    """Moments, a path and the gradient; also of covariances that lanes share."""
    *args, eps = problem(0, steps, lanes, diagonal, shared)
    args[6] = args[6].at[0].set(0.0)  # an entry that a diagonal says nothing precise of
    if shared:
        args[1], args[6] = args[1][..., :1], args[6][..., :1]

    def loss(*args):
        q, cross, path = outputs(*args, eps)
        value = jnp.sum(q.log_normalizer) + jnp.sum(jnp.sin(path)) + jnp.sum(cross**2)
        return value + jnp.sum(jnp.cos(q.marginals.cov)), (q, path)

    both = jax.jit(jax.value_and_grad(loss, tuple(range(7)), has_aux=True))
    expected = both(*args)
    all_large(own)
    found = both(*args)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10)


@pytest.mark.x64
@pytest.mark.parametrize("shared", ["nothing", "lanes", "time"])
@pytest.mark.parametrize("own", [1, 2, 5])
def test_blocks_of_steps_are_all_steps(own, shared):
    """Blocks of two and five overlap at the end of seven steps."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 2, 7, 4)))
    y = {"nothing": x[::-1], "lanes": x[..., :1], "time": x[..., :1, :]}[shared]
    found = batch_first.each_step(lambda x, y: (x * y, x + 1.0), 7, own, (x, y))
    for one, expected in zip(found, (x * y, x + 1.0), strict=True):
        np.testing.assert_array_equal(one, expected)
