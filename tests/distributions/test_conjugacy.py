# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Natural parameters, conjugate updates and predictive distributions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import MultivariateStudentT
import pytest
from scipy import stats

from numpyro_svae.distributions import MatrixNormalInverseWishart, NormalInverseWishart
from numpyro_svae.distributions.constraints import unpack
from numpyro_svae.families import RegressionNatural
from tests.distributions.cases import PRIORS, Case, draws, log_prob, spd
from tests.distributions.test_battery_numbers import assert_mean_of
from tests.distributions.test_battery_transforms import assert_same

pytestmark = pytest.mark.x64

every_prior = pytest.mark.parametrize("case", PRIORS, ids=lambda case: case.name)

RANDOM = np.random.default_rng(30)


def statistics(v: np.ndarray, u: np.ndarray) -> RegressionNatural:
    """Summed over the observations."""
    each = RegressionNatural.observe(jnp.asarray(v), jnp.asarray(u))
    return jax.tree.map(lambda x: x.sum(0), each)


def sufficient(value: np.ndarray) -> RegressionNatural:
    """The statistics t(F, Sigma), with NumPy."""
    weight, cov = unpack(value)
    precision = np.linalg.solve(cov, np.broadcast_to(np.eye(cov.shape[-1]), cov.shape))
    cross = precision @ weight
    quadratic = np.swapaxes(weight, -1, -2) @ cross
    log_det = np.linalg.slogdet(cov)[1]
    return RegressionNatural(-0.5 * precision, cross, -0.5 * quadratic, -0.5 * log_det)


@every_prior
def test_natural_parameters_there_and_back(case: Case):
    made = case.make()
    natural = made.natural_parameters
    assert natural.batch_shape == made.batch_shape
    again = type(made).from_natural_parameters(natural)
    assert again.batch_shape == made.batch_shape
    for name in made.get_args():
        actual, expected = getattr(again, name), getattr(made, name)
        actual = np.broadcast_arrays(actual, expected)[0]
        np.testing.assert_allclose(
            actual, np.broadcast_to(expected, actual.shape), rtol=1e-10, atol=1e-12
        )
    for x, y in zip(
        jax.tree.leaves(again.natural_parameters),
        jax.tree.leaves(natural),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


@every_prior
def test_density_is_that_of_the_exponential_family(case: Case):
    """log p = <eta, t> - A(eta) - (D + 1 + M)/2 log|Sigma|."""
    made, values = case.make(), draws(case)[:5]
    natural = made.natural_parameters
    width = made.event_shape[1]
    expected = jnp.stack(
        [
            natural.inner(t) - natural.log_normalizer() + (1 + width) * t.df
            for t in map(sufficient, values)
        ]
    )
    np.testing.assert_allclose(log_prob(made, values), expected, rtol=1e-9, atol=1e-9)


@every_prior
def test_expected_statistics_equal_those_of_samples(case: Case):
    expected = case.make().expected_statistics
    sampled = sufficient(draws(case))
    for name in ("vv", "vu", "uu", "df"):
        assert_mean_of(getattr(sampled, name), getattr(expected, name))


def test_niw_posterior_is_that_of_the_textbook():
    prior = PRIORS[0].make()
    loc, kappa, df = (np.asarray(x) for x in (prior.loc, prior.concentration, prior.df))
    data = RANDOM.normal(size=(7, 2)) + 1.0
    posterior = prior.posterior(statistics(data, np.ones((7, 1))))
    mean, total = data.mean(0), kappa + 7
    shift = mean - loc
    scatter = (data - mean).T @ (data - mean)
    scale = prior.scale_matrix + scatter + kappa * 7 / total * np.outer(shift, shift)
    expected = NormalInverseWishart(
        (kappa * loc + 7 * mean) / total, total, df + 7, scale
    )
    assert_same(posterior, expected, rtol=1e-10)


def test_mniw_posterior_is_that_of_the_textbook():
    prior = PRIORS[3].make()
    loc, precision = np.asarray(prior.loc), np.asarray(prior.column_precision)
    v, u = RANDOM.normal(size=(9, 2)), RANDOM.normal(size=(9, 3))
    posterior = prior.posterior(statistics(v, u))
    column_precision = precision + u.T @ u
    weight = np.linalg.solve(column_precision, (loc @ precision + v.T @ u).T).T
    residual, shift = v - u @ weight.T, weight - loc
    scale = prior.scale_matrix + residual.T @ residual + shift @ precision @ shift.T
    expected = MatrixNormalInverseWishart(weight, column_precision, prior.df + 9, scale)
    assert_same(posterior, expected, rtol=1e-10)


def test_posterior_in_two_steps_and_in_batches():
    prior = PRIORS[3].make()
    v, u = RANDOM.normal(size=(6, 2)), RANDOM.normal(size=(6, 3))
    twice = prior.posterior(statistics(v[:2], u[:2])).posterior(
        statistics(v[2:], u[2:])
    )
    assert_same(twice, prior.posterior(statistics(v, u)), rtol=1e-10)
    each = RegressionNatural.observe(jnp.asarray(v), jnp.asarray(u))
    assert prior.posterior(each).batch_shape == (6,)


def test_posterior_density_is_prior_times_likelihood():
    prior, value = PRIORS[3].make(), draws(PRIORS[3])[:4]
    v, u = RANDOM.normal(size=(5, 2)), RANDOM.normal(size=(5, 3))
    likelihood = [
        sum(
            stats.multivariate_normal(weight @ u[n], cov).logpdf(v[n]) for n in range(5)
        )
        for weight, cov in zip(*unpack(value), strict=True)
    ]
    posterior = prior.posterior(statistics(v, u))
    joint = np.asarray(log_prob(prior, value)) + likelihood
    evidence = joint - np.asarray(log_prob(posterior, value))
    np.testing.assert_allclose(evidence, evidence[0], rtol=1e-9)


def test_predictive_is_prior_evidence_of_one_observation():
    """p(v | u) = p(v | theta, u) p(theta) / p(theta | v, u), for any theta."""
    prior = PRIORS[3].make()
    u, v = RANDOM.normal(size=3), RANDOM.normal(size=2)
    value = draws(PRIORS[3])[0]
    weight, cov = unpack(value)
    posterior = prior.posterior(statistics(v[None], u[None]))
    expected = (
        stats.multivariate_normal(weight @ u, cov).logpdf(v)
        + log_prob(prior, value)
        - log_prob(posterior, value)
    )
    predictive = prior.posterior_predictive(u)
    assert isinstance(predictive, MultivariateStudentT)
    np.testing.assert_allclose(predictive.log_prob(v), expected, rtol=1e-9)
    dof = float(prior.df) - 1
    columns = u @ np.linalg.solve(np.asarray(prior.column_precision), u)
    shape = (1 + columns) / dof * np.asarray(prior.scale_matrix)
    scipy = stats.multivariate_t(prior.loc @ u, shape, df=dof)
    np.testing.assert_allclose(predictive.log_prob(v), scipy.logpdf(v), rtol=1e-9)


def test_niw_predictive_equals_samples():
    prior, values = PRIORS[0].make(), draws(PRIORS[0])
    mean, cov = prior.unpack(values)
    noise = RANDOM.normal(size=mean.shape)
    sampled = mean + (np.linalg.cholesky(cov) @ noise[..., None])[..., 0]
    predictive = prior.posterior_predictive()
    assert float(predictive.df) == 11.0
    assert_mean_of(np.asarray(sampled), predictive.mean)
    centred = np.square(sampled - np.asarray(predictive.mean))
    assert_mean_of(np.asarray(centred), predictive.variance)


def test_shapes_of_predictives():
    batched = PRIORS[2].make().posterior_predictive()
    assert (batched.batch_shape, batched.event_shape) == ((2, 3), (2,))
    mniw = PRIORS[3].make()
    many = mniw.posterior_predictive(np.ones((4, 5, 3)))
    assert (many.batch_shape, many.event_shape) == ((4, 5), (2,))
    np.testing.assert_allclose(
        many.log_prob(jnp.zeros(2)),
        np.full((4, 5), mniw.posterior_predictive(np.ones(3)).log_prob(jnp.zeros(2))),
    )


def test_niw_is_mniw_with_one_regressor():
    niw = PRIORS[0].make()
    mniw = MatrixNormalInverseWishart(
        niw.loc[:, None], niw.concentration[None, None], niw.df, niw.scale_matrix
    )
    value = draws(PRIORS[0])[:3]
    np.testing.assert_allclose(log_prob(niw, value), log_prob(mniw, value), rtol=1e-12)
    for moment in ("mean", "mode", "variance"):
        np.testing.assert_allclose(getattr(niw, moment), getattr(mniw, moment))
    np.testing.assert_allclose(niw.entropy(), mniw.entropy())
    key = jax.random.key(3)
    np.testing.assert_allclose(niw.sample(key), mniw.sample(key), rtol=1e-12)


@every_prior
def test_pack_and_unpack(case: Case):
    made, value = case.make(), jnp.asarray(draws(case)[0])
    parts = made.unpack(value)
    dim = made.event_shape[0]
    assert parts[0].shape == made.batch_shape + case.params["loc"].shape[-1:] or (
        parts[0].shape == made.batch_shape + case.params["loc"].shape[-2:]
    )
    assert parts[1].shape == (*made.batch_shape, dim, dim)
    np.testing.assert_array_equal(made.pack(*parts), value)
    broadcast = made.pack(parts[0], jnp.asarray(spd(31, dim)))
    assert broadcast.shape == value.shape


@pytest.mark.parametrize("df", [1.01, 1.5, 2.0, 1e4])
def test_samples_and_gradients_are_finite_at_the_edge_of_the_domain(df):
    """D = 2, so df > 1; in float32, where heavy tails overflow first."""
    with jax.enable_x64(False):
        case = PRIORS[0]
        params = {name: jnp.float32(x) for name, x in case.params.items()}

        @jax.jit
        def total(params):
            sample = case.make(**params).rsample(jax.random.key(4), (2_000,))
            return jnp.tanh(sample).sum(), sample

        (_, sample), gradient = jax.value_and_grad(total, has_aux=True)(
            {**params, "df": jnp.float32(df)}
        )
        assert np.isfinite(sample).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
