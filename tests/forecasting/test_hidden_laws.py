# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the future depends on is asked for, though a draw of states does not show it."""

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

KEY = random.PRNGKey(0)
RNG = np.random.default_rng(0)
Y, U = jnp.asarray(RNG.normal(size=(1, 6))), jnp.asarray(RNG.normal(size=(1, 5)))
KNOWN = jnp.array([-2.0, 2.0])


def table(u):
    """Steps that inputs drive a little."""
    return jax.nn.softmax(2.0 * jnp.eye(2) + 1e-3 * u[..., None, None] * KNOWN, -1)


def driven(y, u):
    with numpyro.plate("sequences", len(y)):
        start = jnp.ones(2) / 2
        z = numpyro.sample("z", ns.DiscreteMarkovChain(start, table(u), y.shape[1]))
        numpyro.sample("y", dist.Normal(KNOWN[z], 1.0).to_event(1), obs=y)


def driven_scan(y, u):
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z_first", dist.Categorical(jnp.ones(2) / 2))

    def step(z, given):
        y, u = given
        with numpyro.plate("sequences", len(y)):
            rows = jnp.take_along_axis(table(u), z[:, None, None], 1)[:, 0]
            z = numpyro.sample("z", dist.Categorical(rows))
            numpyro.sample("y", dist.Normal(KNOWN[z], 1.0), obs=y)
        return z, None

    scan(step, z, (y.T[1:], u.T))


def counted(y, u):
    """The input moves what is seen, rarely a count."""
    with numpyro.plate("sequences", len(y)):
        start, rows = jnp.ones(2) / 2, 0.4 + 0.2 * jnp.eye(2)
        z = numpyro.sample("z", ns.DiscreteMarkovChain(start, rows, y.shape[1]))
        rate = jnp.exp(0.1 * KNOWN[z] + 1e-3 * u)
        numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=jnp.abs(jnp.round(y)))


@pytest.mark.parametrize(
    ("model", "y"), [(driven, Y), (driven_scan, Y), (counted, Y[:, 1:])]
)
@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # by the replay of a scan
def test_inputs_that_draws_do_not_show_are_asked_for(model, y):
    guide = ns.AutoSVAE(model, num_starts=1)
    svi = make_svi(model, guide)
    params = svi.get_params(svi.init(KEY, y, U))
    args = model, guide, params, KEY, y, U
    refused = pytest.raises(ValueError, match="'u': the model depends on its future")
    with refused:
        ns.forecast(*args, horizon=2, num_samples=2)
    inputs = {"u": jnp.ones((1, 2))}
    found = ns.forecast(*args, horizon=2, num_samples=2, future_inputs=inputs)
    assert found["y"].shape[0] == 2
    with refused:
        later = jnp.ones_like(found["y"][0])
        ns.log_score(*args, future={"y": later}, num_samples=2)
    state = ns.filter(model, guide, params, y, U)
    assert "u" in state.setup.needed and "y" in state.setup.data
    with pytest.raises(ValueError, match="u"):
        state.update(y=y[:, 0])
