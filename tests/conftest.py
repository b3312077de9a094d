# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What every test may rely on: one precision at a time, and compiled code kept."""

from collections.abc import Callable, Iterator
import gc
import os
from pathlib import Path
import threading

import jax
from jax._src.interpreters import mlir
from jaxlib.mlir import ir
import numpyro
import pytest

import tools.whole_entries  # noqa: F401  what workers share


def pytest_configure(config: pytest.Config) -> None:
    """Keep what XLA compiles between files, workers and runs.

    Small programs too: half of all are single operations that many files use, and not
    to compile these again saves a sixth of the time. Set ``JAX_COMPILATION_CACHE_DIR``
    to choose another directory, or ``JAX_ENABLE_COMPILATION_CACHE=0`` to do without.
    Workers do not share what others keep: ArviZ 0.x writes the day of its announcement
    when it is imported, and two imports at once, the first of a day, fail.

    Traces are many small objects that live for long: looking for garbage among them
    after every few hundred took a twelfth of the time of those it was measured with.
    """
    gc.set_threshold(50_000, 10, 10)
    if jax.__version_info__ < (0, 12):
        mlir.make_ir_context = _Contexts(mlir.make_ir_context)
    cache = Path(config.rootpath, ".cache")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    os.environ["XDG_CACHE_HOME"] = str(cache / "others" / worker)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class _Contexts(threading.local):
    """MLIR contexts, each for ten programs and one thread: JAX 0.12 does the same.

    Older ones make one for every program that they lower. Making and deleting them took
    an eighth of the time of tests, most of whose programs are small.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make
        self.uses = 0

    def __call__(self) -> object:
        """The context of the next program: its own, while another one is lowered."""
        if ir.Context.current is not None:
            return self.make()
        if self.uses % 10 == 0:
            self.context = self.make()
        self.uses += 1
        return self.context


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has the fixture ``x64`` has the mark, and comes last."""
    for item in items:
        if "x64" in getattr(item, "fixturenames", ()):
            item.add_marker("x64")
    items.sort(key=in_float64)


def in_float64(item: pytest.Item) -> bool:
    """Whether a test runs in float64."""
    return item.get_closest_marker("x64") is not None


_in_float64 = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let go of compiled programs when the precision changes.

    A NumPy array that one of them holds as a constant keeps its precision for JAX as
    long as the program is there.

    What is exact is compared without NumPyro's validation, whose checks are a third of
    the programs that some of these tests compile. In float32 it is on, as for users.
    """
    global _in_float64
    if in_float64(item) != _in_float64:
        jax.clear_caches()
    _in_float64 = in_float64(item)
    numpyro.enable_validation(not _in_float64)


@pytest.fixture(autouse=True)
def precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """float64 for a test that has the mark ``x64``, else float32.

    Only function-scoped fixtures see it: arrays made by wider ones, or at import,
    are float32 unless they use ``jax.enable_x64`` themselves.
    """
    with jax.enable_x64(in_float64(request.node)):
        yield


@pytest.fixture
def x64(precision: None) -> None:
    """Run the test in float64."""


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[None]:
    """Let go of what was compiled, from file to file.

    A process with many programs compiles ever slower: with 12,000 mappings and four
    GiB, a small one takes twice the time that it took at first. At 65,530 mappings,
    of which a program has a few, there are no more.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 3_000:
        jax.clear_caches()
        gc.collect()
