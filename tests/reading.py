# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs as they are read, for tests that compare two spellings of one program."""

from collections.abc import Callable

import jax
from jax import random
import numpy as np
from numpyro.handlers import block

from numpyro_svae.program.bind.binding import bind
from numpyro_svae.program.read.setup import read_program
from numpyro_svae.program.run.sites import Program, sample_sites
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["assert_alike", "assert_read_alike", "read"]


def read(model: Callable) -> tuple:
    """The factors of a program without arguments, and what is bound of their data."""
    with block():
        structure, *_ = read_program(model, None, (), {})
        shown = structure.scans, structure.shown
        program = Program(model, (), {}, random.PRNGKey(0), {}, *shown)
        bound = bind(program, structure, sample_sites(plain_run(program, structure)))
    data = bound.priors, bound.regressions, bound.statistics, bound.tables
    return structure.factors, data


def assert_read_alike(model: Callable, other: Callable) -> None:
    """Two programs have the same factors with the same data at a site 'y'."""
    (found, data), (expected, others) = read(model), read(other)
    assert found == expected
    assert any(factor.site == "y" for factor in found)
    assert_alike(data, others)


def assert_alike(found: object, expected: object) -> None:
    """Two trees agree to rounding."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for pair in zip(*map(jax.tree.leaves, (found, expected))):
        np.testing.assert_allclose(*pair, rtol=1e-7, atol=1e-9)
