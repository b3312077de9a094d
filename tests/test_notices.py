# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What compiled programs say, and that they are kept on disk all the same."""

from collections import Counter
from functools import partial
import gc
import warnings

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from numpyro_svae.notices import Said, notice
from tests.data import make_svi
from tests.models import linear_lds

_events = Counter[str]()
jax.monitoring.register_event_listener(lambda event, **_: _events.update([event]))


def say(prefix, said, found):
    if prefix not in said:
        said.add(prefix)
        (total, bad), step = found
        warnings.warn(f"{prefix} {total.tolist()} {bad.tolist()} {step}", stacklevel=2)


def make(said):
    """A function that speaks where an entry is large."""

    @jax.jit
    def run(x):
        values = (x, x > 1), jnp.arange(3)[2]
        return x + notice(jnp.any(x > 1), values, partial(say, "found"), said)

    return run


def _forget():
    """Free the names of what is gone, as in another process."""
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def on_disk(tmp_path):
    """A cache on disk that is empty, and keeps all."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for values in (names, before):
        for name, value in values.items():
            jax.config.update(name, value)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        if values is names:
            yield


def test_a_program_that_speaks_is_read_from_disk(on_disk):
    for hits in (0, 1):  # the second time as another process would
        said, x = Said(), jnp.array([0.5, 2.0])
        run = make(said)
        _events.clear()
        with pytest.warns(UserWarning, match=r"found \[0.5, 2.0\] \[False, True\] 2"):
            found = run(x).block_until_ready()
        run(x).block_until_ready()  # it is said once
        assert _events["/jax/compilation_cache/cache_hits"] == hits
        np.testing.assert_array_equal(found, x)
        del run, said
        _forget()


def test_each_of_two_owners_is_heard():
    x, owners = jnp.array([2.0]), (Said(), Said())
    runs = [make(said) for said in owners]
    for run in (*runs, *runs[::-1]):
        fresh = "found" not in owners[runs.index(run)]
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            run(x).block_until_ready()
        assert len(heard) == fresh


def test_an_error_that_a_notice_raises_ends_the_program():
    with warnings.catch_warnings(), pytest.raises(Exception, match="found"):
        warnings.simplefilter("error")
        make(Said())(jnp.array([2.0])).block_until_ready()


def test_a_step_is_the_same_program_in_each_process_and_calls_back_none():
    y = random.normal(random.PRNGKey(0), (2, 6, 3))
    texts, state = [], None
    for _ in range(2):
        guide = ns.AutoSVAE(linear_lds, num_starts=1)
        guide._setup_prototype(y)
        svi = make_svi(linear_lds, guide)
        fresh = svi.init(random.PRNGKey(0), y)
        state = fresh if state is None else state
        texts.append(jax.jit(svi.update).lower(state, y).as_text())
        assert "numpyro_svae_notice" in texts[-1]
        assert "callback" not in texts[-1]
        del guide, svi
        _forget()
    assert texts[0] == texts[1]
