# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The part of NumPyro's battery that compares numbers, in float64.

Densities are held against SciPy, gradients against finite differences, and closed
forms against samples, within five standard errors.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, Independent, kl_divergence
import pytest
from scipy import stats

from tests.distributions.cases import (
    PRIORS,
    Case,
    draws,
    every_case,
    every_case_with_moments,
    log_prob,
    spd,
)

pytestmark = pytest.mark.x64

EPS = 1e-6


def assert_mean_of(samples: np.ndarray, expected: np.ndarray) -> None:
    """The mean over the first axis is within five standard errors of the expected."""
    error = samples.std(0) / np.sqrt(len(samples)) + 1e-12
    z_scores = (samples.mean(0) - np.asarray(expected)) / error
    assert np.abs(z_scores).max() < 5, z_scores


def float_params(case: Case) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, float) for name, value in case.arrays.items()}


def finite_difference(function, params: dict[str, jax.Array], name: str) -> float:
    """Along the direction in which all the entries of one parameter grow.

    The function gives a value and a gradient, so that it is compiled only once.
    """
    sides = []
    for step in (EPS, -EPS):
        moved = params[name] + step
        if name == "scale_tril":
            moved = jnp.tril(moved)
        sides.append(function({**params, name: moved})[0])
    return float(sides[0] - sides[1]) / (2 * EPS)


@every_case
def test_log_prob_equals_scipy(case: Case):
    made = case.make()
    values = draws(case)[:3]
    actual = log_prob(made, values)
    expected = np.stack([case.oracle(value) for value in values])
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)
    if case in PRIORS[::3]:
        plain = made.log_prob(jnp.asarray(values))
        np.testing.assert_allclose(actual, plain, rtol=1e-12, atol=1e-12)


@every_case
def test_jit_over_parameters(case: Case):
    value = draws(case)[:2]
    jitted = jax.jit(lambda params: case.make(**params).log_prob(value))
    expected = log_prob(case.make(), value)
    np.testing.assert_allclose(jitted(float_params(case)), expected, rtol=1e-12)


@every_case
def test_log_prob_gradient(case: Case):
    params, value = float_params(case), draws(case)[0]

    @jax.jit
    @jax.value_and_grad
    def total(params):
        return case.make(**params, validate_args=False).log_prob(value).sum()

    gradients = total(params)[1]
    for name, gradient in gradients.items():
        assert gradient.shape == params[name].shape
        lower = jnp.tril(gradient) if name == "scale_tril" else gradient
        expected = finite_difference(total, params, name)
        np.testing.assert_allclose(lower.sum(), expected, rtol=1e-6, atol=1e-6)


@every_case
def test_sample_gradient(case: Case):
    """With a fixed key; the gradient in df is that of the gamma sampler, see below."""
    params = float_params(case)

    @jax.jit
    @jax.value_and_grad
    def total(params):
        made = case.make(**params, validate_args=False)
        return jnp.sin(made.rsample(jax.random.key(1))).sum()

    gradients = total(params)[1]
    assert np.isfinite(gradients.pop("df", 0.0)).all()
    for name, gradient in gradients.items():
        lower = jnp.tril(gradient) if name == "scale_tril" else gradient
        expected = finite_difference(total, params, name)
        np.testing.assert_allclose(lower.sum(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", PRIORS[::3], ids=lambda case: case.name)
def test_pathwise_gradient_in_df(case: Case):
    """E of the derivative of a sample is the derivative of the mean."""
    params = float_params(case)

    def tangent(function):
        step = {name: jnp.zeros_like(x) for name, x in params.items()}
        step["df"] = jnp.ones_like(params["df"])
        return jax.jvp(function, (params,), (step,))[1]

    def sample(params):
        made = case.make(**params, validate_args=False)
        return made.rsample(jax.random.key(2), (5_000,))

    expected = tangent(lambda params: case.make(**params, validate_args=False).mean)
    assert_mean_of(np.asarray(jax.jit(lambda: tangent(sample))()), expected)


@every_case_with_moments
def test_mean_and_variance_equal_those_of_samples(case: Case):
    values = draws(case)
    mean, variance = jax.jit(lambda made: (made.mean, made.variance))(case.make())
    assert_mean_of(values, mean)
    assert_mean_of(np.square(values - np.asarray(mean)), variance)


@every_case
def test_entropy_equals_that_of_samples(case: Case):
    made = case.make()
    entropy = jax.jit(lambda made: made.entropy())(made)
    assert_mean_of(-np.asarray(log_prob(made, draws(case))), entropy)


@pytest.mark.parametrize("case", PRIORS, ids=lambda case: case.name)
def test_marginals_of_samples(case: Case):
    """A diagonal entry of Sigma is inverse gamma, an entry of the weight Student t."""
    params = case.unbatched(index := (0,) * len(case.make().batch_shape))
    values = draws(case)[(slice(None), *index)]
    made = case.cls(**params)
    dim, df = made.event_shape[0], float(made.df)
    scale = float(made.scale_matrix[0, 0])
    variance = stats.invgamma(0.5 * (df - dim + 1), scale=0.5 * scale)
    assert stats.kstest(values[:, 0, -dim], variance.cdf).pvalue > 1e-3
    loc, spread = float(made.mean[0, 0]), float(made.variance[0, 0])
    width = np.sqrt(spread * (df - dim - 1) / (df - dim + 1))
    weight = stats.t(df - dim + 1, loc=loc, scale=width)
    assert stats.kstest(values[:, 0, 0], weight.cdf).pvalue > 1e-3


@pytest.mark.parametrize("case", PRIORS, ids=lambda case: case.name)
def test_mode_maximises_the_density(case: Case):
    made = case.make()
    gradient = jax.jit(jax.grad(lambda value: made.log_prob(value).sum()))(made.mode)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


def another(case: Case) -> Distribution:
    """A distribution of the same kind with other parameters."""
    changes = {
        "loc": case.params["loc"] + 0.2,
        "df": case.params["df"] + 1.5,
    }
    if "concentration" in case.params:
        changes["concentration"] = 1.4 * case.params["concentration"]
    else:
        size = case.params["loc"].shape[-1]
        changes["column_precision"] = case.params["column_precision"] + spd(20, size)
    if "scale_matrix" in case.params:
        changes["scale_matrix"] = 1.3 * case.params["scale_matrix"]
    return case.make(**changes)


@pytest.mark.parametrize("case", PRIORS, ids=lambda case: case.name)
def test_kl_equals_that_of_samples(case: Case):
    p, q, values = case.make(), another(case), draws(case)
    divergence = jax.jit(lambda p, q: kl_divergence(p, q))
    actual = divergence(p, q)
    assert actual.shape == p.batch_shape
    assert np.all(actual > 0.01)
    ratios = log_prob(p, values) - log_prob(q, values)
    assert_mean_of(np.asarray(ratios), actual)
    np.testing.assert_allclose(divergence(p, p), 0, atol=1e-10)


def test_kl_of_wrapped_distributions():
    p, q = PRIORS[0].make(), another(PRIORS[0])
    plain = kl_divergence(p, q)
    np.testing.assert_allclose(
        kl_divergence(p.expand([3]), q), np.full(3, plain), rtol=1e-12
    )
    np.testing.assert_allclose(
        kl_divergence(
            Independent(p.expand([2, 3]), 1), Independent(q.expand([2, 3]), 1)
        ),
        np.full(2, 3 * plain),
        rtol=1e-12,
    )
    batched = PRIORS[2].make()
    single = PRIORS[0].make()
    assert kl_divergence(batched, single).shape == batched.batch_shape
    assert kl_divergence(single, batched).shape == batched.batch_shape


def test_kl_of_different_sizes():
    with pytest.raises(ValueError, match=r"one shape; got \(2, 5\) and \(3, 4\)"):
        kl_divergence(PRIORS[3].make(), PRIORS[5].make())
    with pytest.raises(ValueError, match=r"one shape; got \(2, 3\) and \(1, 2\)"):
        kl_divergence(PRIORS[0].make(), PRIORS[1].make())


@pytest.mark.parametrize(
    "df, weight_mean, cov_mean, weight_var, cov_var, diagonal_var",
    [
        (1.5, "nan", "nan", "nan", "nan", "inf"),
        (2.5, "real", "nan", "inf", "nan", "inf"),
        (3.5, "real", "real", "real", "inf", "inf"),
        (5.5, "real", "real", "real", "real", "real"),
    ],
)
def test_moments_that_do_not_exist_or_are_infinite(
    df, weight_mean, cov_mean, weight_var, cov_var, diagonal_var
):
    """D = 2: means of weight and covariance from df > 2, 3; variances > 3, 5."""
    is_a = {"nan": np.isnan, "inf": np.isposinf, "real": np.isfinite}
    made = PRIORS[0].make(df=df)
    mean, variance = np.asarray(made.mean), np.asarray(made.variance)
    assert np.all(is_a[weight_mean](mean[:, 0]))
    assert np.all(is_a[cov_mean](mean[:, 1:]))
    assert np.all(is_a[weight_var](variance[:, 0]))
    assert np.all(is_a[cov_var](variance[[0, 1], [2, 1]]))
    assert np.all(is_a[diagonal_var](variance[[0, 1], [1, 2]]))
