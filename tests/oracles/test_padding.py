# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Padding changes nothing, and what is missing is inferred."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import numpyro_svae as ns
from tests.data import make_svi, sequences, steps
from tests.switching import INITIAL, ROWS, TURNS, hmm, known_hmm, known_slds

LENGTHS = jnp.array([6, 3])


def loss_of(guide, model, params, *args, **kwargs):
    return float(
        ns.SVAE_ELBO().loss(random.PRNGKey(0), params, model, guide, *args, **kwargs)
    )


def padded():
    """Two sequences, the second one shorter, with nonsense where there is no data."""
    y, _ = sequences(count=2, steps=6, outputs=2)
    exists = jnp.arange(6) < LENGTHS[:, None]
    return jnp.where(exists[..., None], y, 1e3), exists


@pytest.mark.parametrize("mean_field", [False, True])
@pytest.mark.parametrize("model", [known_hmm, known_slds])
def test_padding_changes_nothing(x64, model, mean_field):
    y, exists = padded()
    ragged = {"lengths": LENGTHS, "mask": exists}
    options = {"mean_field": mean_field, "fixed_point": ns.FixedPoint(tolerance=1e-12)}
    guide = ns.AutoSVAE(model, **options)
    together = loss_of(guide, model, {}, y, **ragged)
    local = guide.posterior_local({}, y, **ragged)
    apart = 0.0
    for n, length in enumerate(LENGTHS):
        alone = ns.AutoSVAE(model, **options)
        own = y[n : n + 1, :length]
        apart += loss_of(alone, model, {}, own)
        expected = alone.posterior_local({}, own)
        for site, read in (("z", "probs"), ("x", "mean")):
            found = getattr(local[site], read)[n, :length]
            np.testing.assert_allclose(
                found, getattr(expected[site], read)[0], atol=1e-8
            )
    np.testing.assert_allclose(together, apart, rtol=1e-9)


def seen_path(x, lengths=None):
    """A path of known dynamics, which is seen."""
    with numpyro.plate("sequences", len(x)):
        start, step = (jnp.zeros(2), jnp.eye(2)), (0.5 * jnp.eye(2), 0.3 * jnp.eye(2))
        chain = ns.LinearGaussianChain(
            *start, *step, num_steps=x.shape[1], lengths=lengths
        )
        numpyro.sample("x", chain, obs=x)


def seen_regimes(x, lengths=None):
    """A path that is seen, of which a path of states picks the steps."""
    with numpyro.plate("sequences", len(x)):
        chain = ns.DiscreteMarkovChain(INITIAL, ROWS, x.shape[1], lengths=lengths)
        z = numpyro.sample("z", chain)
        start, turns = (jnp.zeros(2), jnp.eye(2)), jnp.asarray(TURNS)[z[..., 1:]]
        path = ns.LinearGaussianChain(*start, turns, 0.3 * jnp.eye(2), lengths=lengths)
        numpyro.sample("x", path, obs=x)


def seen_states(x, lengths=None):
    """A path of known states and transitions."""
    chain = ns.DiscreteMarkovChain(INITIAL, ROWS, x.shape[1], lengths=lengths)
    with numpyro.plate("sequences", len(x)):
        numpyro.sample("z", chain, obs=jnp.where(x[..., 0] > 0, 1, 0))


@pytest.mark.parametrize("model", [seen_path, seen_states, seen_regimes])
def test_padding_of_what_is_seen_is_no_data(x64, model):
    x, _ = padded()
    guide = ns.AutoSVAE(model)
    together = loss_of(guide, model, {}, x, lengths=LENGTHS)
    args = model, guide, {}, random.PRNGKey(0)
    found = ns.log_likelihood(*args, x, lengths=LENGTHS)
    apart = [x[n : n + 1, :length] for n, length in enumerate(LENGTHS)]
    goal = [ns.log_likelihood(*args, own).value[0] for own in apart]
    np.testing.assert_allclose(found.value, goal, rtol=1e-9)
    np.testing.assert_allclose(together, -sum(goal), rtol=1e-9)


def slope_of(y, **ragged):
    """Gradient of the loss of a switching system with respect to its dynamics."""
    guide = ns.AutoSVAE(known_slds, fixed_point=ns.FixedPoint(tolerance=1e-12))

    @jax.jit
    def slope(weight, ragged):
        def loss(weight):
            args = {}, known_slds, guide, y, None, weight
            return ns.SVAE_ELBO().loss(random.PRNGKey(0), *args, **ragged)

        return jax.grad(loss)(weight)

    guide.posterior_local({}, y, None, jnp.asarray(TURNS), **ragged)
    return slope(jnp.asarray(TURNS), ragged)


@pytest.mark.slow
def test_gradients_through_sweeps_are_those_without_padding(x64):
    """Lengths and masks are traced, and no parameters: none leaks from the sweeps."""
    y, exists = (leaf[1:] for leaf in padded())
    together = slope_of(y, lengths=LENGTHS[1:], mask=exists)
    alone = slope_of(y[:, : LENGTHS[1]])
    assert np.abs(alone).max() > 1e-2
    np.testing.assert_allclose(together, alone, atol=1e-8)


def test_globals_learn_nothing_from_padding(x64):
    """The counts of transitions and of components are those of the real steps."""
    y, _ = padded()
    guide = ns.AutoSVAE(hmm, num_starts=1)
    svi = make_svi(hmm, guide, natural=1.0)
    params, _ = steps(svi, 3, y, lengths=LENGTHS)
    posterior = guide.get_posterior(params)
    real = int(LENGTHS.sum())
    pairs = posterior["rows"].concentration.sum() - 4.0
    np.testing.assert_allclose(pairs, real - len(LENGTHS), rtol=1e-9)
    seen = posterior["components"].df.sum() - 2 * 4.0
    np.testing.assert_allclose(seen, real, rtol=1e-9)


def test_missing_steps_are_inferred(x64):
    """A gap is filled from both of its sides, and a wholly missing sequence is free."""
    y, _ = sequences(count=2, steps=6, outputs=2)
    seen = jnp.ones((2, 6), bool).at[0, 2:4].set(False).at[1].set(False)
    guide = ns.AutoSVAE(known_slds)
    junk = jnp.where(seen[..., None], y, 1e3)
    local = guide.posterior_local({}, junk, mask=seen)
    cleared = guide.posterior_local({}, jnp.where(seen[..., None], y, 0.0), mask=seen)
    for site, read in (("z", "probs"), ("x", "mean")):
        np.testing.assert_array_equal(
            getattr(local[site], read), getattr(cleared[site], read)
        )
    variance = local["x"].variance[..., 0]
    assert variance[0, 2:4].min() > variance[0, [0, 1, 4, 5]].max()
    assert variance[1].min() > variance[0].max()
