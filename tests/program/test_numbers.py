# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Whether ``Normal(...).to_event(1)`` is read as a vector, or as numbers at steps."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import block
import pytest

import numpyro_svae as ns
from numpyro_svae.program.read.latents import easy_value, random_globals, read_priors
from numpyro_svae.program.run.sites import Program, sample_sites
from numpyro_svae.program.structure.numbers import find_numbers
from numpyro_svae.program.structure.probing import Prober

N, D = 3, 4  # D is the number of entries, of steps, and of regressors
Y = np.random.default_rng(0).standard_normal((N, D))
MAP = np.random.default_rng(1).standard_normal((D, D))


def observe(loc, scale=1.0):
    numpyro.sample("y", dist.Normal(loc + jnp.zeros(D), scale).to_event(1), obs=Y)


def path():
    eye = jnp.eye(2)
    return numpyro.sample(
        "x", ns.LinearGaussianChain(jnp.zeros(2), eye, eye, eye, num_steps=D)
    )


def states():
    rows = jnp.full((3, 3), 1 / 3)
    return numpyro.sample("z", ns.DiscreteMarkovChain(rows[0], rows, D))


def weights(*event):
    fn = dist.Normal(0.0, 1.0).expand(event).to_event(len(event))
    return numpyro.sample("w", fn)


def by_step():
    with numpyro.plate("data", N):
        observe(path() @ jnp.array([1.0, 2.0]))


def scales_by_state():
    with numpyro.plate("data", N):
        observe(0.0, jnp.array([1.0, 2.0, 3.0])[states()])


def number():
    """Of one number for all entries, beside a noise of one."""
    w = weights()
    with numpyro.plate("data", N):
        observe(w)


def coefficients():
    w = weights(D)
    with numpyro.plate("data", N):
        observe(MAP @ w)


def last_step():
    """A vector of as many entries as there are steps, seen of the last of them."""
    with numpyro.plate("data", N):
        observe(path()[:, -1] @ MAP[:2])


def average():
    with numpyro.plate("data", N):
        observe(path() @ jnp.array([1.0, 2.0]) @ MAP)


def mean():
    w = weights(D)
    with numpyro.plate("data", N):
        observe(w)


def loading():
    w = weights(D, 2)
    with numpyro.plate("data", N):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        observe(x @ w.T)


def noise_by_entry():
    w = weights(2)
    precision = numpyro.sample("noise", dist.Gamma(2.0, 1.0).expand([D]).to_event(1))
    with numpyro.plate("data", N):
        observe(MAP[:, :2] @ w, precision**-0.5)


def run(model):
    """A program, and the sites of one run of it."""
    with block():
        program = Program(model, (), {}, random.PRNGKey(0))
        return program, sample_sites(program.trace({}, easy_value))


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        (by_step, True),
        (scales_by_state, True),
        (number, True),
        (coefficients, True),
        (last_step, False),
        (average, False),
        (mean, False),
        (loading, False),
        (noise_by_entry, False),
    ],
)
def test_vectors_and_numbers_are_told_apart(model, numbers):
    found = find_numbers(Prober(*run(model), {}, {}))
    assert found == ({"y"} if numbers else frozenset())


def loadings_of_a_path():
    w = weights(2)
    with numpyro.plate("data", N):
        seen = dist.Normal((path() @ w)[..., None], 1.0).to_event(2)
        numpyro.sample("y", seen, obs=Y[..., None])


def test_weights_of_a_path_are_global_beside_a_known_noise():
    """The product of both is in no Gaussian graph."""
    assert [*read_priors(*run(loadings_of_a_path))] == ["w"]


def loadings_in_a_scan():
    w = weights(D, 2)
    x = numpyro.sample("first", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))

    def step(x, y):
        x = numpyro.sample("x", dist.MultivariateNormal(x, jnp.eye(2)))
        numpyro.sample("y", dist.Normal(w @ x, 1.0).to_event(1), obs=y)
        return x, None

    scan(step, x, jnp.asarray(Y))


def test_weights_outside_of_a_scan_have_random_values_to_read_it_at():
    """A loading is not told from a mean of states before the scan is read."""
    found = random_globals(*run(loadings_in_a_scan), frozenset({"x", "y"}))
    assert found["w"].shape == (D, 2) and np.all(found["w"] != 0)
    assert "x" not in found
