# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The discrete chain against the list of all of its paths, and against dynamax."""

from itertools import product
import pickle

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.blocks.discrete_chain import smooth

STEPS, STATES = 4, 3
PATHS = np.array(list(product(range(STATES), repeat=STEPS)))


def parameters(kind, seed=0):
    """Probabilities of one chain: constant or per step, some of them zero."""
    rng = np.random.default_rng(seed)
    shape = (STEPS - 1, STATES, STATES) if kind == "per-step" else (STATES, STATES)
    initial, rows = rng.random(STATES), rng.random(shape)
    if kind == "sparse":
        initial[1] = 0.0
        rows[0, 2] = rows[2, 0] = 0.0
    return initial / initial.sum(), rows / rows.sum(-1, keepdims=True)


def make(kind, **changes):
    initial, rows = parameters(kind)
    arguments = {"initial_probs": initial, "transition_probs": rows, **changes}
    if kind != "per-step":
        arguments.setdefault("num_steps", STEPS)
    return ns.DiscreteMarkovChain(**arguments)


def path_probs(kind, potential=None):
    """Weights of all paths."""
    initial, rows = parameters(kind)
    rows = np.broadcast_to(rows, (STEPS - 1, STATES, STATES))
    found = initial[PATHS[:, 0]]
    for t in range(STEPS - 1):
        found = found * rows[t, PATHS[:, t], PATHS[:, t + 1]]
    if potential is not None:
        found = found * np.exp(potential[np.arange(STEPS), PATHS].sum(-1))
    return found


def marginals(weights):
    states = np.arange(STATES)
    share = weights / weights.sum()
    return np.einsum("p,ptk->tk", share, 1.0 * (PATHS[..., None] == states))


KINDS = ["constant", "per-step", "sparse"]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_a_sum_over_paths(x64, kind):
    chain, weights = make(kind), path_probs(kind)
    np.testing.assert_allclose(np.exp(chain.log_prob(PATHS)), weights, atol=1e-12)
    np.testing.assert_allclose(weights.sum(), 1.0)
    np.testing.assert_allclose(chain.probs, marginals(weights), atol=1e-12)
    pairs = np.zeros((STEPS - 1, STATES, STATES))
    for t in range(STEPS - 1):
        np.add.at(pairs[t], (PATHS[:, t], PATHS[:, t + 1]), weights)
    np.testing.assert_allclose(chain.neighbor_probs, pairs, atol=1e-12)
    seen = weights[weights > 0]
    np.testing.assert_allclose(chain.entropy(), -np.sum(seen * np.log(seen)))
    np.testing.assert_array_equal(chain.mode, PATHS[np.argmax(weights)])


@pytest.mark.parametrize("kind", KINDS)
def test_conditioning_reweighs_the_paths(x64, kind):
    logits = np.random.default_rng(1).normal(size=(STEPS, STATES))
    logits[2, 1] = -np.inf
    weights = path_probs(kind, logits)
    posterior, log_normalizer = make(kind).condition(ns.CategoricalPotential(logits))
    np.testing.assert_allclose(log_normalizer, np.log(weights.sum()))
    share = weights / weights.sum()
    np.testing.assert_allclose(np.exp(posterior.log_prob(PATHS)), share, atol=1e-12)
    np.testing.assert_allclose(posterior.probs, marginals(weights), atol=1e-12)
    np.testing.assert_array_equal(posterior.mode, PATHS[np.argmax(weights)])


def test_divergence_is_a_sum_over_paths(x64):
    p, q = make("sparse"), make("per-step")
    weights, other = path_probs("sparse"), path_probs("per-step")
    seen = weights > 0
    expected = np.sum(weights[seen] * np.log(weights[seen] / other[seen]))
    np.testing.assert_allclose(dist.kl_divergence(p, q), expected)
    np.testing.assert_allclose(dist.kl_divergence(p, p), 0.0, atol=1e-12)


def test_gradient_of_the_log_normalizer_is_the_marginals(x64):
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(STEPS, STATES)))
    logits = logits.at[1, 0].set(-jnp.inf)
    chain = make("sparse")

    def log_normalizer(logits):
        return chain.condition(ns.CategoricalPotential(logits))[1]

    gradient = jax.grad(log_normalizer)(logits)
    expected = marginals(path_probs("sparse", np.asarray(logits)))
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    second = jax.jacrev(jax.grad(log_normalizer))(logits)
    assert np.all(np.isfinite(second))


def test_what_is_impossible_is_no_nan():
    """Nothing is possible: the log normaliser says so, and no gradient is NaN."""

    def log_normalizer(logits):
        return make("constant").condition(ns.CategoricalPotential(logits))[1]

    logits = jnp.zeros((STEPS, STATES)).at[1].set(-jnp.inf)
    value, gradient = jax.value_and_grad(log_normalizer)(logits)
    assert value == -jnp.inf
    assert np.all(np.isfinite(gradient))


def test_draws_have_the_marginals():
    chain = make("sparse")
    draws = np.asarray(chain.sample(random.PRNGKey(0), (20_000,)))
    share = np.mean(draws[..., None] == np.arange(STATES), 0)
    np.testing.assert_allclose(share, chain.probs, atol=0.02)
    assert np.all(np.isfinite(chain.log_prob(draws)))


def test_batches_shapes_and_transforms():
    initial, rows = parameters("constant")
    many = jnp.stack([jnp.asarray(initial), jnp.asarray(initial[::-1])])
    chain = ns.DiscreteMarkovChain(many, jnp.asarray(rows), STEPS)
    assert (chain.batch_shape, chain.event_shape) == ((2,), (STEPS,))
    draws = chain.sample(random.PRNGKey(0), (5,))
    assert draws.shape == (5, 2, STEPS)
    assert jnp.issubdtype(draws.dtype, jnp.integer)
    first = jax.vmap(
        lambda i, z: ns.DiscreteMarkovChain(i, jnp.asarray(rows), STEPS).log_prob(z)
    )(many, draws[0])
    np.testing.assert_allclose(first, chain.log_prob(draws[0]), rtol=1e-6)
    compiled = jax.jit(lambda c, z: c.log_prob(z))(chain, draws)
    np.testing.assert_allclose(compiled, chain.log_prob(draws), rtol=1e-6)
    wide = chain.expand([3, 2])
    assert wide.log_prob(draws[0]).shape == (3, 2)
    again = pickle.loads(pickle.dumps(chain))
    np.testing.assert_array_equal(again.log_prob(draws), chain.log_prob(draws))
    assert chain.to_event(1).log_prob(draws).shape == (5,)


def test_one_step_is_a_categorical(x64):
    initial, rows = parameters("constant")
    chain = ns.DiscreteMarkovChain(initial, rows, 1)
    states = jnp.arange(STATES)[:, None]
    np.testing.assert_allclose(chain.log_prob(states), np.log(initial))
    np.testing.assert_allclose(chain.probs[0], initial)


def test_lengths_leave_the_padding_out(x64):
    initial, rows = parameters("constant")
    lengths = jnp.array([2, 4])
    chain = ns.DiscreteMarkovChain(initial, rows, STEPS, lengths=lengths)
    short = ns.DiscreteMarkovChain(initial, rows, 2)
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(2, STEPS, STATES)))
    logits = logits.at[0, 2:].set(0.0)
    posterior, log_normalizer = chain.condition(ns.CategoricalPotential(logits))
    alone, expected = short.condition(ns.CategoricalPotential(logits[0, :2]))
    np.testing.assert_allclose(log_normalizer[0], expected)
    np.testing.assert_allclose(posterior.probs[0, :2], alone.probs)
    padding = -(STEPS - 2) * np.log(STATES)
    path = jnp.array([0, 1, 2, 0])
    np.testing.assert_allclose(
        chain.log_prob(path)[0] - padding, short.log_prob(path[:2])
    )


@pytest.mark.filterwarnings("ignore")
def test_long_sequences_agree_with_dynamax(x64):
    inference = pytest.importorskip("dynamax.hidden_markov_model")
    rng, steps, states = np.random.default_rng(4), 2000, 5
    initial = rng.dirichlet(np.ones(states))
    rows = rng.dirichlet(np.ones(states), states) + 5 * np.eye(states)
    rows = rows / rows.sum(-1, keepdims=True)
    logits = rng.normal(scale=3.0, size=(steps, states))
    chain = ns.DiscreteMarkovChain(initial, rows, steps)
    posterior, log_normalizer = chain.condition(ns.CategoricalPotential(logits))
    expected = inference.hmm_smoother(*map(jnp.asarray, (initial, rows, logits)))
    np.testing.assert_allclose(log_normalizer, expected.marginal_loglik, rtol=1e-12)
    np.testing.assert_allclose(posterior.probs, expected.smoothed_probs, atol=1e-10)
    path = inference.hmm_posterior_mode(*map(jnp.asarray, (initial, rows, logits)))
    np.testing.assert_array_equal(posterior.mode, path)


def test_float32_is_close_over_ten_thousand_steps():
    rng, steps = np.random.default_rng(5), 10_000
    logits = rng.normal(scale=3.0, size=(steps, STATES))
    initial, rows = parameters("constant")

    def run(dtype):
        arrays = (jnp.asarray(a, dtype) for a in (initial, rows[None], logits))
        first, step, potential = arrays
        return smooth(jnp.log(first), jnp.log(step), potential)

    single = run(jnp.float32)
    with jax.enable_x64(True):
        double = run(jnp.float64)
    np.testing.assert_allclose(single.probs, double.probs, atol=1e-4)
    np.testing.assert_allclose(single.log_normalizer, double.log_normalizer, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"initial_probs": np.array([0.5, 0.6, 0.2])}, ("initial_probs",)),
        ({"transition_probs": np.ones((3, 3))}, ("transition_probs",)),
        ({"transition_probs": np.ones((2, 2)) / 2}, ("transition_probs", "3")),
        ({"initial_probs": np.array([1.2, -0.2, 0.0])}, ("initial_probs", "-0.2")),
        ({"num_steps": None}, ("num_steps",)),
        ({"num_steps": 0}, ("num_steps",)),
    ],
)
def test_errors_name_the_argument(changes, parts):
    def build():
        return make("constant", validate_args=True, **changes)

    for run in (build, jax.jit(build)):
        with pytest.raises(ValueError) as raised:
            run()
        for part in parts:
            assert part in str(raised.value)


def test_one_step_is_all_there_are_where_nothing_else_tells():
    one = {"transition_probs": parameters("constant")[1][None]}
    assert make("constant", **one, num_steps=None).num_steps == 2
    assert make("constant", **one).num_steps == STEPS


def test_steps_that_contradict_the_transitions():
    with pytest.raises(ValueError, match="num_steps"):
        make("per-step", num_steps=9)
