# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Plain variational message passing: it climbs, and its optimum is stationary."""

from functools import partial

import jax
from jax import random
import numpy as np
from numpyro.handlers import seed, substitute
import pytest

import numpyro_svae as ns
from tests.data import clusters, make_svi, sequences, steps
from tests.models import linear_lds, mixture


def assert_never_rises(losses):
    rises = np.diff(losses) / np.abs(losses[:-1])
    assert rises.max() < 1e-12, rises.max()
    assert losses[0] - losses[-1] > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_elbo_of_a_mixture_never_drops(seed, x64):
    y, _ = clusters(30, seed=seed)
    svi = make_svi(mixture, ns.AutoSVAE(mixture, num_starts=1))
    _, losses = steps(svi, 60, 1.5 * y, seed=seed)
    assert_never_rises(np.asarray(losses))


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "two-site"])
def test_elbo_of_linear_dynamics_never_drops(joint, x64):
    model = partial(linear_lds, joint=joint)
    svi = make_svi(model, ns.AutoSVAE(model, num_starts=1))
    _, losses = steps(svi, 150, *sequences())
    assert_never_rises(np.asarray(losses))


def test_spellings_are_the_same_model(x64):
    """Same start, same path, same posterior."""
    found = []
    for joint in (True, False):
        model = partial(linear_lds, joint=joint)
        guide = ns.AutoSVAE(model, num_starts=1)
        params, losses = steps(make_svi(model, guide), 5, *sequences())
        found.append((losses, guide.get_posterior(params)))
    (joint_losses, joint), (losses, two_site) = found
    np.testing.assert_allclose(losses, joint_losses, rtol=1e-10)
    for name in ("init", "dynamics", "emission"):
        np.testing.assert_allclose(two_site[name].mean, joint[name].mean, rtol=1e-8)


def test_the_optimum_of_a_mixture_is_stationary(x64):
    y, _ = clusters(30)
    svi = make_svi(mixture, ns.AutoSVAE(mixture, num_starts=1))
    params, _ = steps(svi, 300, y)

    def loss(params):
        return ns.SVAE_ELBO().loss(random.PRNGKey(0), params, mixture, svi.guide, y)

    gradient = jax.jit(jax.grad(loss))(params)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-7)


def test_minibatches_average_to_the_full_batch(x64):
    """The gradient of the full data is the mean of those of its minibatches."""
    y, _ = clusters(12)
    model = partial(mixture, subsample=4)
    guide, full_guide = (
        ns.AutoSVAE(model, num_starts=1),
        ns.AutoSVAE(mixture, num_starts=1),
    )
    svi = make_svi(mixture, full_guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), y))

    def loss(params, model, guide, index=None):
        bound = guide
        if index is not None:
            data = {"data": index}
            bound = substitute(guide, data=data)
        return ns.SVAE_ELBO().loss(random.PRNGKey(0), params, model, bound, y)

    seed(guide, 0)(y)
    gradient = jax.jit(jax.value_and_grad(partial(loss, model=model, guide=guide)))
    batches = [gradient(params, index=i) for i in np.arange(12).reshape(3, 4)]
    average = jax.tree.map(lambda *leaves: sum(leaves) / 3, *batches)
    full = jax.value_and_grad(partial(loss, model=mixture, guide=full_guide))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        average,
        full,
    )
