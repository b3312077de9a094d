# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Masks on latent sites: their density counts neither in the program nor in the guide.

NumPyro says what that means: :class:`~numpyro.infer.Trace_ELBO` scores the same guide.
"""

from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import Trace_ELBO
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.masked import (
    masked_autoregression,
    masked_graph,
    masked_hierarchy,
    masked_hmm,
    masked_paths,
)
from tests.oracles.test_trace_elbo import assert_same_expectation, estimates

Y = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)
SEQUENCES = np.array([True, False, True])
STEPS = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [0, 0, 1, 1]], bool)
OTHERS = np.array([False, True, True])
CASES = {
    "hmm": (masked_hmm, (Y, SEQUENCES, STEPS), False),
    "mean-field": (masked_hmm, (Y, SEQUENCES, STEPS), True),
    "paths": (masked_paths, (Y, SEQUENCES, OTHERS), False),
}


@pytest.mark.parametrize("name", CASES)
def test_trace_elbo_scores_the_guide_alike(name):
    model, args, mean_field = CASES[name]
    guide = ns.AutoSVAE(model, mean_field=mean_field)
    ours = float(ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, model, guide, *args))
    theirs = estimates(Trace_ELBO(), {}, model, guide, args)
    assert_same_expectation(np.full(2000, ours), theirs, precise=1.5)


def test_a_graph_is_scored_alike_by_every_draw(x64):
    """With the priors of masked positions its posterior is exact, and they cancel."""
    args = Y[:, 0].astype(float), SEQUENCES, OTHERS
    guide = ns.AutoSVAE(masked_graph)
    problem = (random.PRNGKey(3), {}, masked_graph, guide, *args)
    sampled = Trace_ELBO(num_particles=2).loss(*problem)
    np.testing.assert_allclose(ns.SVAE_ELBO().loss(*problem), sampled, rtol=1e-10)


def test_masked_positions_keep_their_prior(x64):
    local = ns.AutoSVAE(masked_paths).posterior_local({}, Y, SEQUENCES, OTHERS)
    np.testing.assert_allclose(local["u"].mean[0], np.ones(2))
    np.testing.assert_allclose(local["u"].variance[0], 0.64 * np.ones(2))
    np.testing.assert_allclose(local["x"].mean[1, 0], np.array([1.0, 0.0]), atol=1e-15)
    assert np.all(np.abs(local["u"].mean[1] - 1.0) > 1e-3)


def test_what_does_not_exist_changes_nothing(x64):
    """Masked members and groups of a graph, and what is learnt of the others."""
    y = np.random.default_rng(1).standard_normal((3, 4, 3))
    groups = np.array([True, True, False, True])
    members = np.array([[1, 1, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1]], bool)
    start = ns.NormalInverseWishart(0.3 * jnp.ones(2), 1.0, 5.0, 2.0 * jnp.eye(2))
    found = []
    for keep in (slice(None), groups):
        args = y[:, keep], groups[keep], members[:, keep]
        guide = ns.AutoSVAE(masked_hierarchy, init={"population": start})
        params, losses = steps(make_svi(masked_hierarchy, guide, natural=0.7), 3, *args)
        local = guide.posterior_local(params, *args)["m"].mean
        found.append((losses, local[: groups.sum() - 1]))
    for padded, alone in zip(*found):
        np.testing.assert_allclose(padded[:2], alone[:2], rtol=1e-8)


def test_a_masked_sequence_that_is_seen_says_nothing(x64):
    args = Y.astype(float), SEQUENCES
    alone = Y[SEQUENCES].astype(float), np.array([True, True])
    guides = [ns.AutoSVAE(masked_autoregression) for _ in (args, alone)]
    losses = [
        steps(make_svi(masked_autoregression, guide, natural=1.0), 2, *a)[1]
        for guide, a in zip(guides, (args, alone))
    ]
    np.testing.assert_allclose(losses[0][1], losses[1][1], rtol=1e-8)
