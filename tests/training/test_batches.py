# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""SVI on minibatches: where they come from, when it stops, how it goes on."""

from itertools import islice
import os
import signal
import subprocess
import sys
import time

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.training import Plateau, run_batches, shuffled
from tests.training.conftest import BATCH, SIZE, problem

STEPS, EVERY = 30, 7


def run(small, batches=None, steps=STEPS, key=0, **options):
    """A run of a problem, on its own batches by default."""
    batches = small.batches() if batches is None else batches
    options = {"progress_bar": False, "every": EVERY, **options}
    return run_batches(small.svi, random.PRNGKey(key), batches, steps, **options)


def assert_same_bits(actual, desired):
    jax.tree.map(np.testing.assert_array_equal, actual, desired)


@pytest.fixture(scope="module")
def whole(small):
    with jax.enable_x64(False):
        return run(small)


def test_it_is_a_loop_of_updates(small, whole):
    batches = small.batches()
    first = next(batches)
    state, update = small.svi.init(random.PRNGKey(0), first), jax.jit(small.svi.update)
    losses = []
    for batch in (first, *islice(batches, STEPS - 1)):
        state, loss = update(state, batch)
        losses.append(loss)
    np.testing.assert_allclose(whole.losses, jnp.stack(losses), rtol=1e-4)
    assert whole.losses.shape == (STEPS,)
    assert np.mean(whole.losses[-5:]) < np.mean(whole.losses[:5]) - 20


def test_a_seed_reproduces_a_run_exactly(small, whole):
    assert_same_bits(run(small), whole)
    assert np.all(run(small, key=1, steps=3).losses != whole.losses[:3])


class Killed(Exception):
    """What a run dies of."""


def dying(batches, after):
    yield from islice(batches, after)
    raise Killed


@pytest.mark.parametrize("life", np.random.default_rng(1).integers(1, STEPS, 3))
def test_a_killed_run_goes_on_to_the_same_bits(small, whole, life, tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(Killed):
        run(small, dying(small.batches(), life), checkpoint=path)
    assert path.exists() == (life >= EVERY)
    assert_same_bits(run(small, checkpoint=path), whole)
    assert_same_bits(run(small, checkpoint=path), whole)  # nothing is left to do


CHILD = """
import sys
import jax
from jax import random
from numpyro_svae.training import run_batches
from tests.training.conftest import problem

task = problem()
key = random.PRNGKey(0)
run_batches(
    task.svi, key, task.batches(), 3000, checkpoint=sys.argv[1], every=50,
    progress_bar=False,
)
"""


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    """The same, with SIGKILL at a random moment of the first of two processes."""
    path = tmp_path / "run.npz"
    command = [sys.executable, "-c", CHILD, str(path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    child = subprocess.Popen(command, env=environment)
    while not path.exists():
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    with np.load(path) as file:
        assert 0 < len(file["losses"]) < 3000
    subprocess.run(command, env=environment, check=True)
    task = problem()
    alone = run(task, steps=3000, checkpoint=tmp_path / "other.npz", every=50)
    with np.load(path) as killed, np.load(tmp_path / "other.npz") as other:
        assert_same_bits(dict(killed), dict(other))
    assert len(alone.losses) == 3000


def test_batches_come_in_any_shape(small, whole):
    def times(wrap):
        batches = [wrap(batch) for batch in islice(small.batches(), 4)]
        return run(small, batches, steps=None).losses

    for wrap in (jnp.asarray, lambda b: (b,), lambda b: [b], lambda b: {"y": b}):
        np.testing.assert_allclose(times(wrap), whole.losses[:4], rtol=1e-5)

    class Foreign:
        """An array of a library that NumPy can read."""

        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

    np.testing.assert_allclose(times(Foreign), whole.losses[:4], rtol=1e-5)
    with pytest.raises(ValueError, match="batches: found none"):
        run(small, [])
    with pytest.raises(ValueError, match="rng_key: found None"):
        run_batches(small.svi, None, small.batches(), 1)


def test_it_goes_on_from_a_state(small, whole):
    batches = small.batches()
    first = run(small, islice(batches, 10))
    rest = run(small, batches, steps=STEPS - 10, init_state=first.state)
    assert_same_bits(rest.params, whole.params)


def test_it_stops_when_it_is_told_to(small, whole):
    asked = []

    def stop(losses):
        asked.append(len(losses))
        return len(losses) >= 2 * EVERY

    result = run(small, stop=stop)
    assert asked == [EVERY, 2 * EVERY]
    np.testing.assert_array_equal(result.losses, whole.losses[: 2 * EVERY])


def test_one_shape_is_traced_once(small, whole):
    """It was when ``whole`` was run; later runs need not trace anything."""

    def refuse(self, *args, **kwargs):
        raise AssertionError("an update was traced again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(small.svi), "update", refuse)
        run(small, steps=5)


def test_shuffled_batches_cover_each_epoch():
    batches = list(islice(shuffled(SIZE + 3, BATCH, seed=1), 8))
    first, second = np.concatenate(batches[:4]), np.concatenate(batches[4:])
    for epoch in (first, second):
        assert len(set(epoch)) == SIZE and epoch.max() < SIZE + 3
    assert np.any(first != second)
    again = islice(shuffled(SIZE + 3, BATCH, seed=1), 8)
    np.testing.assert_array_equal(batches, list(again))
    with pytest.raises(ValueError, match="batch_size: found 9; accepted are 1 to 5"):
        next(shuffled(5, 9))


def test_a_plateau_is_several_windows_without_a_better_one():
    stop = Plateau(window=3, patience=2)
    falling = np.repeat([5.0, 4.0, 3.0, 2.0], 3)
    assert not stop(falling)
    assert not stop([*falling, 2.1, 2.0, 2.1])
    assert stop([*falling, 2.1, 2.0, 2.1, 9.0, 0.0, 9.0])
    assert not stop([*falling, 2.1, 2.0, 2.1, 1.9, 1.9, 1.9])
    assert Plateau(3, 2, min_delta=0.5)([*falling, *np.repeat([1.9, 1.8], 3)])
    assert not stop([])
    with pytest.raises(ValueError, match="window, patience, min_delta: found 0"):
        Plateau(window=0)
