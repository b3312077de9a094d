# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Windows of sequences of different lengths, and what is the same in each step."""

from itertools import islice

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
import optax
import pytest

from numpyro_svae.training import run_batches, windows


def sequences(lengths):
    """Numbers that say which sequence and step they are of."""
    steps = [np.arange(n) + 100 * i for i, n in enumerate(lengths)]
    return {"y": [np.stack([s, s], -1) for s in steps], "a": [s[:-1] for s in steps]}


def test_windows_are_parts_of_sequences_each_as_often():
    data = sequences([4, 3, 9, 5])  # with 1, none, 6 and 2 windows of four steps
    found = list(islice(windows(data, 4, 30, seed=1), 30))
    assert found[0]["y"].shape == (30, 4, 2) and found[0]["a"].shape == (30, 3)
    y = np.concatenate([batch["y"] for batch in found])
    a = np.concatenate([batch["a"] for batch in found])
    np.testing.assert_array_equal(np.diff(y[..., 0], axis=1), 1)
    np.testing.assert_array_equal(a, y[:, :-1, 0])
    starts, counts = np.unique(y[:, 0, 0], return_counts=True)
    assert starts.tolist() == [0, 200, 201, 202, 203, 204, 205, 300, 301]
    assert counts.min() > 60 and counts.max() < 145  # of 100, sd 9.4
    again = next(windows(data, 4, 30, seed=1))
    np.testing.assert_array_equal(again["y"], found[0]["y"])


def test_sequences_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="length from 2 to 5, the longest sequence"):
        windows(sequences([4, 5]), 6, 2)
    data = sequences([4, 5])
    with pytest.raises(ValueError, match=r"lengths \[3, 5\] of 'a', beside \[4, 5\]"):
        windows({**data, "a": [np.zeros(3), np.zeros(5)]}, 2, 2)
    with pytest.raises(ValueError, match=r"found \{'y': 2, 'a': 1\} sequences"):
        windows({**data, "a": data["a"][:1]}, 2, 2)


def model(y, size, scale):
    loc = numpyro.param("loc", 0.0)
    with numpyro.plate("data", size, subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def guide(y, size, scale):
    """No latent site."""


def test_constants_are_not_batched():
    svi = SVI(model, guide, optax.sgd(0.0), Trace_ELBO())
    y, options = np.arange(6.0, dtype=np.float32), {"progress_bar": False}
    constants = {"size": 60, "scale": jnp.array(2.0)}
    batches = ({"y": part} for part in (y[:3], y[3:]))
    key = random.key(0)
    found = run_batches(svi, key, batches, constants=constants, **options)
    for loss, part in zip(found.losses, (y[:3], y[3:])):
        goal = -20 * dist.Normal(0.0, 2.0).log_prob(part).sum()
        np.testing.assert_allclose(loss, goal, rtol=1e-5)
    with pytest.raises(ValueError, match=r"constants: found \['y'\], which batches"):
        run_batches(svi, key, [{"y": y}], constants={"y": y}, **options)
