# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recurrent switching against quadrature, and its bound against one of its own."""

from functools import cache, partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from tests.recurrent import (
    INPUTS,
    LOGITS,
    Y,
    evidence_on_a_grid,
    log_rows,
    own_bound,
    recurrent,
    switching,
)

KNOWN = partial(log_rows, LOGITS)
OPTIONS = ns.FixedPoint(max_sweeps=300, tolerance=1e-11)


def fitted(model, *args, **kwargs):
    """The loss, the guide and its parameters."""
    guide = ns.AutoSVAE(model, fixed_point=OPTIONS)
    optimizer = ns.svae_optimizer(optax.adam(1e-3), 0.5)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    state = svi.init(random.PRNGKey(0), *args, **kwargs)
    loss = svi.evaluate(state, *args, **kwargs)
    return float(loss), guide, svi.get_params(state)


@pytest.fixture
def known(x64):
    """The bound of the known program, and its posterior."""
    return _known()


@cache
def _known():
    loss, guide, params = fitted(recurrent, jnp.asarray(Y), inputs=INPUTS)
    return -loss, guide.posterior_local(params, jnp.asarray(Y), inputs=INPUTS)


def test_the_bound_is_that_of_its_posterior(known):
    bound, local = known
    np.testing.assert_allclose(
        own_bound(local["z"], local["x"], KNOWN), bound, rtol=1e-6
    )


def test_the_bound_is_below_the_evidence_and_near(known):
    bound, _ = known
    pairs = zip(Y, INPUTS)
    evidence = sum(evidence_on_a_grid(y, LOGITS, u) for y, u in pairs)
    assert 0.0 < evidence - bound < 1.0


def test_no_other_gaussian_path_or_path_of_states_is_better(known):
    """The gradient of its bound in free potentials of both is zero where it ends."""
    _, local = known

    def moved(info, precision, logits):
        said = ns.GaussianPotential(info, precision)
        path = local["x"].condition(said)[0]
        states = local["z"].condition(ns.CategoricalPotential(logits))[0]
        return own_bound(states, path, KNOWN)

    nothing = jnp.zeros((2, 4, 1)), jnp.zeros((2, 4, 1, 1)), jnp.zeros((2, 4, 2))
    gradients = jax.jit(jax.grad(moved, (0, 1, 2)))(*nothing)
    assert max(float(jnp.max(jnp.abs(g))) for g in gradients) < 1e-5
    other = moved(nothing[0] + 0.05, *nothing[1:])
    assert float(other) < float(moved(*nothing))


def test_weights_of_zero_are_those_of_a_switching_system(x64):
    rows = np.array([[0.8, 0.2], [0.3, 0.7]])
    alone = np.stack([np.zeros((2, 2)), np.log(rows)], -1)
    loss, guide, _ = fitted(recurrent, jnp.asarray(Y), weight=alone)
    other, plain, _ = fitted(switching, jnp.asarray(Y), np.log(rows))
    forms = [{f.form for f in g.structure.factors} for g in (guide, plain)]
    assert "logits" in forms[0] - forms[1]
    np.testing.assert_allclose(loss, other, rtol=1e-8)


def learnt(y, inputs):
    recurrent(y, numpyro.param("weight", jnp.asarray(LOGITS)), inputs)


def test_weights_see_the_bound_with_the_posterior_held_fixed(x64, known):
    """And so do the steps of svi: the posterior is the best one there."""
    _, local = known
    y = jnp.asarray(Y)
    guide = ns.AutoSVAE(learnt, fixed_point=OPTIONS)
    svi = SVI(learnt, guide, optax.sgd(1.0), ns.SVAE_ELBO())
    state = svi.init(random.PRNGKey(0), y, INPUTS)
    before = svi.get_params(state)["weight"]
    after = svi.get_params(svi.update(state, y, INPUTS)[0])["weight"]
    held = local["z"], local["x"]

    def bound(weight):
        return own_bound(*held, partial(log_rows, weight))

    expected = jax.grad(bound)(jnp.asarray(LOGITS))
    np.testing.assert_allclose(after - before, expected, rtol=1e-5, atol=1e-6)
