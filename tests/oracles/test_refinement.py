# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sweeps after a recognition function, beside the guide that has none."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import numpyro_svae as ns
from tests.data import make_svi

KEY = random.PRNGKey(0)
EXACT = ns.FixedPoint(max_sweeps=300, tolerance=1e-20)
RNG = np.random.default_rng(0)
N, T, D, P = 3, 4, 2, 5
LOADING = RNG.standard_normal((D, P))
COUNTS = 1.0 * RNG.poisson(1.5, (N, T, P))


def system(y):
    """A path that is seen as counts."""
    eye = jnp.eye(D)
    with numpyro.plate("data", len(y)):
        chain = ns.LinearGaussianChain(
            jnp.zeros(D), eye, 0.9 * eye, 0.3 * eye, num_steps=y.shape[1]
        )
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Poisson(jnp.exp(x @ LOADING)).to_event(2), obs=y)


def network(y):
    """A recognition function that is badly off."""
    weight = numpyro.param("weight", 0.5 * jnp.ones((P, D)))
    width = numpyro.param("width", jnp.array(0.2))
    return {"x": ns.GaussianPotential.from_loc_scale(y @ weight - 3.0, width)}


def loss_of(guide, params=None, model=system):
    return ns.SVAE_ELBO().loss(KEY, params or {}, model, guide, COUNTS)


@pytest.fixture(scope="module")
def best():
    with jax.enable_x64():
        guide = ns.AutoSVAE(system, fixed_point=EXACT)
        guide.watch.noticed.add("ascent")
        return loss_of(guide), guide.posterior_local({}, COUNTS)["x"]


def test_a_bad_network_ends_at_the_best_gaussian(x64, best):
    guide = ns.AutoSVAE(system, network, refine=300, fixed_point=EXACT)
    np.testing.assert_allclose(loss_of(guide), best[0], rtol=1e-9)
    found = guide.posterior_local({}, COUNTS)["x"]
    np.testing.assert_allclose(found.mean, best[1].mean, atol=1e-6)
    np.testing.assert_allclose(found.covariance, best[1].covariance, atol=1e-6)


def test_the_gap_is_what_sweeps_have_raised(x64):
    """The fewer sweeps, the smaller it is; with none nothing changes."""
    plain, gaps, losses = ns.AutoSVAE(system, network), [], []
    for sweeps in (1, 2, 8):
        guide = plain.refined(sweeps)
        losses.append(loss_of(guide))
        ended = guide.convergence({}, COUNTS)["x"]
        assert ended.sweeps <= sweeps and ended.gain.shape == (N,)
        assert np.all(ended.gain >= 0)
        gaps.append(float(np.sum(ended.gain)))
    assert 0 < gaps[0] < gaps[1] < gaps[2]
    np.testing.assert_allclose(np.add(losses, gaps), losses[0] + gaps[0], rtol=1e-10)
    same = plain.refined(2).refined(0)
    assert loss_of(same) == loss_of(plain) and same.convergence({}, COUNTS) == {}


def test_the_report_shows_the_gap():
    """Of a guide that was trained without sweeps, too."""
    plain = ns.AutoSVAE(system, network)
    options = {"num_samples": 100, "num_particles": 1, "show": False}
    svi = make_svi(system, plain)
    params = svi.get_params(svi.init(KEY, COUNTS))
    found = ns.report(system, plain.refined(3), params, COUNTS, **options)
    gap = found.amortization_gap["x"]
    assert gap.shape == (N,) and np.all(gap > 0)
    (row,) = (r for r in str(found).split("\n") if r.startswith("amortisation gap"))
    assert f"{np.sum(gap):.4g} nats" in row
    assert ns.report(system, plain, params, COUNTS, **options).amortization_gap == {}


def test_the_network_learns_what_the_sweeps_have_moved(x64):
    """After one sweep, half of one, along the gradient of the bound before it."""
    guide = ns.AutoSVAE(system, network, refine=1)
    params = {"weight": 0.1 * jnp.asarray(RNG.standard_normal((P, D)))}
    params["width"] = jnp.array(1.3)

    def before(params):
        gain = guide.convergence(params, COUNTS)["x"].gain
        return loss_of(guide, params) + jnp.sum(gain)

    slopes = jax.jit(jax.grad(lambda params: loss_of(guide, params)))(params)
    way = {"weight": RNG.standard_normal((P, D)), "width": np.array(0.3)}

    def at(step):
        return before({n: params[n] + step * way[n] for n in params})

    expected = (at(1e-4) - at(-1e-4)) / 2e-4
    found = sum(jnp.sum(slopes[name] * way[name]) for name in params)
    np.testing.assert_allclose(found, 0.5 * expected, rtol=1e-5)


def test_training_closes_the_gap(x64):
    def flexible(y):
        zeros = jnp.zeros((N, T, D))
        said = numpyro.param("loc", zeros), jnp.exp(numpyro.param("log", zeros))
        return {"x": ns.GaussianPotential.from_loc_scale(*said)}

    guide = ns.AutoSVAE(system, flexible, refine=2)
    svi = make_svi(system, guide, 0.5, optax.adam(0.1))
    state = svi.init(KEY, COUNTS)
    gaps = []
    update = jax.jit(svi.update)
    for step in range(101):
        if step in (0, 100):
            gain = guide.convergence(svi.get_params(state), COUNTS)["x"].gain
            gaps.append(np.sum(gain))
        state, _ = update(state, COUNTS)
    assert gaps[1] < 0.2 * gaps[0]


def test_a_start_of_no_use_is_left():
    """Where the bound is not finite at what the network says."""

    def overflows(y):
        far = jnp.full((N, T, D), 1e3)
        return {"x": ns.GaussianPotential.from_loc_scale(far, 1e-3)}

    guide = ns.AutoSVAE(system, overflows, refine=50)
    plain = ns.AutoSVAE(system)
    np.testing.assert_allclose(loss_of(guide), loss_of(plain), rtol=1e-4)


@pytest.mark.parametrize("sweeps", [-1, 1.5])
def test_sweeps_that_are_none(sweeps):
    with pytest.raises(ValueError, match="refine: found"):
        ns.AutoSVAE(system, network, refine=sweeps)
