# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The chain against a dense Gaussian and dynamax.

NumPyro's battery is applied to it in ``test_battery.py``.
"""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
import pytest

from numpyro_svae.distributions.linear_gaussian_chain import LinearGaussianChain
from numpyro_svae.potentials import GaussianPotential

SIZE, STEPS = 2, 4


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def spd(seed, *shape):
    a = normal(seed, *shape, shape[-1])
    return a @ np.swapaxes(a, -1, -2) + 0.3 * np.eye(shape[-1])


def example_chains():
    """Chains of every form: shared and per-step arguments, inputs, both directions."""
    one = {"initial_loc": normal(0, SIZE), "initial_cov": spd(1, SIZE)}
    constant = {"transition_matrix": normal(2, SIZE, SIZE), "transition_cov": spd(3, 2)}
    per_step = {
        "transition_matrix": normal(4, 3, STEPS - 1, SIZE, SIZE + 1),
        "transition_cov": spd(5, STEPS - 1, SIZE),
        "inputs": normal(6, STEPS - 1, 1),
    }
    batched = {
        "initial_loc": normal(7, 3, SIZE),
        "initial_cov": spd(8, SIZE),
        "transition_matrix": normal(9, 2, 1, 1, SIZE, SIZE),
        "transition_cov": spd(10, 3, 1, SIZE),
    }
    return {
        "constant": LinearGaussianChain(**one, **constant, num_steps=STEPS),
        "single": LinearGaussianChain(**one, **constant, num_steps=1),
        "per-step": LinearGaussianChain(**one, **per_step),
        "batched": LinearGaussianChain(**batched, num_steps=STEPS),
        "reversed": LinearGaussianChain(**one, **per_step, time_reversed=True),
    }


NAMES = ["constant", "single", "per-step", "batched", "reversed"]
every_chain = pytest.mark.parametrize("name", NAMES)


def potential(chain, full, batch=()):
    shape = batch + chain.event_shape
    precision = spd(12, *shape) if full else np.exp(normal(12, *shape))
    return GaussianPotential(normal(11, *shape), precision)


def blocks(chain, matrix):
    """Blocks of a matrix over flattened paths: ``(..., T, D, T, D)``."""
    return matrix.reshape(matrix.shape[:-2] + 2 * chain.event_shape)


def flat(x):
    return x.reshape(x.shape[:-2] + (-1,))


@pytest.mark.x64
@every_chain
def test_dense(name):
    chain = example_chains()[name]
    dense = chain.to_dense()
    x = chain.sample(jax.random.key(0), (5,))
    assert x.shape == (5, *chain.batch_shape, *chain.event_shape)
    np.testing.assert_allclose(chain.log_prob(x), dense.log_prob(flat(x)))
    np.testing.assert_allclose(chain.entropy(), dense.entropy())
    np.testing.assert_allclose(flat(chain.mean), dense.mean)
    np.testing.assert_allclose(flat(chain.variance), dense.variance)
    slope = jax.grad(lambda path: chain.log_prob(path).sum())(chain.mode)
    np.testing.assert_allclose(slope, 0.0, atol=1e-8)
    joint = blocks(chain, dense.covariance_matrix)
    for t in range(chain.num_steps):
        np.testing.assert_allclose(
            chain.covariance[..., t, :, :], joint[..., t, :, t, :]
        )
    for t in range(chain.num_steps - 1):
        np.testing.assert_allclose(
            chain.neighbor_covariance[..., t, :, :], joint[..., t + 1, :, t, :]
        )


@pytest.mark.x64
@every_chain
@pytest.mark.parametrize("full", [True, False])
def test_condition(name, full):
    """Bayes' rule at arbitrary points, and the moments of the dense posterior."""
    chain = example_chains()[name]
    psi = potential(chain, full, (2, 3) if name == "batched" else (3,))
    posterior, log_normalizer = chain.condition(psi)
    assert posterior.time_reversed != chain.time_reversed
    x = jnp.asarray(normal(13, 4, *posterior.batch_shape, *chain.event_shape))
    joint = chain.log_prob(x) + psi(x).sum(-1)
    np.testing.assert_allclose(posterior.log_prob(x), joint - log_normalizer)
    dense = chain.to_dense()
    size = flat(x).shape[-1]
    J = jnp.zeros((*posterior.batch_shape, *2 * chain.event_shape))
    for t in range(chain.num_steps):
        J = J.at[..., t, :, t, :].set(psi.full_precision()[..., t, :, :])
    precision = dense.precision_matrix + J.reshape(J.shape[:-4] + (size, size))
    right = dense.precision_matrix @ dense.mean[..., None]
    right = right + flat(psi.info_vector)[..., None]
    mean = jnp.linalg.solve(precision, right)[..., 0]
    np.testing.assert_allclose(flat(posterior.mean), mean, rtol=1e-9)
    covariance = jnp.linalg.solve(precision, jnp.eye(size))
    covariance = blocks(chain, covariance)
    for t in range(chain.num_steps):
        np.testing.assert_allclose(
            posterior.covariance[..., t, :, :], covariance[..., t, :, t, :], rtol=1e-8
        )
    if full:  # conditioning a posterior again is conditioning on the sum
        twice, more = posterior.condition(psi)
        once, evidence = chain.condition(psi + psi)
        np.testing.assert_allclose(twice.mean, once.mean, rtol=1e-8)
        np.testing.assert_allclose(log_normalizer + more, evidence, rtol=1e-8)


@pytest.mark.x64
@every_chain
def test_divergence(name):
    chain = example_chains()[name]
    posterior, log_normalizer = chain.condition(potential(chain, True))
    chains = chain, posterior  # which run in opposite directions
    for p in chains:
        for q in chains:
            dense = kl_divergence(p.to_dense(), q.to_dense())
            np.testing.assert_allclose(kl_divergence(p, q), dense, atol=1e-9)
    psi = potential(chain, True).expected(posterior.mean, posterior.covariance)
    np.testing.assert_allclose(
        kl_divergence(posterior, chain), psi.sum(-1) - log_normalizer, rtol=1e-8
    )


@pytest.mark.x64
@pytest.mark.parametrize("name", ["per-step", "batched", "reversed"])
def test_reverse_is_the_same_distribution(name):
    chain = example_chains()[name]
    x = chain.sample(jax.random.key(0), (3,))
    other = chain.reverse()
    np.testing.assert_allclose(other.log_prob(x), chain.log_prob(x))
    np.testing.assert_allclose(other.mean, chain.mean)
    np.testing.assert_allclose(other.neighbor_covariance, chain.neighbor_covariance)


@pytest.mark.x64
@pytest.mark.parametrize("name", ["per-step", "reversed"])
def test_samples_have_the_moments(name):
    chain = example_chains()[name]
    posterior, _ = chain.condition(potential(chain, True))
    draws = flat(posterior.sample(jax.random.key(1), (20_000,)))
    dense = posterior.to_dense()
    error = (draws.mean(0) - dense.mean) / jnp.sqrt(dense.variance / len(draws))
    assert jnp.max(jnp.abs(error)) < 4.5
    centred = draws - dense.mean
    found = jnp.einsum("nbi,nbj->bij", centred, centred) / len(draws)
    variance = dense.variance
    scale = jnp.sqrt(variance[..., None] * variance[..., None, :])
    difference = (found - dense.covariance_matrix) / scale
    assert jnp.max(jnp.abs(difference)) < 4.5 * np.sqrt(2 / len(draws))


@pytest.mark.x64
def test_dynamax():
    """Marginal likelihood and smoothed moments of a linear-Gaussian model."""
    lgssm = pytest.importorskip("dynamax.linear_gaussian_ssm")
    steps, size, observed = 500, 4, 3
    F = 0.99 * np.linalg.qr(normal(0, size, size))[0]
    C, R, Q = normal(1, observed, size), spd(2, observed), spd(3, size)
    y = 3 * normal(4, steps, observed)
    params = lgssm.LinearGaussianSSM(size, observed).initialize(
        jax.random.key(0),
        initial_mean=jnp.ones(size),
        initial_covariance=jnp.asarray(spd(5, size)),
        dynamics_weights=jnp.asarray(F),
        dynamics_covariance=jnp.asarray(Q),
        emission_weights=jnp.asarray(C),
        emission_covariance=jnp.asarray(R),
    )[0]
    expected = lgssm.lgssm_smoother(params, jnp.asarray(y))
    chain = LinearGaussianChain(np.ones(size), spd(5, size), F, Q, num_steps=steps)
    weight = np.linalg.solve(R, C)
    J = np.broadcast_to(C.T @ weight, (steps, size, size))
    posterior, log_normalizer = chain.condition(GaussianPotential(y @ weight, J))
    at_zero = dist.MultivariateNormal(np.zeros(observed), R).log_prob(y).sum()
    np.testing.assert_allclose(
        log_normalizer + at_zero, expected.marginal_loglik, rtol=1e-8
    )
    np.testing.assert_allclose(posterior.mean, expected.smoothed_means, atol=1e-8)
    np.testing.assert_allclose(
        posterior.covariance, expected.smoothed_covariances, atol=1e-8
    )


@pytest.mark.parametrize("name", ["batched", "reversed"])
def test_posteriors_survive_transformations(name):
    """What a posterior keeps beside its arguments is not part of its pytree."""
    chain = example_chains()[name]
    posterior, _ = chain.condition(potential(chain, False))
    leaves, structure = jax.tree.flatten(posterior)
    copies = (
        jax.tree.unflatten(structure, leaves),
        pickle.loads(pickle.dumps(posterior)),
        jax.jit(lambda c: c.condition(potential(chain, False))[0])(chain),
    )
    for copy in copies:
        np.testing.assert_allclose(copy.mean, posterior.mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            copy.covariance, posterior.covariance, rtol=1e-3, atol=1e-4
        )
    mean = jax.vmap(lambda h: chain.condition(GaussianPotential(h, h**2))[0].mean)(
        jnp.ones((2, *chain.event_shape))
    )
    assert mean.shape == (2, *chain.batch_shape, *chain.event_shape)


def test_sites_and_expansion():
    chain = example_chains()["constant"]
    assert chain.expand((3,)).sample(jax.random.key(0), (2,)).shape == (2, 3, 4, 2)
    assert chain.has_rsample and chain.support.event_dim == 2
    empty = make(initial_loc=np.zeros((0, 2)), validate_args=False)
    posterior, log_normalizer = empty.condition(
        GaussianPotential(np.zeros((0, 3, 2)), np.ones((0, 3, 2)))
    )
    assert posterior.mean.shape == (0, 3, 2) and log_normalizer.shape == (0,)
    assert posterior.sample(jax.random.key(0), (4,)).shape == (4, 0, 3, 2)


def make(**changes):
    arguments = {
        "initial_loc": np.zeros(2),
        "initial_cov": np.eye(2),
        "transition_matrix": np.eye(2),
        "transition_cov": np.eye(2),
        "num_steps": 3,
    }
    return LinearGaussianChain(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_loc": 0.0}, r"initial_loc: found shape \(\).*\(..., D\)"),
        ({"initial_cov": np.eye(3)}, r"initial_cov: found shape \(3, 3\).*2, 2"),
        (
            {"transition_matrix": np.ones((2, 3))},
            r"transition_matrix: found shape \(2, 3\); accepted is \(2, 2\) or",
        ),
        (
            {"inputs": np.ones((2, 1))},
            r"transition_matrix: found shape \(2, 2\); accepted is \(2, 3\) or",
        ),
        ({"inputs": np.ones(2)}, r"inputs: found shape \(2,\)"),
        ({"transition_cov": np.ones(2)}, r"transition_cov: found shape \(2,\)"),
        ({"num_steps": None}, r"num_steps: found None"),
        ({"num_steps": 0}, r"num_steps: found 0"),
        (
            {"transition_cov": np.ones((4, 2, 2))},
            r"transition_cov: found 4 steps in shape \(4, 2, 2\); accepted is 2 or 1",
        ),
        (
            {"initial_loc": np.zeros((3, 2)), "initial_cov": np.ones((4, 2, 2))},
            r"batch axes of the arguments do not broadcast",
        ),
    ],
)
def test_errors_say_what_was_found_and_what_is_accepted(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_one_step_is_all_there_are_where_nothing_else_tells():
    one = {"transition_matrix": np.eye(2)[None]}
    assert make(**one, num_steps=None).num_steps == 2
    assert make(**one).num_steps == 3
    noise = {"transition_cov": np.ones((4, 1, 1)) * np.eye(2)}
    assert make(**one, **noise, num_steps=None).num_steps == 5


def test_errors_of_methods():
    with pytest.raises(ValueError, match=r"potential: found batch shape \(5,\)"):
        make().condition(GaussianPotential(np.zeros((5, 2)), np.ones((5, 2))))
    with pytest.raises(ValueError, match=r"q: found event shape \(4, 2\)"):
        kl_divergence(make(), make(num_steps=4))
    with pytest.raises(ValueError, match="initial_cov must be symmetric and positive"):
        make(initial_cov=-np.eye(2), validate_args=True)
