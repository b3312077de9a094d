# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""States of a discrete site are merged where the bound is the better for it."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln, multigammaln

import numpyro_svae as ns
from numpyro_svae.families import DirichletNatural, GammaNatural, RegressionNatural
from numpyro_svae.training import anneal_kl, merge_components
from tests.conjugate import poisson_hmm
from tests.data import make_svi
from tests.models import KAPPA, mixture

SIZES, ALPHA, COUNT = (20, 30), 0.7, 4


def prior_of(count):
    """Natural parameters of the components of ``mixture``."""
    prior = ns.NormalInverseWishart(jnp.zeros(2), KAPPA, 4.0, jnp.eye(2))
    spread = jnp.zeros((count, 1, 1))
    return jax.tree.map(
        lambda leaf: leaf + spread.reshape((count,) + (1,) * leaf.ndim),
        prior.natural_parameters,
    )


def posterior_of(y, members):
    """The prior with the data of each component, ``(N, K)``."""
    seen = RegressionNatural.observe(y[:, None], jnp.ones((1, 1)), members)
    return prior_of(members.shape[1]) + jax.tree.map(lambda leaf: leaf.sum(0), seen)


def log_evidence(groups, concentration):
    """Of Gaussians under their prior and of sizes under a Dirichlet, by textbook."""
    sizes = np.zeros(COUNT)
    sizes[: len(groups)] = [len(y) for y in groups]
    total = gammaln(COUNT * concentration) - gammaln(
        COUNT * concentration + sizes.sum()
    )
    total += np.sum(gammaln(concentration + sizes) - gammaln(concentration))
    for y in groups:
        size, mean = len(y), y.mean(0)
        spread = np.outer(mean, mean) * KAPPA * size / (KAPPA + size)
        scale = np.eye(2) + (y - mean).T @ (y - mean) + spread
        total += multigammaln((4 + size) / 2, 2) - multigammaln(2, 2)
        total -= (4 + size) / 2 * np.linalg.slogdet(scale)[1] + size * np.log(np.pi)
        total += np.log(KAPPA) - np.log(KAPPA + size)
    return total


@pytest.fixture(scope="module")
def halved():
    """Two groups far apart, of which one is held by two components in equal parts."""
    with jax.enable_x64(False):
        rng = np.random.default_rng(3)
        centre = np.repeat([-7.0, 7.0], SIZES)[:, None]
        y = jnp.asarray(centre + rng.standard_normal((50, 2)), jnp.float32)
        parts = np.where(np.arange(50) < 20, 0, 1 + 2 * (np.arange(50) % 2))
        members = jnp.asarray(np.eye(COUNT)[parts], jnp.float32)
        init = {
            "components": posterior_of(y, members),
            "weights": DirichletNatural(ALPHA + members.sum(0)),
        }
        svi = make_svi(mixture, ns.AutoSVAE(mixture, init=init))
        state = svi.init(random.PRNGKey(0), y, count=COUNT)
        return svi, y, state, merge_components(svi, state, y, count=COUNT)


def test_halves_become_the_posterior_of_all_their_data(halved):
    svi, y, state, found = halved
    assert found.pairs == ((1, 3),)
    whole = jnp.asarray(np.eye(COUNT)[np.repeat([0, 1], SIZES)], jnp.float32)
    before, after = svi.get_params(state), svi.get_params(found.state)
    assert before.keys() == after.keys()
    got, old = (p["components_auto_natural"] for p in (after, before))
    for leaf, wanted in zip(
        jax.tree.leaves(got), jax.tree.leaves(posterior_of(y, whole))
    ):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-4)
    for leaf, first in zip(jax.tree.leaves(got), jax.tree.leaves(old)):
        np.testing.assert_array_equal(leaf[::2], first[::2])
    counts = after["weights_auto_natural"].concentration - ALPHA
    np.testing.assert_allclose(counts, [20, 30, 0, 0], atol=1e-5)


def test_the_bound_after_a_merge_is_the_evidence(halved):
    _, y, _, found = halved
    before, after = found.losses
    assert after < before - 3
    data = np.asarray(y, float)
    exact = log_evidence((data[:20], data[20:]), ALPHA)
    np.testing.assert_allclose(-after, exact, rtol=1e-5)


def test_groups_far_apart_stay_as_they_are(halved):
    svi, y, _, found = halved
    again = merge_components(svi, found.state, y, count=COUNT, site="z")
    assert again.pairs == () and again.state is found.state
    np.testing.assert_allclose(again.losses, found.losses[-1:], rtol=1e-6)


def test_of_a_chain_rows_and_columns_are_merged():
    rng = np.random.default_rng(1)
    y = jnp.asarray(rng.poisson(np.repeat([2.0, 40.0, 2.0, 40.0], 10)), jnp.float32)
    low, high = y[:10].sum() + y[20:30].sum(), y[10:20].sum() + y[30:].sum()
    rows = jnp.array([[4.5, 1.0, 4.5], [0.5, 18.0, 0.5], [4.5, 1.0, 4.5]])
    init = {
        "initial": DirichletNatural(jnp.array([1.5, 1.0, 1.5])),
        "rows": DirichletNatural(1 + rows),
        "rate": GammaNatural(
            2 + jnp.array([low / 2, high, low / 2]), jnp.array([11.5, 21.5, 11.5])
        ),
    }
    svi = make_svi(poisson_hmm, ns.AutoSVAE(poisson_hmm, init=init))
    state = svi.init(random.PRNGKey(0), y[None], count=3)
    found = merge_components(svi, state, y[None], count=3)
    assert found.pairs == ((0, 2),) and found.losses[1] < found.losses[0]
    got = svi.get_params(found.state)
    joined = [[19.0, 3.0, 1.0], [2.0, 19.0, 1.0], [1.0, 1.0, 1.0]]
    np.testing.assert_allclose(got["rows_auto_natural"].concentration, joined)
    np.testing.assert_allclose(got["initial_auto_natural"].concentration, [2, 1, 1])
    np.testing.assert_allclose(
        got["rate_auto_natural"].concentration, [2 + low, 2 + high, 2]
    )
    np.testing.assert_allclose(got["rate_auto_natural"].rate, [21.5, 21.5, 1.5])


def test_errors_say_what_is_accepted(halved):
    svi, y, state, _ = halved
    with pytest.raises(ValueError, match=r"site: found 'components'; accepted .* 'z'"):
        merge_components(svi, state, y, count=COUNT, site="components")
    annealed = make_svi(mixture, anneal_kl(svi.guide, lambda step: 1.0))
    with pytest.raises(TypeError, match="accepted is an AutoSVAE"):
        merge_components(annealed, state, y, count=COUNT)


def test_rows_that_data_pick_are_not_merged():
    def model(z, group):
        with numpyro.plate("rows of groups", 4):
            rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(2)))
        rows = rows.reshape(2, 2, 2)[group][:, None]
        with numpyro.plate("data", len(z)):
            half = jnp.full(2, 0.5)
            chain = numpyro.sample("z", ns.DiscreteMarkovChain(half, rows, 3))
            numpyro.sample("y", dist.Normal(1.0 * chain, 1.0).to_event(1), obs=z)

    args = jnp.ones((2, 3)), jnp.array([0, 1])
    svi = make_svi(model, ns.AutoSVAE(model, num_starts=1))
    state = svi.init(random.key(0), *args)
    with pytest.raises(ValueError, match=r"'z' has parameters .* that data pick"):
        merge_components(svi, state, *args)
