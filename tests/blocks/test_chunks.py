# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Time in chunks gives what steps in order give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.blocks import chunks, filtering
from tests.blocks.hard_chains import PRECISIONS, hard_case, smoothed
from tests.blocks.test_gaussian_chain import outputs, problem


@pytest.fixture
def cut(monkeypatch):
    """Evaluate a function with time cut into a number of chunks."""

    def with_chunks(count, function, *args, tree=False):
        for module in (chunks, filtering):
            monkeypatch.setattr(module, "chunk_count", lambda *sizes: count)
        monkeypatch.setattr(chunks, "in_a_tree", lambda count: tree)
        jax.clear_caches()
        return function(*args)

    yield with_chunks
    jax.clear_caches()


def test_few_long_chains_of_small_states_are_cut():
    assert chunks.chunk_count(10_000, 1, 4) == 128
    assert chunks.chunk_count(1_000, 4, 4) == 32
    assert {
        chunks.chunk_count(*s) for s in [(100, 64, 4), (100, 1, 4), (1000, 1, 8)]
    } == {1}


def test_accelerators_cut_larger_states_and_more_chains_and_use_a_tree(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    sizes = [(10_000, 1, 32), (100, 64, 4), (63, 1, 4), (100, 257, 4)]
    assert [chunks.chunk_count(*s) for s in sizes] == [625, 6, 1, 1]
    assert chunks.in_a_tree(625) and not chunks.in_a_tree(4)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert chunks.chunk_count(100, 64, 4) == 1  # lanes are spread over devices


@pytest.mark.x64
@pytest.mark.slow
@pytest.mark.parametrize(
    ("lanes", "diagonal", "shared"), [(1, True, True), (3, False, False)]
)
def test_chunks_change_values_and_gradients_by_rounding_only(
    cut, lanes, diagonal, shared
):
    args = problem(0, 13, lanes, diagonal, shared)

    def both(*args):
        out, pull = jax.vjp(outputs, *args)
        return out, pull(jax.tree.map(jnp.cos, out))

    whole = jax.tree.leaves(cut(1, jax.jit(both), *args))
    for count, tree in ((4, False), (5, True), (13, True)):  # the last is associative
        chunked = jax.tree.leaves(cut(count, jax.jit(both), *args, tree=tree))
        for x, y in zip(chunked, whole, strict=True):
            np.testing.assert_allclose(x, y, 1e-10, 1e-10)


@pytest.mark.x64
@pytest.mark.slow
def test_chunks_are_safe_in_single_precision(cut):
    """Nearly deterministic dynamics, and potentials of 1e-6 to 1e6."""
    kinds = ("small", "mixed", "large")
    cases = [hard_case(600, 1e-5, PRECISIONS[kind], size=4) for kind in kinds]
    # the same numbers for both, and one program for all kinds
    cases = [[np.asarray(x, np.float32) for x in case] for case in cases]

    def each(dtype):
        return [smoothed(*case, dtype) for case in cases]

    exact = cut(1, each, jnp.float64)
    for count, tree in ((16, False), (600, True)):
        found = cut(count, each, jnp.float32, tree=tree)
        for kind, (mean, spread), (true, deviation) in zip(kinds, found, exact):
            assert mean.dtype == jnp.float32
            assert np.mean(np.abs(mean - true) / deviation) < 5e-4, (kind, count)
            assert np.max(np.abs(spread / deviation - 1)) < 1e-3, (kind, count)
