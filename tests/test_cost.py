# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a step costs, in measures that do not depend on the clock.

The size of the program that XLA compiles, how often it is made, and its memory.
"""

from collections.abc import Iterator
import re

import jax
from jax import random
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import pytest

import numpyro_svae as ns
from numpyro_svae.blocks import discrete_chain, gaussian_chain
from numpyro_svae.blocks.chunks import chunk_count
from numpyro_svae.blocks.gaussian_chain import Dynamics, Gaussian
from tests.data import make_svi
from tests.models import lds_recognition, lds_svae, mixture


def equations(jaxpr) -> Iterator:
    """All equations of a program, with those of its loops and functions."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def count(function, *args) -> int:
    return sum(1 for _ in equations(jax.make_jaxpr(function)(*args).jaxpr))


def temporaries(function, *args) -> int:
    compiled = jax.jit(function).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def gaussian_loss(h, J, eps, decay=0.9):
    """Of the log normaliser and a sample of the posterior of a chain."""
    eye, zeros = jnp.eye(len(h)), jnp.zeros((len(h), 1))
    steps = Dynamics(
        decay * eye[..., None, None], zeros[..., None], eye[..., None, None]
    )
    q = gaussian_chain.smooth(Gaussian(zeros, eye[..., None]), steps, h, J)
    path = gaussian_chain.drive(q.initial, q.dynamics, eps)
    return jnp.sum(q.log_normalizer) + jnp.sum(jnp.sin(path))


def gaussian_problem(steps, lanes=2, dim=3):
    h = jnp.ones((dim, steps, lanes))
    return h, h, h[:, None]


def discrete_loss(potential):
    states = potential.shape[-1]
    uniform = jnp.zeros((1, states, states))
    return jnp.sum(discrete_chain.smooth(uniform[0, 0], uniform, potential).probs ** 2)


@pytest.mark.parametrize("lengths", [(64, 256), (1024, 16384)], ids=["steps", "chunks"])
def test_the_program_does_not_grow_with_the_length_of_a_gaussian_chain(lengths):
    """Only the sum in pairs does, by a few equations when the length doubles."""
    assert chunk_count(lengths[0], 2, 3) == chunk_count(lengths[1], 2, 3)
    step = jax.grad(gaussian_loss)
    short, long = (count(step, *gaussian_problem(n)) for n in lengths)
    assert long - short < 20


def test_the_program_does_not_grow_with_the_states_of_a_discrete_chain():
    step = jax.grad(discrete_loss)
    assert count(step, jnp.ones((8, 3))) == count(step, jnp.ones((8, 12)))


@pytest.mark.parametrize("lanes, length", [(1, 100), (1, 2000), (20, 200)])
def test_memory_is_linear_in_the_length_of_a_gaussian_chain(lanes, length):
    step, lengths = jax.grad(gaussian_loss), (length, 2 * length)
    short, long = (temporaries(step, *gaussian_problem(n, lanes)) for n in lengths)
    assert short < long < 2.2 * short


def test_memory_of_a_gradient_is_that_of_a_few_covariances():
    """Of 22 for each step, for potentials and dynamics, and a margin."""
    h, J, eps = gaussian_problem(400, 20)
    needed = temporaries(jax.grad(gaussian_loss, (0, 1, 3)), h, J, eps, 0.9)
    assert needed < 24 * len(h) * J.nbytes


def test_memory_is_linear_in_the_length_of_a_discrete_chain():
    step = jax.grad(discrete_loss)
    short, long = (temporaries(step, jnp.ones((n, 4))) for n in (200, 400))
    assert short < long < 2.2 * short


def test_a_step_is_traced_once_for_all_minibatches():
    """The steps of a run see other data, other parameters and other subsamples."""
    calls = []

    def model(*args, **kwargs):
        calls.append(args)
        return lds_svae(*args, **kwargs)

    svi = make_svi(model, ns.AutoSVAE(model, lds_recognition), natural=0.5)
    data = random.normal(random.key(0), (3, 4, 5, 3))
    state = svi.init(random.key(1), data[0], subsample=2)
    step = jax.jit(lambda state, y: svi.update(state, y, subsample=2))
    state, _ = step(state, data[0])
    traced = len(calls)
    for y in data[1:]:
        state, _ = step(state, y)
    assert len(calls) == traced


def test_a_mixture_takes_no_logarithm_for_each_point_and_state():
    """There was one, of ones, which took as long as half of the rest of a step."""
    y = random.normal(random.key(0), (37, 2))
    svi = make_svi(mixture, ns.AutoSVAE(mixture, num_starts=1))
    step = jax.jit(svi.update).lower(svi.init(random.key(1), y), y).compile()
    each = r"f32\[(37,3|3,37)\]\S* "
    assert re.search(each + r"exponential\(", step.as_text())
    assert not re.search(each + r"log", step.as_text())
