# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Dynamics of each step against the textbook's posterior of a regression."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.control import fit_local_dynamics, smooth_paths

N, T, D, A = 5, 3, 2, 1


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def prior(rng, strength=1.0):
    """With a number of steps, beside the D + 1 degrees of freedom without a mean."""
    columns, scale = 0.6 * np.eye(D + A) + 0.1, 0.5 * np.eye(D) + 0.1
    loc = rng.standard_normal((D, D + A))
    return ns.MatrixNormalInverseWishart(
        loc, strength * columns, D + 1 + strength * 4.0, strength * scale
    )


def textbook(prior, vv, vu, uu, count):
    """Of a regression with sums of products, in the plain way."""
    loc, columns = np.asarray(prior.loc), np.asarray(prior.column_precision)
    precision = columns + uu
    mean = np.linalg.solve(precision, (loc @ columns + vu).T).T
    scale = np.asarray(prior.scale_matrix) + vv + loc @ columns @ loc.T
    return mean, precision, scale - mean @ precision @ mean.T, prior.df + count


def compare(found, t, expected):
    mean, precision, scale, df = expected
    np.testing.assert_allclose(found.loc[t], mean, rtol=1e-8)
    np.testing.assert_allclose(found.column_precision[t], precision, rtol=1e-8)
    np.testing.assert_allclose(found.scale_matrix[t], scale, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.df[t], df)


def test_each_step_is_a_regression_of_its_own(x64, rng):
    start, states = prior(rng), rng.standard_normal((N, T + 1, D))
    inputs = rng.standard_normal((N, T, A))
    found = jax.jit(fit_local_dynamics)(start, states, inputs)
    assert found.batch_shape == (T,)
    for t in range(T):
        v, u = states[:, t + 1], np.concatenate([states[:, t], inputs[:, t]], -1)
        compare(found, t, textbook(start, v.T @ v, v.T @ u, u.T @ u, N))


def test_smoothed_states_enter_by_what_is_expected_of_them(x64, rng):
    start, inputs = prior(rng), rng.standard_normal((N, T, A))
    weight = 0.5 * rng.standard_normal((D, D + A))
    chain = ns.LinearGaussianChain(
        jnp.ones(D), jnp.eye(D), weight, 0.3 * jnp.eye(D), inputs=jnp.asarray(inputs)
    )
    potential = ns.GaussianPotential(
        jnp.asarray(rng.standard_normal((N, T + 1, D))), jnp.full((N, T + 1, D), 2.0)
    )
    smoothed, _ = chain.condition(potential)
    found = fit_local_dynamics(start, smoothed, inputs)
    joint = smoothed.to_dense()
    second = joint.covariance_matrix + joint.mean[:, :, None] * joint.mean[:, None]
    for t in range(T):
        now, later = slice(t * D, (t + 1) * D), slice((t + 1) * D, (t + 2) * D)
        x, a = joint.mean[:, now], inputs[:, t]
        vv = second[:, later, later].sum(0)
        vu = np.concatenate(
            [second[:, later, now].sum(0), joint.mean[:, later].T @ a], -1
        )
        top = np.concatenate([second[:, now, now].sum(0), x.T @ a], -1)
        uu = np.concatenate([top, np.concatenate([a.T @ x, a.T @ a], -1)])
        compare(found, t, textbook(start, vv, vu, uu, N))


def test_paths_are_the_best_gaussian_given_the_dynamics(x64, rng):
    """Its precision is made of plain expectations; its mean is where it is flat."""
    states, inputs = rng.standard_normal((N, T + 1, D)), rng.standard_normal((N, T, A))
    local = fit_local_dynamics(prior(rng), states, inputs)
    start = dist.MultivariateNormal(np.ones(D), 0.7 * np.eye(D))
    h, J = rng.standard_normal((N, T + 1, D)), rng.uniform(0, 3, (N, T + 1, D))
    found = smooth_paths(local, start, inputs, ns.GaussianPotential(h, J)).to_dense()
    size = (T + 1) * D
    precision = np.zeros((N, size, size)) + J.reshape(N, 1, size) * np.eye(size)
    slope = h.reshape(N, size).copy()
    precision[:, :D, :D] += start.precision_matrix
    slope[:, :D] += start.precision_matrix @ start.mean
    plain = local.expected_statistics
    for t in range(T):
        now, later = slice(t * D, (t + 1) * D), slice((t + 1) * D, (t + 2) * D)
        noise, cross, square = -2 * plain.vv[t], plain.vu[t], -2 * plain.uu[t]
        precision[:, later, later] += noise
        precision[:, later, now] -= cross[:, :D]
        precision[:, now, later] -= cross[:, :D].T
        precision[:, now, now] += square[:D, :D]
        slope[:, later] += inputs[:, t] @ cross[:, D:].T
        slope[:, now] -= inputs[:, t] @ square[:D, D:].T
    one = np.broadcast_to(np.eye(size), precision.shape)
    np.testing.assert_allclose(precision @ found.covariance_matrix, one, atol=1e-8)
    mean = np.linalg.solve(precision, slope[..., None])[..., 0]
    np.testing.assert_allclose(found.mean, mean, rtol=1e-7)
    with pytest.raises(ValueError, match=r"inputs: found shape \(5, 4, 1\)"):
        smooth_paths(local, start, np.zeros((N, T + 1, A)), None)


def test_a_prior_may_count_for_fewer_steps(x64, rng):
    states, inputs = rng.standard_normal((N, T + 1, D)), np.zeros((N, T, A))
    strong = prior(np.random.default_rng(1), 100.0)
    weak = prior(np.random.default_rng(1), 0.5)  # two steps
    np.testing.assert_allclose(strong.mean, weak.mean)
    found = fit_local_dynamics(strong, states, inputs, strength=2.0)
    expected = fit_local_dynamics(weak, states, inputs)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_what_does_not_fit_is_named(rng):
    start, states = prior(rng), np.zeros((N, T + 1, D))
    with pytest.raises(ValueError, match=r"\(5, 3, 2\); accepted .* \(N, T, 1\)"):
        fit_local_dynamics(start, states, np.zeros((N, T, 2)))
    with pytest.raises(ValueError, match=r"found shape \(4, 2\); accepted are paths"):
        fit_local_dynamics(start, states[0], np.zeros((T, A)))
    with pytest.raises(ValueError, match="strength: found 0"):
        fit_local_dynamics(start, states, np.zeros((N, T, A)), strength=0)
