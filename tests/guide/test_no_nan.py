# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""No NaN in float32 from default settings, also where the data or a network is bad."""

from functools import cache, partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns
from tests.conjugate import (
    diagonal_mixture,
    factor_analysis,
    mixture_of,
    multinomial_mixture,
    poisson_hmm,
)
from tests.coupled import learnt_choice, learnt_sum
from tests.data import clusters, sequences
from tests.graphs_of_sites import hierarchy_svae, members_recognised
from tests.independent import mixture, principal_components, relevant_dynamics
from tests.models import encoder, lds_svae, mixture_svae
from tests.switching import autoregressive_hmm, hmm, hmm_svae, slds_svae

SEEDS = 5

# That ascent has ended is said, and no NaN.
pytestmark = pytest.mark.filterwarnings("ignore:AutoSVAE. coordinate ascent has ended")


def extreme(potential, wild):
    """Precisions from 1e-6 to 1e6, one for each position, that a network could say."""
    shape = potential.info_vector.shape
    count = int(np.prod(shape))
    scale = np.random.default_rng(0).permutation(np.logspace(-6, 6, count))
    scale = scale.reshape(shape).astype(np.float32)
    factor = scale / jax.lax.stop_gradient(potential.precision)
    factor = jnp.where(wild, factor, 1.0)
    return ns.GaussianPotential(
        factor * potential.info_vector, factor * potential.precision
    )


def recognition(y, actions=None, mask=None, *, wild=False):
    potential = encoder(jnp.nan_to_num(y))  # NaN times a zero gradient is NaN
    potential = extreme(potential, wild)
    return {"x": potential if mask is None else potential.mask(mask)}


def finite(tree):
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


@cache
def training(model, says, num_steps, mean_field=False):
    """Default settings, several seeds at once; every loss, and whether all was finite.

    Data, and whether a network is wild, are arguments: cases share a program.
    """

    @jax.jit
    def runs(keys, wild, *args):
        said = says and partial(says, wild=wild)
        guide = ns.AutoSVAE(model, said, mean_field=mean_field)
        svi = SVI(model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())

        def run(key):
            def update(state, _):
                state, loss = svi.update(state, *args)
                return state, (loss, finite(svi.get_params(state)))

            start = svi.init(key, *args)
            return jax.lax.scan(update, start, length=num_steps)[1]

        return jax.vmap(run)(keys)

    return runs


def assert_no_nan(model, says, num_steps, *args, wild=False, mean_field=False):
    """Looks at every loss and parameter."""
    keys = random.split(random.PRNGKey(1), SEEDS)
    losses, good = training(model, says, num_steps, mean_field)(keys, wild, *args)
    assert losses.shape == (SEEDS, num_steps)
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


mixture_of_four = partial(mixture_svae, count=4)
MIXTURES = {
    "plain": points(),
    "mean-field": points(),
    "wild": points(),
    "wild-mean-field": points(),
    "one datum": points(1),
    "duplicates": jnp.tile(points(2), (10, 1)),
    "more components than data": points(2),
    "far away": 1e4 * points(),
}
DYNAMICS = {
    "plain": (lds_svae, sequences()),
    "wild": (lds_svae, sequences()),
    "T = 1": (lds_svae, sequences(steps=1)),
    "one sequence": (lds_svae, one_sequence(6)),
    "duplicates": (lds_svae, [jnp.tile(a[:1], (4, 1, 1)) for a in sequences()]),
    "masked": (masked_lds, masked_sequences()),
}
Y, ACTIONS = sequences()
STATES = {
    "hmm": (hmm, None, (Y[..., :2],)),
    "autoregressive": (autoregressive_hmm, None, (Y[..., :2], ACTIONS)),
    "hmm-svae": (hmm_svae, recognition, (Y,)),
    "slds-svae": (slds_svae, recognition, (Y, ACTIONS)),
    "slds-svae, wild": (slds_svae, recognition, (Y, ACTIONS)),
}
COUNTS = jnp.array([[3, 4, 2], [0, 1, 8], [9, 0, 0], [0, 0, 9], [4, 5, 0]])
CONJUGATE = {
    "bernoulli": (partial(mixture_of, "bernoulli"), jnp.minimum(COUNTS, 1)),
    "poisson": (partial(mixture_of, "poisson"), COUNTS),
    "exponential": (partial(mixture_of, "exponential"), 0.5 + COUNTS),
    "multinomial": (multinomial_mixture, COUNTS),
    "counts over time": (poisson_hmm, COUNTS),
    "diagonal": (partial(diagonal_mixture, count=4), points()),
    "factor analysis": (factor_analysis, points()),
}


def mixture_case(name, num_steps):
    how = {"wild": name.startswith("wild"), "mean_field": name.endswith("mean-field")}
    assert_no_nan(mixture_of_four, recognition, num_steps, MIXTURES[name], **how)


def dynamics_case(name, num_steps):
    model, args = DYNAMICS[name]
    assert_no_nan(model, recognition, num_steps, *args, wild=name == "wild")


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
    assert_no_nan(lds_svae, recognition, 100, *one_sequence(2000))


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_states_for_long(name):
    """Hidden Markov and switching models; the latter have many sweeps in a step."""
    model, says, args = STATES[name]
    count = 1000 if model is slds_svae else 2000
    assert_no_nan(model, says, count, *args, wild=name.endswith("wild"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONJUGATE)
def test_conjugate_models_for_long(name):
    model, y = CONJUGATE[name]
    assert_no_nan(model, None, 2000, y)


@pytest.mark.slow
@pytest.mark.parametrize("model", [learnt_sum, learnt_choice])
def test_products_for_long(model):
    """Chains and vectors that meet; fewer steps, for each has many sweeps."""
    assert_no_nan(model, None, 300, Y[..., :2])


@pytest.mark.slow
def test_graphs_for_long():
    y = points(12).reshape(4, 3, 3)
    assert_no_nan(hierarchy_svae, members_recognised, 2000, y)


@pytest.mark.slow
@pytest.mark.parametrize("model", [mixture, principal_components, relevant_dynamics])
def test_independent_priors_for_long(model):
    y = Y[0, :, :2] if model is relevant_dynamics else points()
    assert_no_nan(model, None, 2000, y)
