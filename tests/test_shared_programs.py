# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs that are compiled quickly, and once for all of the same text."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import jax
from jax import random
from jax._src.lru_cache import LRUCache
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from numpyro_svae import shared_programs
from numpyro_svae.notices import Said, notice
from numpyro_svae.shared_programs import Recent, quick_jit
from tests.compilations import compilations
from tests.data import make_svi
from tests.switching import hmm

POINT = jnp.array([0.3, -1.2])
MOST = 7


def half_of_squares(x):
    return 0.5 * jnp.sum(x**2)


def test_a_program_by_itself_has_options(monkeypatch):
    """An option that XLA does not know tells where it is used."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    expected = half_of_squares(POINT)
    np.testing.assert_allclose(quick_jit(half_of_squares)(POINT), expected)
    monkeypatch.setattr(shared_programs, "_LEVEL", "xla_no_such_option")
    monkeypatch.setattr(shared_programs, "_EXECUTABLES", Recent())
    quick = quick_jit(half_of_squares)
    with pytest.raises(Exception, match="xla_no_such_option"):
        quick(POINT)
    np.testing.assert_allclose(jax.jit(lambda x: quick(x))(POINT), expected)
    np.testing.assert_allclose(jax.grad(quick)(POINT), POINT)
    np.testing.assert_allclose(jax.vmap(quick)(POINT[None]), [expected])
    np.testing.assert_allclose(jax.lax.map(quick, POINT[None]), [expected])


def test_an_option_of_the_user_stays(monkeypatch):
    monkeypatch.setattr(shared_programs, "_LEVEL", "xla_no_such_option")
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_option=1")
    quick = quick_jit(half_of_squares)
    np.testing.assert_allclose(quick(POINT), half_of_squares(POINT))


class Named:
    """A leaf that is static, of which no two are equal."""

    __hash__ = None


def scaled(by):
    """A function of an array and a structure that is in its result."""

    def program(x, name):
        return {name[0]: by * x}

    return quick_jit(program)


def test_programs_of_one_text_are_compiled_once():
    """Results have the structure of their own, and constants are of the text."""
    first, same, other = scaled(2.0), scaled(2.0), scaled(3.0)
    expected = 2 * POINT
    np.testing.assert_array_equal(first(POINT, ["a"])["a"], expected)
    with compilations() as count:
        np.testing.assert_array_equal(same(POINT, ["b"])["b"], expected)
        assert count() == 0
        np.testing.assert_array_equal(other(POINT, ["a"])["a"], 3 * POINT)
        assert count() == 1
    assert shared_programs._EXECUTABLES
    jax.clear_caches()
    assert not shared_programs._EXECUTABLES


def test_leaves_that_are_no_arrays_are_static():
    @quick_jit
    def typed(x, leaf):
        return x, x.astype(type(leaf)), jnp.zeros(leaf if leaf else 1)

    for leaf, kind in ((True, bool), (1, "int32"), (1.0, "float32")):
        if kind != "float32":
            _, cast, _ = typed(POINT, leaf)
            assert cast.dtype == kind
    with compilations() as count:
        quick_jit(lambda x, leaf: 7 * x)(POINT, Named())
        quick_jit(lambda x, leaf: 7 * x)(POINT, Named())
    assert count() == 1


def test_what_is_not_used_tells_programs_apart():
    a, b = POINT, 2 * POINT
    first, second = quick_jit(lambda a, b: 5 * a), quick_jit(lambda a, b: 5 * b)
    np.testing.assert_array_equal(first(a, b), 5 * a)
    np.testing.assert_array_equal(second(a, b), 5 * b)


def test_a_result_is_as_weakly_typed_as_its_own():
    strong = quick_jit(lambda x: jnp.full((), 2.0, jnp.float32) + 0 * x.size)
    weak = quick_jit(lambda x: jnp.asarray(2.0) + 0 * x.size)
    plain = [jax.jit(f.__wrapped__)(POINT).weak_type for f in (strong, weak)]
    assert [f(POINT).weak_type for f in (strong, weak)] == plain


def test_keys_are_of_their_own_kind():
    kept, opened = quick_jit(lambda key: key), quick_jit(random.key_data)
    for key in (random.key(0), random.PRNGKey(0)):
        assert kept(key).dtype == key.dtype
        np.testing.assert_array_equal(opened(key), random.PRNGKey(0))


def test_a_program_that_calls_python_is_its_own():
    def calling(value):
        def call(x):
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            return x + jax.pure_callback(lambda: np.float32(value), shape)

        return quick_jit(call)

    found = [float(calling(value)(POINT)[0] - POINT[0]) for value in (1, 2)]
    np.testing.assert_allclose(found, [1, 2], rtol=1e-6)


def test_precision_and_what_encloses_it_tell_calls_apart():
    quick = quick_jit(lambda x: jnp.sum(x) * np.float64(1 / 3))
    with jax.enable_x64(True):
        wide = quick(np.array([1.0, 2.0]))
    assert wide.dtype == "float64"
    assert quick(np.array([1.0, 2.0])).dtype == "float32"
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        quick(np.array([np.nan]))
    with jax.disable_jit():
        assert quick(np.ones(3)) == 1


def test_each_owner_of_one_program_is_told():
    def speaking(said):
        def program(x):
            return x + notice(jnp.any(x > 1), x, say, said)

        return quick_jit(program)

    owners = Said(), Said()
    runs, x = [speaking(said) for said in owners], jnp.array([2.0])
    with compilations() as count:
        for run, said in zip((*runs, *runs[::-1]), (*owners, *owners[::-1])):
            before = heard[said]
            run(x).block_until_ready()
            assert heard[said] == before + 1
    assert count() == 1


def test_threads_trace_programs_of_their_own():
    """Both are within their traces at the same time."""
    meet, owners, x = Barrier(2, timeout=20), (Said(), Said()), jnp.array([2.0])

    def run(said, by):
        def program(x):
            meet.wait()
            told = notice(jnp.any(x > 1), x, say, said)
            meet.wait()
            return by * x + told

        return quick_jit(program)(x).block_until_ready()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, owners, (2.0, 3.0)))
    np.testing.assert_array_equal(found, [[4.0], [6.0]])
    assert [heard[said] for said in owners] == [1, 1]


heard = Counter[Said]()


def say(said, found):
    heard[said] += 1


def test_another_guide_of_a_program_compiles_little():
    """Only what reads the program."""
    y = random.normal(random.PRNGKey(0), (2, 6, 2))

    def look() -> Any:
        guide = ns.AutoSVAE(hmm, num_starts=2)
        svi = make_svi(hmm, guide)
        params = svi.get_params(svi.init(random.PRNGKey(0), y))
        key, given = random.PRNGKey(1), {"horizon": 2, "num_samples": 3}
        paths = ns.forecast(hmm, guide, params, key, y, **given)
        return guide, (paths, guide.median(params), guide.posterior_local(params, y))

    first, before = look()
    with compilations() as count:
        other, after = look()
    assert count() <= MOST
    assert first is not other
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_program_on_disk_appears_when_it_is_whole(tmp_path, monkeypatch):
    seen = []

    def replace(part, path):
        seen.append((path.exists(), part.read_bytes()))
        path.write_bytes(part.read_bytes())
        part.unlink()

    monkeypatch.setattr(Path, "replace", replace)
    cache = LRUCache(str(tmp_path), max_size=-1)
    cache.put("program", b"whole")
    cache.put("program", b"another")
    assert seen == [(False, b"whole")]
    assert cache.get("program") == b"whole"
