# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Models with discrete chains against brute force over all paths of states."""

from functools import partial
from itertools import pairwise, product

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests import switching
from tests.switching import known_hmm, known_slds

STEPS = 4
Y = np.array([[[0.3, 0.1], [1.2, -0.4], [1.9, 0.2], [0.4, 0.6]]])
ACTIONS = np.array([[[1.0], [-0.5], [0.7]]])


def paths():
    return list(product(range(2), repeat=STEPS))


def log_prior(path):
    value = np.log(switching.INITIAL[path[0]])
    return value + sum(np.log(switching.ROWS[a, b]) for a, b in pairwise(path))


def hmm_prior(path):
    """Moments of the flattened states x of the HMM along a path."""
    mean = np.concatenate([switching.LOC[k] for k in path])
    return mean, np.diag(np.repeat(switching.SPREAD[list(path)], 2))


def slds_prior(path, actions):
    """The same of the switching dynamical system."""
    mean, cov = np.zeros(2 * STEPS), np.zeros((2 * STEPS, 2 * STEPS))
    cov[:2, :2] = np.eye(2)
    for t, k in enumerate(path[1:], 1):
        F, now, past = switching.TURNS[k], slice(2 * t, 2 * t + 2), slice(0, 2 * t)
        before = slice(2 * t - 2, 2 * t)
        mean[now] = F @ mean[before] + switching.DRIVE[k] @ actions[t - 1]
        cov[now, past] = F @ cov[before, past]
        cov[past, now] = cov[now, past].T
        cov[now, now] = F @ cov[before, before] @ F.T
        cov[now, now] += switching.STEP_NOISE[k] * np.eye(2)
    return mean, cov


def log_evidence(prior):
    """``log p(y)``, and for each path its share of it."""
    noise = switching.NOISE * np.eye(2 * STEPS)
    terms = []
    for path in paths():
        mean, cov = prior(path)
        terms.append(
            log_prior(path)
            + multivariate_normal(mean, cov + noise).logpdf(Y[0].ravel())
        )
    return np.logaddexp.reduce(terms), np.exp(terms - np.logaddexp.reduce(terms))


def loss_of(model, *args, **options):
    guide = ns.AutoSVAE(model, **options)
    loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, model, guide, *args)
    return float(loss), guide


def test_exact_joint_of_an_hmm_is_the_posterior(x64):
    loss, guide = loss_of(known_hmm, Y)
    evidence, shares = log_evidence(hmm_prior)
    np.testing.assert_allclose(-loss, evidence, rtol=1e-10)
    probs = np.zeros((STEPS, 2))
    mean = np.zeros(2 * STEPS)
    noise = switching.NOISE * np.eye(2 * STEPS)
    for path, share in zip(paths(), shares):
        probs[np.arange(STEPS), path] += share
        prior_mean, cov = hmm_prior(path)
        gain = np.linalg.solve(cov + noise, cov).T
        mean += share * (prior_mean + gain @ (Y[0].ravel() - prior_mean))
    local = guide.posterior_local({}, Y)
    np.testing.assert_allclose(local["z"].probs[0], probs, atol=1e-10)
    np.testing.assert_allclose(local["x"].mean[0].ravel(), mean, atol=1e-10)


def test_a_product_is_never_better_than_the_joint(x64):
    joint, _ = loss_of(known_hmm, Y)
    factored, _ = loss_of(known_hmm, Y, mean_field=True)
    assert joint < factored - 1e-3


class BruteForce:
    """The ELBO of q(z) q(x) of the switching model, for any of these two."""

    def __init__(self):
        priors = [slds_prior(path, ACTIONS[0]) for path in paths()]
        self.log_prior = jnp.array([log_prior(path) for path in paths()])
        self.means = jnp.array([mean for mean, _ in priors])
        identity = np.eye(2 * STEPS)
        self.precisions = jnp.array([np.linalg.solve(c, identity) for _, c in priors])
        self.log_dets = jnp.array([np.linalg.slogdet(cov)[1] for _, cov in priors])

    def __call__(self, log_probs, mean, cov):
        log_probs = jax.nn.log_softmax(log_probs)
        size = len(mean)

        def log_normal(shift, precision, log_det):
            second = cov + jnp.outer(shift, shift)
            return -0.5 * (
                jnp.sum(precision * second) + log_det + size * jnp.log(2 * jnp.pi)
            )

        prior = jax.vmap(log_normal)(mean - self.means, self.precisions, self.log_dets)
        noise = switching.NOISE
        seen = log_normal(
            mean - Y[0].ravel(), jnp.eye(size) / noise, size * jnp.log(noise)
        )
        expected = jnp.sum(jnp.exp(log_probs) * (self.log_prior + prior - log_probs))
        entropy = 0.5 * (
            size * jnp.log(2 * jnp.pi * jnp.e) + jnp.linalg.slogdet(cov)[1]
        )
        return expected + seen + entropy


@pytest.fixture
def slds(x64):
    fixed_point = ns.FixedPoint(tolerance=1e-12)
    loss, guide = loss_of(known_slds, Y, ACTIONS, fixed_point=fixed_point)
    return loss, guide.posterior_local({}, Y, ACTIONS)


def path_log_probs(chain):
    return chain.log_prob(jnp.array(paths())[:, None])[:, 0]


def test_elbo_of_a_switching_system_is_that_of_brute_force(slds):
    loss, local = slds
    dense = local["x"].to_dense()
    elbo = BruteForce()(
        path_log_probs(local["z"]), dense.mean[0], dense.covariance_matrix[0]
    )
    np.testing.assert_allclose(-loss, elbo, rtol=1e-9)
    evidence, _ = log_evidence(partial(slds_prior, actions=ACTIONS[0]))
    assert evidence - 2.0 < -loss < evidence


def test_its_product_is_a_stationary_point_of_brute_force(slds):
    _, local = slds
    dense = local["x"].to_dense()
    slopes = jax.grad(BruteForce(), (0, 1, 2))(
        path_log_probs(local["z"]), dense.mean[0], dense.covariance_matrix[0]
    )
    for slope in slopes:
        np.testing.assert_allclose(slope, 0.0, atol=1e-7)


@pytest.mark.parametrize("max_sweeps, converged", [(100, True), (6, False)])
def test_the_guide_says_whether_sweeps_converged(x64, max_sweeps, converged):
    guide = ns.AutoSVAE(known_slds, fixed_point=ns.FixedPoint(max_sweeps=max_sweeps))
    report = guide.convergence({}, Y, ACTIONS)["z"]
    assert (report.residual <= 1) == converged
    assert report.sweeps < 100 if converged else report.sweeps == 6
    assert report.adjoint


@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_gradient_of_the_fixed_point_is_that_of_finite_differences(x64, gradient):
    """Of probabilities of states, which the stationary ELBO alone would not test."""
    options = ns.FixedPoint(tolerance=1e-13, gradient=gradient, max_sweeps=60)
    guide = ns.AutoSVAE(known_slds, fixed_point=options)

    @jax.jit
    @jax.value_and_grad
    def share(weight):
        local = guide.posterior_local({}, Y, ACTIONS, weight)
        return jnp.sum(local["z"].probs[0, :, 1] * jnp.arange(1.0, STEPS + 1))

    weight = jnp.asarray(switching.TURNS)
    guide.posterior_local({}, Y, ACTIONS, weight)
    slope = share(weight)[1]
    assert np.abs(slope).max() > 1e-2
    direction = np.random.default_rng(0).standard_normal(weight.shape)
    step = 1e-5
    change = share(weight + step * direction)[0] - share(weight - step * direction)[0]
    np.testing.assert_allclose(
        jnp.sum(slope * direction), change / (2 * step), rtol=1e-6
    )


def test_the_gradient_of_the_bound_needs_no_linear_system(x64):
    """Its product is the best one, so that nothing hangs on how that moves."""
    guide = ns.AutoSVAE(known_slds, fixed_point=ns.FixedPoint(tolerance=1e-12))
    elbo = ns.SVAE_ELBO()

    def loss(weight):
        return elbo.loss(random.key(0), {}, known_slds, guide, Y, ACTIONS, weight)

    def share(weight):
        return guide.posterior_local({}, Y, ACTIONS, weight)["z"].probs[0, 1, 1]

    weight = jnp.asarray(switching.TURNS)
    loss(weight)
    programs = [str(jax.make_jaxpr(jax.grad(f))(weight)) for f in (loss, share)]
    assert ["linear_solve" in program for program in programs] == [False, True]
    direction = np.random.default_rng(1).standard_normal(weight.shape)
    slope = jnp.sum(jax.jit(jax.grad(loss))(weight) * direction)
    ends, step = [weight + sign * 1e-5 * direction for sign in (1, -1)], 2e-5
    change = np.subtract(*map(jax.jit(loss), ends))
    np.testing.assert_allclose(slope, change / step, rtol=1e-6)


@pytest.mark.slow
def test_a_stopped_fixed_point_has_the_gradient_of_its_last_sweep_only(x64):
    def slope(gradient):
        options = ns.FixedPoint(tolerance=1e-12, gradient=gradient)
        guide = ns.AutoSVAE(known_slds, fixed_point=options)

        def share(weight):
            return guide.posterior_local({}, Y, ACTIONS, weight)["z"].probs[0, 1, 1]

        weight = jnp.asarray(switching.TURNS)
        guide.posterior_local({}, Y, ACTIONS, weight)
        return jax.grad(share)(weight)

    assert np.all(slope("stopped") == 0.0)
    assert np.any(slope("implicit") != 0.0)
