# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""No NaN in float32 from default settings, also where the data or a network is bad."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns
from tests.data import clusters, sequences
from tests.models import encoder, lds_svae, mixture_svae

SEEDS = 5


def extreme(potential):
    """Precisions from 1e-6 to 1e6, one for each position, that a network could say."""
    shape = potential.info_vector.shape
    count = int(np.prod(shape))
    scale = jnp.logspace(-6, 6, count)[random.permutation(random.PRNGKey(0), count)]
    factor = scale.reshape(shape) / jax.lax.stop_gradient(potential.precision)
    return ns.GaussianPotential(
        factor * potential.info_vector, factor * potential.precision
    )


def recognition(y, actions=None, mask=None, *, wild=False):
    potential = encoder(jnp.nan_to_num(y))  # NaN times a zero gradient is NaN
    if wild:
        potential = extreme(potential)
    return {"x": potential if mask is None else potential.mask(mask)}


def finite(tree):
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def assert_no_nan(model, num_steps, *args, wild=False, mean_field=False, seeds=SEEDS):
    """Default settings, several seeds at once; looks at every loss and parameter."""
    guide = ns.AutoSVAE(model, partial(recognition, wild=wild), mean_field=mean_field)
    svi = SVI(model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    svi.init(random.PRNGKey(0), *args)

    @jax.jit
    @jax.vmap
    def run(key):
        def update(state, _):
            state, loss = svi.update(state, *args)
            return state, (loss, finite(svi.get_params(state)))

        start = svi.init(key, *args)
        return jax.lax.scan(update, start, length=num_steps)[1]

    losses, good = run(random.split(random.PRNGKey(1), seeds))
    assert losses.shape == (seeds, num_steps)
    assert losses.dtype == jnp.float32
    assert np.all(np.isfinite(losses))
    assert np.all(good)


def points(count=20):
    y, _ = clusters(count, dim=3)
    return y


def one_sequence(steps):
    y, actions = sequences(count=1, steps=steps)
    return y, actions


def masked_sequences():
    y, actions = sequences()
    mask = jnp.ones(y.shape[:2], bool).at[0].set(False).at[1, ::2].set(False)
    return jnp.where(mask[..., None], y, jnp.nan), actions, mask


def masked_lds(y, actions, mask):
    lds_svae(y, actions, mask=mask)


MIXTURES = {
    "plain": (points(), {}),
    "mean-field": (points(), {"mean_field": True}),
    "wild": (points(), {"wild": True}),
    "wild-mean-field": (points(), {"wild": True, "mean_field": True}),
    "one datum": (points(1), {}),
    "duplicates": (jnp.tile(points(2), (10, 1)), {}),
    "more components than data": (points(2), {}),
    "far away": (1e4 * points(), {}),
}
DYNAMICS = {
    "plain": (lds_svae, sequences()),
    "wild": (lds_svae, sequences()),
    "T = 1": (lds_svae, sequences(steps=1)),
    "one sequence": (lds_svae, one_sequence(6)),
    "duplicates": (lds_svae, [jnp.tile(a[:1], (6, 1, 1)) for a in sequences()]),
    "masked": (masked_lds, masked_sequences()),
}


def mixture_case(name, num_steps):
    y, options = MIXTURES[name]
    assert_no_nan(partial(mixture_svae, count=4), num_steps, y, **options)


def dynamics_case(name, num_steps):
    model, args = DYNAMICS[name]
    assert_no_nan(model, num_steps, *args, wild=name == "wild")


@pytest.mark.parametrize("name", ["wild", "more components than data"])
def test_mixture(name):
    mixture_case(name, 200)


@pytest.mark.parametrize("name", ["wild", "masked"])
def test_dynamics(name):
    dynamics_case(name, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_for_long(name):
    mixture_case(name, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMICS)
def test_dynamics_for_long(name):
    dynamics_case(name, 2000)


@pytest.mark.slow
def test_long_sequence():
    """2,000 states; fewer steps than above, for each takes its time."""
    assert_no_nan(lds_svae, 300, *one_sequence(2000))
