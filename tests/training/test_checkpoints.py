# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""States on disk have the same bits, and nothing else is taken for them."""

from collections import namedtuple

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.training import load_state, save_state

Pair = namedtuple("Pair", ["one", "other"])


def tree(seed=0):
    values = random.normal(random.PRNGKey(seed), (3, 2)).at[0, 0].set(jnp.nan)
    return {
        "key": random.key(seed, impl="rbg"),
        "pair": Pair(values, values.astype(jnp.bfloat16)),
        "count": jnp.int32(seed),
        "nothing": None,
    }


def test_what_is_read_has_the_bits_that_were_written(tmp_path):
    path = tmp_path / "state.npz"
    save_state(path, tree(), losses=[2.0, 1.0])
    found, losses = load_state(path, tree(1))
    expected = tree()
    np.testing.assert_array_equal(losses, [2.0, 1.0])
    assert random.normal(found["key"]) == random.normal(expected["key"])
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for name in ("one", "other"):
        ours, theirs = getattr(found["pair"], name), getattr(expected["pair"], name)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


def test_a_run_of_svi_goes_on_from_a_file(small, tmp_path):
    svi, y = small.svi, small.y[:10]
    update = jax.jit(svi.update)
    state, _ = update(svi.init(random.PRNGKey(2), y), y)
    save_state(tmp_path / "state.npz", state)
    found, _ = load_state(tmp_path / "state.npz", svi.init(random.PRNGKey(9), y))
    jax.tree.map(np.testing.assert_array_equal, update(found, y), update(state, y))


def test_what_does_not_fit_is_said(tmp_path):
    path = tmp_path / "state.npz"
    save_state(path, {"a": jnp.ones(2), "b": jnp.ones(3)})
    one = jnp.ones(2)
    with pytest.raises(ValueError, match=r"state\['b'\].*which the program has not"):
        load_state(path, {"a": one})
    with pytest.raises(ValueError, match=r"\['b'\]' found float32\[3\].*float32\[2\]"):
        load_state(path, {"a": one, "b": one})
    with pytest.raises(ValueError, match=r"found float32\[3\].*int32\[3\]"):
        load_state(path, {"a": one, "b": jnp.ones(3, int)})
    with pytest.raises(ValueError, match=r"\['c'\]' found nothing"):
        load_state(path, {"a": one, "b": jnp.ones(3), "c": one})


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    save_state(path, {"a": jnp.ones(2)})

    def fail(file, **entries):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        save_state(path, {"a": jnp.zeros(2)})
    found, _ = load_state(path, {"a": jnp.zeros(2)})
    np.testing.assert_array_equal(found["a"], 1.0)
