# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is read of a Gaussian factor ``N(v; (K + F S) [x; 1], s Sigma)``."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import block
import pytest

import numpyro_svae as ns
from numpyro_svae.program.bind.binding import bind
from numpyro_svae.program.read.setup import read_program
from numpyro_svae.program.run.sites import Program, sample_sites
from numpyro_svae.program.structure.factors import Beside
from numpyro_svae.program.structure.probing import plain_run

N, D = 3, 2
Y, OFFSET = np.random.default_rng(0).standard_normal((2, N, D))
MAP = np.array([[1.0, 0.5], [0.0, 2.0]])
SIZE = np.array([1.0, 2.0, 4.0])
MEANS = np.array([[0.0, 0.0], [1.0, -1.0]])


def pair(columns):
    loc, eye = jnp.zeros((D, columns)), jnp.eye(D)
    prior = ns.MatrixNormalInverseWishart(loc, jnp.eye(columns), 4.0, eye)
    return ns.sample("pair", prior)


def observe(loc, cov):
    numpyro.sample("y", dist.MultivariateNormal(loc, cov), obs=Y)


def plain():
    weight, cov = pair(1)
    with numpyro.plate("data", N):
        observe(jnp.broadcast_to(weight[:, 0], (N, D)), cov)


def offset():
    weight, cov = pair(1)
    with numpyro.plate("data", N):
        observe(OFFSET + 3.0 * weight[:, 0], cov)


def scaled():
    weight, cov = pair(1)
    with numpyro.plate("data", N):
        observe(weight[:, 0], cov * SIZE[:, None, None])


def mapped():
    """Two columns, of which one is for a number and one is a constant's."""
    weight, cov = pair(2)
    with numpyro.plate("data", N):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D)))
        u = jnp.stack([x[..., 0] - x[..., 1], jnp.ones(N)], -1)
        observe(x @ MAP.T + u @ weight.T, cov)


def picked():
    weight, cov = pair(1)
    with numpyro.plate("data", N):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
        observe(weight[:, 0] + jnp.asarray(MEANS)[z], cov)


def read(model):
    """The factor of the data, and what is bound of it."""
    with block():
        structure, *_ = read_program(model, None, (), {})
        program = Program(model, (), {}, random.PRNGKey(0))
        messages = plain_run(program, structure)
        bound = bind(program, structure, sample_sites(messages))
    factor = next(f for f in structure.factors if f.site == "y")
    return factor, bound.regressions["y", "value"]


@pytest.mark.parametrize(
    ("model", "beside"),
    [
        (plain, Beside()),
        (offset, Beside("offset")),
        (scaled, Beside(scaled=True)),
        (mapped, Beside("map")),
        (picked, Beside("offset", by_state=True)),
    ],
)
def test_what_is_known_beside_what_is_learnt(model, beside):
    factor, _ = read(model)
    assert factor.beside == beside
    assert not factor.coupled


def test_an_offset_is_taken_off_the_data():
    _, bound = read(offset)
    np.testing.assert_allclose(bound.value, Y - OFFSET, rtol=1e-6)
    np.testing.assert_allclose(bound.regressor, 3.0 * np.ones((N, 1)), rtol=1e-6)
    assert bound.known is None and bound.placement is None


def test_sizes_of_covariances_are_read():
    _, bound = read(scaled)
    np.testing.assert_allclose(bound.scale, SIZE, rtol=1e-6)
    assert bound.noise is None


def test_known_and_learnt_maps_are_told_apart():
    """The regressor is [x; 1]: K is (MAP, 0), S is ((1, -1, 0), (0, 0, 1))."""
    factor, bound = read(mapped)
    assert factor.parents == ("x",) and factor.parent == "x"
    known = np.broadcast_to(np.pad(MAP, ((0, 0), (0, 1))), (N, D, D + 1))
    np.testing.assert_allclose(np.broadcast_to(bound.known, known.shape), known, 1e-5)
    placement = np.broadcast_to([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]], (N, 2, 3))
    np.testing.assert_allclose(
        np.broadcast_to(bound.placement, placement.shape), placement, atol=1e-5
    )


def test_known_means_have_an_axis_of_states():
    factor, bound = read(picked)
    assert factor.selectors == ("z",)
    shape = (N, 2, D)
    np.testing.assert_allclose(bound.known[..., 0], np.broadcast_to(MEANS, shape), 1e-6)
