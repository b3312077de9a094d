# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Starts: guesses spread over the data, of which the bound picks the best."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.families import RegressionNatural
from numpyro_svae.inference.start.clusters import spread_components
from numpyro_svae.inference.start.dynamics import slow_dynamics
from tests.compilations import compilations
from tests.data import make_svi
from tests.models import mixture


@pytest.mark.parametrize(
    "weight, kept",
    [
        ([[1.0, 0.5, 0.3], [0.0, 1.0, 0.0]], True),  # constant velocity, an input
        ([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0]], True),  # a rotation
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], False),  # says nothing
        ([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0]], False),  # explodes
        ([[1e9, 0.0, 0.0], [0.0, 1.0, 0.0]], False),
    ],
)
def test_dynamics_start_at_a_stable_prior_mean_or_at_a_slow_decay(weight, kept):
    weight = jnp.array(weight)
    prior = RegressionNatural.from_standard(
        weight, jnp.eye(3), jnp.eye(2), jnp.array(4.0)
    )
    start = slow_dynamics(random.PRNGKey(0), prior, 2).to_standard().loc
    expected = weight if kept else 0.95 * jnp.eye(2, 3)
    np.testing.assert_allclose(start, expected, atol=1e-5)


def points():
    """Three groups that are far from each other."""
    centres = 10.0 * jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    noise = random.normal(random.PRNGKey(0), (3, 20, 2))
    return centres, (centres[:, None] + noise).reshape(-1, 2)


def start_of(guide, *args, key=1, model=mixture):
    """The posteriors that training starts at, and the loss there."""
    svi = make_svi(model, guide)
    state = svi.init(random.PRNGKey(key), *args)
    return guide.get_posterior(svi.get_params(state)), svi.evaluate(state, *args)


def test_components_start_spread_over_separate_clusters():
    centres, data = points()
    start, _ = start_of(ns.AutoSVAE(mixture, num_starts=1), data)
    loc = start["components"].mean[..., 0]
    distance = jnp.linalg.norm(loc[:, None] - centres, axis=-1)
    assert sorted(np.argmin(distance, 1)) == [0, 1, 2]
    np.testing.assert_allclose(jnp.min(distance, 1), 0.0, atol=1.0)


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of a scan
@pytest.mark.parametrize("likelihood", ["vectors", "counts"])
def test_first_data_of_a_scan_are_of_the_same_components(likelihood):
    """They are a site of their own, and are not clustered by themselves."""
    centres, _ = points()
    states = random.choice(random.PRNGKey(4), 3, (4, 12))
    shown = 5.0 + 0.5 * centres[states]  # far from each other, and not below zero
    y = jnp.maximum(shown + 0.1 * random.normal(random.PRNGKey(5), shown.shape), 0.0)
    y = jnp.round(y) if likelihood == "counts" else y

    def markov(y):
        with numpyro.plate("states", 3):
            row = numpyro.sample("row", dist.Dirichlet(jnp.ones(3)))
            if likelihood == "counts":
                prior = dist.Gamma(1.0, 0.1).expand([2]).to_event(1)
                rate = numpyro.sample("rate", prior)
            else:
                prior = ns.NormalInverseWishart(jnp.zeros(2), 0.1, 4.0, jnp.eye(2))
                loc, cov = ns.sample("rate", prior)

        def see(name, z, y):
            if likelihood == "counts":
                fn = dist.Poisson(rate[z]).to_event(1)
            else:
                fn = dist.MultivariateNormal(loc[z], cov[z])
            numpyro.sample(name, fn, obs=y)

        def step(z, y):
            with numpyro.plate("data", len(states)):
                z = numpyro.sample("z", dist.Categorical(row[z]))
                see("y", z, y)
            return z, None

        with numpyro.plate("data", len(states)):
            z = numpyro.sample("z_0", dist.Categorical(jnp.ones(3) / 3))
            see("y_0", z, y[:, 0])
        scan(step, z, jnp.moveaxis(y, 1, 0)[1:])

    start, _ = start_of(ns.AutoSVAE(markov, num_starts=1), y, model=markov)
    found = start["rate"].mean
    found = found if likelihood == "counts" else found[..., 0]
    distance = jnp.linalg.norm(found[:, None] - (5.0 + 0.5 * centres), axis=-1)
    assert sorted(np.argmin(distance, 1)) == [0, 1, 2]
    assert jnp.max(jnp.min(distance, 1)) < 1.5


def test_more_guesses_are_never_worse_and_one_program_holds_them_all():
    data = random.normal(random.PRNGKey(3), (30, 2))
    found = []
    for count in (1, 2, 6):
        guide = ns.AutoSVAE(mixture, num_starts=count)
        found.append(float(start_of(guide, data)[1]))
        with compilations() as compiled:
            start_of(guide, data, key=2)
        assert compiled() <= 2  # which read the program
    assert found[0] > found[1] >= found[2]


def test_a_given_start_stays_and_others_adapt_to_it():
    _, data = points()
    given = dist.Dirichlet(jnp.array([50.0, 1.0, 9.0]))
    guide = ns.AutoSVAE(mixture, init={"weights": given}, num_starts=3)
    start, _ = start_of(guide, data)
    np.testing.assert_array_equal(start["weights"].concentration, given.concentration)


def test_a_start_has_a_shape_without_data_being_known():
    guide = ns.AutoSVAE(mixture, num_starts=3)
    svi, (_, data) = make_svi(mixture, guide), points()
    svi.init(random.PRNGKey(0), data)
    keys = random.split(random.PRNGKey(1), 2)
    init = jax.vmap(lambda key, y: svi.get_params(svi.init(key, y)), (0, None))
    shapes = jax.eval_shape(init, keys, data)
    assert shapes["components_auto_natural"].df.shape == (2, 3)


@pytest.mark.parametrize("number", [0, -1, 2.5, True])
def test_the_number_of_guesses_is_checked(number):
    with pytest.raises(ValueError, match="num_starts"):
        ns.AutoSVAE(mixture, num_starts=number)


def test_clusters_do_not_depend_on_padding():
    _, data = points()
    args = random.PRNGKey(4), data, jnp.ones(len(data)), 5
    short = spread_components(*args, used=4)
    padded = jnp.concatenate([data, jnp.zeros((37, 2))])
    weight = (jnp.arange(len(padded)) < len(data)) * 1.0
    long = spread_components(args[0], padded, weight, 5, used=4)
    np.testing.assert_array_equal(short, long[: len(data)])
    assert set(np.flatnonzero(short.sum(0))) == {0, 1, 2, 3}


def hidden_states(y, lengths):
    """Three states of a chain, seen in sequences of different lengths."""
    with numpyro.plate("states", 3):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(3)))
    prior = ns.NormalInverseWishart(jnp.zeros(2), 0.1, 4.0, jnp.eye(2))
    with numpyro.plate("components", 3):
        mu, cov = ns.sample("parts", prior)
    steps = y.shape[1]
    with numpyro.plate("sequences", len(y)):
        fn = ns.DiscreteMarkovChain(jnp.ones(3) / 3, rows, steps, lengths=lengths)
        z = numpyro.sample("z", fn)
        there = jnp.arange(steps) < lengths[:, None]
        seen = dist.MultivariateNormal(mu[z], cov[z]).mask(there).to_event(1)
        numpyro.sample("y", seen, obs=y)


def test_a_start_does_not_depend_on_padding():
    y = random.normal(random.PRNGKey(5), (4, 9, 2)) * jnp.array([1.0, 3.0])
    lengths = jnp.array([9, 6, 8, 3])
    model, found = hidden_states, []
    for more in (0, 5):
        padded = jnp.pad(y, ((0, 0), (0, more), (0, 0)))
        guide = ns.AutoSVAE(model, num_starts=3)
        found.append(start_of(guide, padded, lengths, model=model)[0])
    for name in ("rows", "parts"):
        one, other = (jax.tree.leaves(f[name]) for f in found)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def sparse_mixture(y, count):
    """Weights whose prior wants few components."""
    weights = numpyro.sample("weights", dist.Dirichlet(1e-2 * jnp.ones(count)))
    with numpyro.plate("components", count):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 20.0).to_event(1))
        prior = dist.InverseWishart(2.5, scale_matrix=0.02 * jnp.eye(2))
        cov = numpyro.sample("cov", prior)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.MultivariateNormal(mu[z], cov[z]), obs=y)


def test_few_tight_groups_are_found_among_more_components():
    noise = 0.4 * random.normal(random.PRNGKey(6), (40, 2))
    y = noise + jnp.where(jnp.arange(40) < 20, -4.0, 3.0)[:, None]
    model = partial(sparse_mixture, count=6)
    guide = ns.AutoSVAE(model)
    for key in range(3):
        start, _ = start_of(guide, y, key=key, model=model)
        counts = np.sort(start["weights"].concentration)
        np.testing.assert_allclose(counts[-2:], [20.0, 20.0], atol=0.1)


def groups_of_sensors(y, group):
    """Paths whose loadings are picked by a group that is data, one-hot."""
    dynamics = ns.MatrixNormalInverseWishart(
        jnp.zeros((2, 2)), jnp.eye(2), 4.0, 0.1 * jnp.eye(2)
    )
    F, Q = ns.sample("dynamics", dynamics)
    wide = group.shape[-1] * 2
    sensing = ns.MatrixNormalInverseWishart(
        jnp.zeros((3, wide)), 0.1 * jnp.eye(wide), 5.0, 0.1 * jnp.eye(3)
    )
    C, R = ns.sample("sensing", sensing)
    series, steps, _ = y.shape
    with numpyro.plate("series", series):
        chain = ns.LinearGaussianChain(jnp.zeros(2), jnp.eye(2), F, Q, num_steps=steps)
        x = numpyro.sample("x", chain)
        u = (group[:, None, :, None] * x[..., None, :]).reshape(series, steps, wide)
        seen = dist.MultivariateNormal(u @ C.T, R).to_event(1)
        numpyro.sample("y", seen, obs=y)


def test_paths_seen_through_the_loadings_of_their_group_do_not_collapse():
    group = jnp.eye(2)[jnp.arange(6) % 2]
    angle = 0.4 * jnp.arange(15) + jnp.arange(6)[:, None]
    path = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
    loadings = random.normal(random.PRNGKey(7), (2, 3, 2))
    y = jnp.einsum("ng,gij,ntj->nti", group, loadings, path)
    y = y + 0.1 * random.normal(random.PRNGKey(8), y.shape)
    guide = ns.AutoSVAE(groups_of_sensors, num_starts=2)
    svi = make_svi(groups_of_sensors, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), y, group))
    x = guide.posterior_local(params, y, group)["x"].mean
    design = x.reshape(-1, 2)
    fit, *_ = jnp.linalg.lstsq(design, path.reshape(-1, 2))
    left = path.reshape(-1, 2) - design @ fit
    assert jnp.std(x) > 0.3 and jnp.mean(left**2) < 0.2


def relevance(y):
    """Dynamics and loadings whose columns have precisions to be learnt."""
    columns = dist.Gamma(1e-3, 1e-3).expand([2]).to_event(1)
    alpha, gamma = numpyro.sample("alpha", columns), numpyro.sample("gamma", columns)
    prior = dist.Normal(jnp.zeros((2, 2)), alpha**-0.5).to_event(2)
    matrix = numpyro.sample("matrix", prior)
    prior = dist.Normal(jnp.zeros((y.shape[-1], 2)), gamma**-0.5).to_event(2)
    loading = numpyro.sample("loading", prior)
    eye = jnp.eye(2)
    chain = ns.LinearGaussianChain(jnp.zeros(2), eye, matrix, eye, num_steps=len(y))
    x = numpyro.sample("x", chain)
    numpyro.sample("y", dist.Normal(x @ loading.T, 0.5).to_event(2), obs=y)


def test_a_start_is_not_slowed_down_by_rotations_of_a_path():
    """Plain steps from a single guess creep along them."""
    turn = 0.9 * jnp.array([[0.8, -0.6], [0.6, 0.8]])
    keys = random.split(random.PRNGKey(9), 3)
    path = [jnp.ones(2)]
    for noise in random.normal(keys[0], (29, 2)):
        path.append(turn @ path[-1] + noise)
    y = jnp.stack(path) @ random.normal(keys[1], (2, 4))
    y = y + 0.5 * random.normal(keys[2], y.shape)
    losses = []
    for count in (1, 4):
        svi = make_svi(relevance, ns.AutoSVAE(relevance, num_starts=count), natural=0.5)
        run = svi.run(random.PRNGKey(0), 200, y, progress_bar=False)
        losses.append(run.losses)
    crept, (start, *_, end) = losses[0][-1], losses[1]
    assert start < crept and start - end < 0.2


@pytest.mark.slow
def test_a_switching_system_is_found_from_any_key():
    """A point that turns one way near one centre, the other way near another."""
    rng, steps, series = np.random.default_rng(11), 80, 6
    angles, centres = (0.25, -0.15), np.array([[1.5, 0.0], [-1.5, 0.5]])
    states = np.zeros((series, steps), int)
    path = np.zeros((series, steps, 2))
    path[:, 0] = rng.uniform(-1, 1, (series, 2))
    for n in range(series):
        for t in range(1, steps):
            stays = rng.uniform() < 0.97
            k = states[n, t] = states[n, t - 1] if stays else 1 - states[n, t - 1]
            cos, sin = np.cos(angles[k]), np.sin(angles[k])
            turn = np.array([[cos, -sin], [sin, cos]])
            mean = turn @ (path[n, t - 1] - centres[k]) + centres[k]
            path[n, t] = mean + 0.02 * rng.standard_normal(2)
    loading = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    y = path @ loading.T + 0.15 * rng.standard_normal((series, steps, 6))
    y = jnp.asarray((y - y.mean((0, 1))) / y.std(), jnp.float32)
    guide = ns.AutoSVAE(switching, num_starts=4)
    svi = make_svi(switching, guide, natural=0.5)

    def states_from(key):
        state = svi.init(key, y)
        state, losses = jax.lax.scan(lambda s, _: svi.update(s, y), state, length=10)
        return guide.posterior_local(svi.get_params(state), y)["z"].probs, losses[0]

    states_from = jax.jit(states_from)  # one program for all keys
    for key in range(3):
        probs, loss = states_from(random.PRNGKey(key))
        found = np.argmax(probs, -1)
        assert loss < -2064.0  # where starts end: -2065.9 to -2066.5 from these keys
        right = np.mean(found[:, 1:] == states[:, 1:])
        assert max(right, 1 - right) > 0.9


def switching(y):
    """Two linear systems with drifts, seen through noisy sensors."""
    series, steps, sensors = y.shape
    prior = ns.MatrixNormalInverseWishart(
        jnp.zeros((2, 3)), 0.1 * jnp.eye(3), 5.0, 0.01 * jnp.eye(2)
    )
    with numpyro.plate("states", 2):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(2) + 20 * jnp.eye(2)))
        F, Q = ns.sample("dynamics", prior)
    sensing = ns.MatrixNormalInverseWishart(
        jnp.zeros((sensors, 3)), 0.1 * jnp.eye(3), sensors + 2.0, 0.1 * jnp.eye(sensors)
    )
    C, R = ns.sample("sensing", sensing)
    with numpyro.plate("sequences", series):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(jnp.ones(2) / 2, rows, steps))
        ones = jnp.ones((series, steps - 1, 1))
        later = z[..., 1:]
        chain = ns.LinearGaussianChain(
            jnp.zeros(2), 4 * jnp.eye(2), F[later], Q[later], inputs=ones
        )
        x = numpyro.sample("x", chain)
        seen = jnp.concatenate([x, jnp.ones((series, steps, 1))], -1)
        numpyro.sample("y", dist.MultivariateNormal(seen @ C.T, R).to_event(1), obs=y)


def test_vectors_behind_known_loadings_with_a_noise_to_learn():
    """Nothing is learnt of the location, so nothing is taken off before the start."""
    rng = np.random.default_rng(0)
    y, inputs = rng.standard_normal((6, 3)), rng.standard_normal((6, 3, 2))

    def model(y):
        precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            loc = jnp.einsum("nij,nj->ni", inputs, x)
            seen = dist.Normal(loc, precision**-0.5).to_event(1)
            numpyro.sample("y", seen, obs=y)

    svi = make_svi(model, ns.AutoSVAE(model))
    assert np.isfinite(svi.evaluate(svi.init(random.PRNGKey(0), y), y))
