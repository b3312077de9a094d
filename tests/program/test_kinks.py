# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is linear on either side of zero, or of one, is not taken for linear."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

Y = np.random.default_rng(0).standard_normal((4, 1)).astype(np.float32)


def read(model):
    guide = ns.AutoSVAE(model, num_starts=1)
    make_svi(model, guide).init(random.PRNGKey(0))
    return str(guide.structure)


def seen(loc, scale=1.0):
    with numpyro.plate("data", len(Y)):
        numpyro.sample("y", dist.Normal(loc, scale), obs=Y[:, 0])


def curve():
    seen(jnp.abs(numpyro.sample("w", dist.Normal(0.0, 2.0))))


def vector():
    x = numpyro.sample("w", dist.Normal(jnp.zeros(1), 2.0).to_event(1))
    numpyro.sample("y", dist.Normal(jax.nn.relu(x), 1.0).to_event(1), obs=Y[0])


@pytest.mark.parametrize("model", [curve, vector])
def test_one_number_that_is_rectified_sends_its_gradient(model):
    assert "'y'  sends its gradient to 'w'" in read(model)


def population():
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("groups", len(Y)):
        a = numpyro.sample("a", dist.Normal(jnp.abs(m), 1.0))
        numpyro.sample("y", dist.Normal(a, 1.0), obs=Y[:, 0])


def noise():
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    seen(0.0, jnp.maximum(tau, 1.0) ** -0.5)


@pytest.mark.parametrize(
    ("model", "text"), [(population, "'a' .*'m' in a way"), (noise, "'y' .*'tau' in a")]
)
def test_what_is_not_conjugate_is_refused(model, text):
    with pytest.raises(ValueError, match=text):
        read(model)


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of scan in NumPyro
@pytest.mark.parametrize("rectified", [True, False])
def test_a_piecewise_linear_system_is_not_linear(rectified):
    """Of several dimensions, and with a drift (Durstewitz 2017)."""
    bend = jax.nn.relu if rectified else lambda x: x

    def model():
        def step(x, y):
            loc = 0.5 * x + bend(x) @ jnp.array([[0.0, 0.4], [-0.4, 0.0]]) + 0.3
            x = numpyro.sample("x", dist.MultivariateNormal(loc, 0.1 * jnp.eye(2)))
            numpyro.sample(
                "y", dist.Normal(x.sum(-1, keepdims=True), 0.5).to_event(1), obs=y
            )
            return x, None

        first = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))
        scan(step, numpyro.sample("first", first), jnp.asarray(Y))

    assert ("nonlinear chain" in read(model)) == rectified


def bent(loc):
    """With a part that is not linear, of which there is none at first."""
    return loc + numpyro.param("share", jnp.zeros(())) * jnp.tanh(loc)


def number():
    seen(bent(numpyro.sample("w", dist.Normal(0.0, 2.0))))


def latent():
    with numpyro.plate("data", len(Y)):
        x = numpyro.sample("w", dist.Normal(jnp.zeros(1), 2.0).to_event(1))
        numpyro.sample("y", dist.Normal(bent(x), 1.0).to_event(1), obs=Y)


@pytest.mark.parametrize("model", [number, latent])
def test_what_a_parameter_switches_off_at_first_is_there(model):
    """As of a network whose last layer begins at zero."""
    assert "'y'  sends its gradient to 'w'" in read(model)
