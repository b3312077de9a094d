# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Components in the event of a site, by ``to_event``, are those of a plate."""

from contextlib import nullcontext

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.reading import assert_read_alike

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 2)) + np.repeat([[-2.0], [2.0]], 6, 0)
STATES = RNG.integers(3, size=30)
WIDE, HALF = dist.Normal(0.0, 5.0), dist.HalfNormal(1.0)
IN_PLANE = dist.MultivariateNormal(jnp.zeros(2), 25 * jnp.eye(2))


def of(prior, in_event, *features):
    """K = 2 components of a prior, in an event or in a plate."""
    prior = prior.expand((2, *features) if in_event else features)
    prior = prior.to_event(len(features) + in_event)
    return nullcontext() if in_event else numpyro.plate("components", 2), prior


def sample(name, *given):
    plate, prior = of(*given)
    with plate:
        return numpyro.sample(name, prior)


def numbers(mean, noise):
    mu, sigma = sample("mu", WIDE, mean), sample("sigma", HALF, noise)
    return lambda z: dist.Normal(mu[z], sigma[z]), X[:, 0]


def precisions(mean, noise):
    mu, tau = sample("mu", WIDE, mean), sample("tau", dist.Gamma(2.0, 1.0), noise)
    return lambda z: dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])), X[:, 0]


def vectors(mean, noise):
    mu, sigma = sample("mu", WIDE, mean, 2), sample("sigma", HALF, noise, 2)
    return lambda z: dist.Normal(mu[z], sigma[z]).to_event(1), X


def matrices(mean, noise):
    mu = sample("mu", IN_PLANE, mean)
    Sigma = sample("Sigma", dist.InverseWishart(4.0, scale_matrix=jnp.eye(2)), noise)
    return lambda z: dist.MultivariateNormal(mu[z], Sigma[z]), X


def correlations(mean, noise):
    mu, root = sample("mu", IN_PLANE, mean), sample("L", dist.LKJCholesky(2), noise)
    sigma = sample("sigma", HALF, noise, 2)
    tril = sigma[..., None] * root
    return lambda z: dist.MultivariateNormal(mu[z], scale_tril=tril[z]), X


def probabilities(mean, noise):
    rows = sample("rows", dist.Dirichlet(jnp.ones(3)), noise)
    return lambda z: dist.Categorical(rows[z]), np.arange(12) % 3


def mixture(parts, mean, noise):
    def model():
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        response, y = parts(mean, noise)
        with numpyro.plate("data", 12):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", response(z), obs=y)

    return model


KINDS = [numbers, precisions, vectors, matrices, correlations, probabilities]


@pytest.mark.parametrize("parts", KINDS, ids=lambda parts: parts.__name__)
@pytest.mark.parametrize("in_event", [(True, True), (False, True), (True, False)])
def test_components_in_an_event_are_read_as_in_a_plate(parts, in_event):
    assert_read_alike(mixture(parts, *in_event), mixture(parts, False, False))


@pytest.mark.parametrize("parts", [vectors, correlations], ids=["scales", "matrices"])
def test_components_in_an_event_are_learnt_as_in_a_plate(parts):
    losses, shapes = [], []
    for in_event in (False, True):
        model = mixture(parts, in_event, in_event)
        guide = ns.AutoSVAE(model, num_starts=1)
        _, found = steps(make_svi(model, guide, natural=0.5), 3)
        losses.append(found)
        with seed(rng_seed=0):
            shapes.append({name: x.shape for name, x in guide().items()})
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert {name: shapes[1][name] for name in shapes[0]} == shapes[0]


def test_entries_of_one_noise_are_no_components():
    def model(in_plate):
        def run():
            mu = numpyro.sample("mu", WIDE.expand([2]).to_event(1))
            plate = numpyro.plate("entries", 2) if in_plate else nullcontext()
            prior = HALF.expand([2])
            with plate:
                fn = HALF if in_plate else prior.to_event(1)
                sigma = numpyro.sample("sigma", fn)
            with numpyro.plate("data", 12):
                numpyro.sample("y", dist.Normal(mu, sigma).to_event(1), obs=X)

        return run

    assert_read_alike(model(False), model(True))


def counted(rows):
    table = np.ones((3, 3))
    np.add.at(table, (STATES[:-1], STATES[1:]), 1.0)
    np.testing.assert_allclose(rows, table / table.sum(1, keepdims=True), rtol=1e-4)


def test_rows_in_an_event_are_counted():
    def model():
        prior = dist.Dirichlet(jnp.ones((3, 3))).to_event(1)
        rows = numpyro.sample("rows", prior)
        with numpyro.plate("steps", 29):
            fn = dist.Categorical(rows[STATES[:-1]])
            numpyro.sample("z", fn, obs=STATES[1:])

    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 1)
    posterior = guide.get_posterior(params)["rows"]
    assert (posterior.batch_shape, posterior.event_shape) == ((), (3, 3))
    counted(posterior.mean)


def test_rows_in_an_event_move_the_states_of_a_scan():
    def model(in_event):
        def run():
            rows = sample("rows", dist.Dirichlet(jnp.ones(2)), in_event)
            p = sample("p", dist.Beta(1.0, 2.0), False, 2)
            z = numpyro.sample("first", dist.Categorical(jnp.ones(2) / 2))

            def step(z, y):
                z = numpyro.sample("z", dist.Categorical(rows[z]))
                numpyro.sample("y", dist.Bernoulli(p[z]).to_event(1), obs=y)
                return z, None

            scan(step, z, jnp.asarray(X > 0, int))

        return run

    assert_read_alike(model(True), model(False))
