# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where a filter is at the start of each chunk of time, without filtering in order.

Given the state ``x`` that it starts from, a chunk ends in ``N(F x + b, V)``, and its
potentials say ``exp(r' x - x' L x / 2)`` of ``x``: it is a step and a potential, as one
state of it is. Filtering from ``x = 0`` without variance gives ``b`` and ``V``, and the
rest follows from its steps. A start is conditioned on what its chunk says and moved to
the next one, or chunks are joined first.

**Reference:** S. Särkkä and Á. F. García-Fernández, *Temporal parallelization of
Bayesian smoothers* (IEEE Transactions on Automatic Control, 2021), whose elements
these are; here moments stay moments.
"""

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks import linalg
from numpyro_svae.blocks.chain_steps import Dynamics, Gaussian, predict
from numpyro_svae.blocks.chunks import starts
from numpyro_svae.blocks.conditioning import Potential, factor
from numpyro_svae.blocks.linalg import (
    matmul,
    matvec,
    outer,
    square,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import over_time

__all__ = ["chunk_starts"]


class _Chunk(NamedTuple):
    """``F``, ``N(b, V)``, ``r`` and ``L`` of what has been seen of a chunk."""

    matrix: Array
    end: Gaussian
    info: Array
    precision: Array


def _see(chunk: _Chunk, step: Dynamics, potential: Potential) -> _Chunk:
    """One more state of a chunk."""
    filtered, _ = potential.condition(*chunk.end)
    weight, score, information = potential.pull(*chunk.end)
    return _Chunk(
        matmul(step.matrix, matmul(weight, chunk.matrix)),
        predict(filtered, step),
        chunk.info + matvec(transpose(chunk.matrix), score),
        chunk.precision + square(chunk.matrix, information),
    )


def _as_one(chunk: _Chunk) -> tuple[Dynamics, Potential]:
    """A chunk as a potential of the state that it starts from, and a step from it."""
    step = Dynamics(chunk.matrix, chunk.end.mean, chunk.end.cov)
    return step, factor(chunk.info, symmetrize(chunk.precision))


def _hop(chunk: _Chunk, start: Gaussian) -> Gaussian:
    """From what is predicted of the start of a chunk to the same of its end."""
    step, step_and_potential = _as_one(chunk)
    posterior, _ = step_and_potential.condition(*start)
    return predict(posterior, step)


def _merge(first: _Chunk, second: _Chunk) -> _Chunk:
    return _see(first, *_as_one(second))


def chunk_starts(
    start: Gaussian, steps: Dynamics, potential: Potential, length: int, chunks: int
) -> Gaussian:
    """Predicted moments at the starts of chunks, as lanes.

    :param start: predicted moments of the first chunk.
    :param steps: of all chunks, as lanes.
    :param potential: of all chunks, as lanes.
    :param length: of a chunk.
    """

    def see(chunk, step, local):
        return _see(chunk, step, local), None

    zeros = jnp.zeros_like(potential.h[..., 0, :])
    square_zeros = outer(zeros, zeros)
    nothing = _Chunk(
        square_zeros + linalg.eye(square_zeros),
        Gaussian(zeros, square_zeros),
        zeros,
        square_zeros,
    )
    seen, _ = over_time(see, nothing, length, steps, potential)
    return starts(_hop, _merge, start, seen, chunks)[1]
