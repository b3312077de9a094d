# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Numbers of groups in the plates of their data are those that an index picks."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

G, D = 4, 6
RNG = np.random.default_rng(0)
Y = np.arange(G)[:, None] + 0.5 * RNG.standard_normal((G, D))
COUNTS = RNG.poisson(np.exp(0.5 * Y))
GROUP = np.repeat(np.arange(G), D)


def level():
    return numpyro.sample("mu", dist.Normal(0.0, 5.0)), 1.0


def sigma():
    return numpyro.sample("sigma", dist.HalfNormal(2.0))


def one_noise(m, s):
    return dist.Normal(m, s), Y


def counts(m, s):
    del s
    return dist.Poisson(jnp.exp(m)), COUNTS


def nested(likelihood, noise):
    def model():
        top, s = level(), None
        with numpyro.plate("groups", G, dim=-2):
            m = numpyro.sample("m", dist.Normal(*top))
            s = sigma() if noise == "own" else s
            with numpyro.plate("data", D, dim=-1):
                fn, y = likelihood(m, s)
                numpyro.sample("y", fn, obs=y)

    return model


def picked(likelihood, noise):
    def model():
        top, s = level(), None
        with numpyro.plate("groups", G):
            m = numpyro.sample("m", dist.Normal(*top))
            s = sigma()[GROUP] if noise == "own" else s
        with numpyro.plate("data", G * D):
            fn, y = likelihood(m[GROUP], s)
            numpyro.sample("y", fn, obs=y.ravel())

    return model


def in_one_plate(counts):
    top = level()
    with numpyro.plate("groups", G):
        m = numpyro.sample("m", dist.Normal(*top))
        numpyro.sample("y", dist.Binomial(20, logits=m), obs=counts)


def in_two_plates(counts):
    top = level()
    with numpyro.plate("groups", G):
        m = numpyro.sample("m", dist.Normal(*top))
    with numpyro.plate("data", G):
        numpyro.sample("y", dist.Binomial(20, logits=m[np.arange(G)]), obs=counts)


def learnt(model, *args):
    guide = ns.AutoSVAE(model, num_starts=1)
    params, losses = steps(make_svi(model, guide, natural=0.5), 5, *args)
    posterior = guide.get_posterior(params)
    moments = {
        n: (np.ravel(q.mean), np.ravel(q.variance)) for n, q in posterior.items()
    }
    with seed(rng_seed=0):
        shapes = {name: np.shape(x) for name, x in guide(*args).items()}
    return losses, moments, shapes


def assert_alike(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    for name, moments in expected[1].items():
        np.testing.assert_allclose(found[1][name], moments, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("noise", ["own", "none"])
def test_a_plate_of_groups_around_their_data(noise):
    likelihood = counts if noise == "none" else one_noise
    found = learnt(nested(likelihood, noise))
    assert_alike(found, learnt(picked(likelihood, noise)))
    assert found[2]["m"] == (G, 1)


def test_a_number_of_each_datum_that_is_a_count():
    seen = np.array([3, 12, 7, 18])
    found, expected = learnt(in_one_plate, seen), learnt(in_two_plates, seen)
    assert_alike(found, expected)
    assert found[2] == expected[2]
