# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Filtering step by step is what smoothing says of the last step."""

import dynamax.linear_gaussian_ssm as dynamax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests.data import make_svi, sequences
from tests.forecasting.test_forecast import scanned_lds
from tests.models import linear_lds
from tests.switching import (
    INITIAL,
    ROWS,
    TURNS,
    hmm_svae,
    known_hmm,
    known_slds,
    recognition,
)

START = 3
MATRIX = np.array([[0.9, -0.2], [0.3, 0.8]])

# What NumPyro's handlers do with scan.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")


def run(state, **later):
    """Filter all later steps in one compiled loop; arguments are in order of time."""

    def step(state, new):
        state = state.update(**new)
        return state, (state.beliefs, state.bound)

    return jax.lax.scan(step, state, later)


def start_of(model, guide, *data):
    """The parameters before any step of learning."""
    svi = make_svi(model, guide)
    return svi.get_params(svi.init(jax.random.PRNGKey(0), *data))


def over_time(x, start):
    return jnp.swapaxes(x, 0, 1)[start:]


@pytest.mark.slow
def test_an_lds_with_learnt_parameters(x64):
    y, actions = sequences(count=2, steps=6)
    guide = ns.AutoSVAE(linear_lds, num_starts=1)
    params = start_of(linear_lds, guide, y, actions)
    state = ns.filter(linear_lds, guide, params, y[:, :START], actions[:, : START - 1])
    later = {"y": over_time(y, START), "actions": over_time(actions, START - 1)}
    state, _ = run(state, **later)
    whole = guide.posterior_local(params, y, actions)["x"]
    found = state.marginals["x"]
    np.testing.assert_allclose(found.mean, whole.mean[:, -1], atol=1e-10)
    covariance = whole.covariance[:, -1]
    np.testing.assert_allclose(found.covariance_matrix, covariance, atol=1e-10)
    with pytest.raises(ValueError, match=r"Arguments \['actions'\]: found no values"):
        state.update(y=y[:, START])
    with pytest.raises(ValueError, match=r"'y': found shape .* Accepted: \(2, 1, 3\)"):
        state.update(y=y[0, START], actions=actions[:, START])


@pytest.mark.slow
def test_dynamax_filters_alike(x64):
    """With a program that scans, whose arguments are in the order of time."""
    y, actions = sequences(count=2, steps=6)
    past = y[:, :2], actions[:, :1]
    past = tuple(jnp.swapaxes(x, 0, 1) for x in past)
    state = ns.filter(scanned_lds, ns.AutoSVAE(scanned_lds), {}, *past)
    later = {"y": over_time(y, 2), "actions": over_time(actions, 1)}
    known_so_far = state.bound
    first = state.begin(y=past[0][0])
    again = first.update(y=past[0][1], actions=past[1][0])
    same = {"atol": 1e-10, "rtol": 1e-10}
    for one, two in zip(again.beliefs["x"], state.beliefs["x"]):
        np.testing.assert_allclose(one, two, **same)
    np.testing.assert_allclose(first.bound + again.bound, known_so_far, **same)
    state, (found, bounds) = run(state, **later)
    evidence = known_so_far + bounds.sum(0)
    model = dynamax.LinearGaussianSSM(2, 3, input_dim=1)
    known, _ = model.initialize(
        jax.random.PRNGKey(0),
        initial_mean=jnp.array([0.5, -0.5]),
        initial_covariance=1.5 * jnp.eye(2),
        dynamics_weights=MATRIX,
        dynamics_bias=jnp.zeros(2),
        dynamics_input_weights=jnp.array([[0.5], [-0.4]]),
        dynamics_covariance=jnp.array([[0.3, 0.1], [0.1, 0.2]]),
        emission_weights=jnp.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.2]]),
        emission_bias=jnp.full(3, 0.1),
        emission_input_weights=jnp.zeros((3, 1)),
        emission_covariance=0.4 * jnp.eye(3),
    )
    for n in range(2):
        inputs = jnp.concatenate([jnp.zeros((1, 1)), actions[n]])
        expected = dynamax.lgssm_filter(known, y[n], inputs)
        np.testing.assert_allclose(evidence[n], expected.marginal_loglik, rtol=1e-9)
        mean, covariance = found["x"].mean[:, n], found["x"].covariance[:, n]
        np.testing.assert_allclose(mean, expected.filtered_means[2:], atol=1e-8)
        goal = expected.filtered_covariances[2:]
        np.testing.assert_allclose(covariance, goal, atol=1e-8)
    blind = state.update(actions=jnp.zeros((2, 1)))
    goal = np.asarray(state.beliefs["x"].mean) @ MATRIX.T
    np.testing.assert_allclose(blind.marginals["x"].mean, goal, atol=1e-10)
    np.testing.assert_allclose(blind.bound, 0.0, atol=1e-10)  # nothing is seen


def test_a_hidden_markov_model_behind_a_network(x64):
    """With hidden vectors between states and data, and all of it to be learnt."""
    y, _ = sequences(count=2, steps=6)
    guide = ns.AutoSVAE(hmm_svae, recognition)
    params = start_of(hmm_svae, guide, y)
    state = ns.filter(hmm_svae, guide, params, y[:, :START])
    state, _ = run(state.begin(y=y[:, 0]), y=over_time(y, 1))
    goal = guide.posterior_local(params, y)["z"].probs[:, -1]
    np.testing.assert_allclose(state.marginals["z"].probs, goal, atol=1e-10)
    assert np.isnan(state.bound).all()  # the likelihood is sampled


def test_padded_sequences_go_on_from_their_ends(x64):
    y, _ = sequences(count=2, steps=6, outputs=2)
    guide = ns.AutoSVAE(known_hmm)
    lengths = jnp.array([1, 4])
    seen = jnp.arange(5) < lengths[:, None]
    junk = jnp.where(seen[..., None], y[:, :5], 1e3)
    state = ns.filter(known_hmm, guide, {}, junk, lengths=lengths, mask=seen)
    assert state.bound.shape == (2,)
    state = state.update(y=y[:, 5], mask=jnp.ones(2, bool))
    for n, length in enumerate(lengths):
        alone = jnp.concatenate([y[n : n + 1, :length], y[n : n + 1, 5:]], 1)
        goal = guide.posterior_local({}, alone)["z"].probs[0, -1]
        np.testing.assert_allclose(state.beliefs["z"][n], goal, atol=1e-10)


def test_what_has_the_values_of_the_lengths_is_something_else(x64):
    """One sequence of three steps, of group 3."""

    def model(y, group, lengths):
        exists = jnp.arange(y.shape[1]) < lengths[:, None]
        with numpyro.plate("sequences", len(y)):
            chain = ns.DiscreteMarkovChain(INITIAL, ROWS, y.shape[1], lengths=lengths)
            z = numpyro.sample("z", chain)
            loc = z + jnp.arange(4.0)[group, None]
            numpyro.sample("y", dist.Normal(loc, 1).mask(exists).to_event(1), obs=y)

    y, group = sequences(count=1, steps=5, outputs=1)[0][..., 0], jnp.array([3])
    guide = ns.AutoSVAE(model)
    state = ns.filter(model, guide, {}, y, group, jnp.array([3])).update(y=y[:, 3])
    goal = guide.posterior_local({}, y[:, :4], group, jnp.array([4]))["z"].probs[:, 3]
    np.testing.assert_allclose(state.beliefs["z"], goal, atol=1e-10)


def autoregressive_hmm(x):
    """A switching system whose states are seen."""
    with numpyro.plate("sequences", len(x)):
        rows = jnp.broadcast_to(jnp.asarray(ROWS), (x.shape[1] - 1, 2, 2))
        states = ns.DiscreteMarkovChain(INITIAL, rows)
        z = numpyro.sample("z", states)[..., 1:]
        noise = jnp.array([0.1, 0.3])[z][..., None, None] * jnp.eye(2)
        weight = jnp.asarray(TURNS)[z]
        start = jnp.zeros(2), jnp.eye(2)  # steps tell how many states there are
        numpyro.sample("x", ns.LinearGaussianChain(*start, weight, noise), obs=x)


def test_an_observed_switching_autoregression(x64):
    x, _ = sequences(count=2, steps=6, outputs=2)
    guide = ns.AutoSVAE(autoregressive_hmm, num_starts=1)
    params = start_of(autoregressive_hmm, guide, x)
    state = ns.filter(autoregressive_hmm, guide, params, x[:, :START])
    so_far = state.bound
    state, (_, bounds) = run(state, x=over_time(x, START))
    goal = guide.posterior_local(params, x)["z"].probs[:, -1]
    np.testing.assert_allclose(state.beliefs["z"], goal, atol=1e-10)
    whole = ns.log_likelihood(
        autoregressive_hmm, guide, params, jax.random.PRNGKey(1), x, num_particles=1
    )
    np.testing.assert_allclose(so_far + bounds.sum(0), whole.value, rtol=1e-9)


def test_steps_of_an_observed_switching_autoregression_have_scores(x64):
    """One step ahead and two, where the value between is integrated too."""
    x, _ = sequences(count=2, steps=5, outputs=2)
    model, guide = autoregressive_hmm, ns.AutoSVAE(autoregressive_hmm)
    past, future = x[:, :START], x[:, START:]
    args = model, guide, {}, jax.random.PRNGKey(0), past
    found = ns.log_score(*args, future={"x": future}, num_samples=20_000)["x"]
    now, last = guide.posterior_local({}, past)["z"].probs[:, -1], past[:, -1]
    goal, noises = np.zeros((2, 2)), (0.1, 0.3)
    for n, z, a, b in np.ndindex(2, 2, 2, 2):
        share = now[n, z] * ROWS[z][a] * ROWS[a][b]
        first, second = np.asarray(TURNS[a]), np.asarray(TURNS[b])
        mean, noise = first @ last[n], noises[a] * np.eye(2)
        goal[n, 0] += share * multivariate_normal(mean, noise).pdf(future[n, 0])
        mean, noise = second @ mean, second @ noise @ second.T + noises[b] * np.eye(2)
        goal[n, 1] += share * multivariate_normal(mean, noise).pdf(future[n, 1])
    np.testing.assert_allclose(found, np.log(goal), atol=0.03)


def one_regime(y):
    """A switching system whose regimes are the same, so that its guide is exact."""
    weight = jnp.asarray(MATRIX)
    with numpyro.plate("sequences", len(y)):
        rows = jnp.array([[0.8, 0.2], [0.3, 0.7]])
        states = ns.DiscreteMarkovChain(jnp.array([0.6, 0.4]), rows, y.shape[1])
        z = numpyro.sample("z", states)[..., 1:]
        weight, noise = jnp.stack([weight, weight]), jnp.stack([0.2 * jnp.eye(2)] * 2)
        start = jnp.zeros(2), jnp.eye(2)
        chain = ns.LinearGaussianChain(*start, weight[z], noise[z])
        x = numpyro.sample("x", chain)
        seen = dist.MultivariateNormal(x, 0.4 * jnp.eye(2)).to_event(1)
        numpyro.sample("y", seen, obs=y)


@pytest.mark.slow
def test_switching_systems(x64):
    """Exact where the guide's product is; elsewhere close to what smoothing says."""
    y, _ = sequences(count=2, steps=6, outputs=2)
    for model, tolerance in ((one_regime, 1e-8), (known_slds, 0.1)):
        guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(tolerance=1e-12))
        state = ns.filter(model, guide, {}, y[:, :START])
        state, _ = run(state, y=over_time(y, START))
        whole = guide.posterior_local({}, y)
        for found, goal in (
            (state.beliefs["x"].mean, whole["x"].mean[:, -1]),
            (state.beliefs["z"], whole["z"].probs[:, -1]),
        ):
            np.testing.assert_allclose(found, goal, atol=tolerance)


def pushed(y, actions):
    """A path that is pushed as far as a parameter says, which is zero at first."""
    push = numpyro.param("push", jnp.zeros((1, 1)))
    matrix = jnp.concatenate([0.9 * jnp.eye(1), push], -1)
    with numpyro.plate("sequences", len(y)):
        args = jnp.zeros(1), jnp.eye(1), matrix, 0.1 * jnp.eye(1)
        chain = ns.LinearGaussianChain(*args, inputs=actions, num_steps=y.shape[1])
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(2), obs=y)


def test_what_a_step_needs_is_found_with_the_parameters_that_are_given():
    """A filter that was made before with others does not say."""
    y, actions = jnp.ones((2, 4, 1)), jnp.ones((2, 3, 1))
    guide = ns.AutoSVAE(pushed)
    ns.filter(pushed, guide, {"push": jnp.zeros((1, 1))}, y, actions).update()
    state = ns.filter(pushed, guide, {"push": jnp.ones((1, 1))}, y, actions)
    with pytest.raises(ValueError, match=r"Arguments \['actions'\]: found no values"):
        state.update()


def test_data_that_a_new_guide_does_not_see_are_asked_for():
    """Rewards that are not known while acting are no latent site."""

    def model(y, rewards=None):
        chain = ns.LinearGaussianChain(
            jnp.zeros(2), jnp.eye(2), jnp.asarray(MATRIX), jnp.eye(2), num_steps=3
        )
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(2), obs=y)
        worth = dist.Normal(jnp.tanh(x[:, 0]), 1.0).to_event(1)
        numpyro.sample("rewards", worth, obs=rewards)

    accepted = "'rewards'.*If it has data.*read the model with them.*load_fit"
    with pytest.raises(ValueError, match=accepted):
        ns.filter(model, ns.AutoSVAE(model), {}, jnp.zeros((3, 2)))
