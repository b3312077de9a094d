# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Covariances as correlations and scales, against closed forms and quadrature."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.families import RegressionNatural
from numpyro_svae.families.free_covariance import (
    closest_inverse_wishart,
    free_covariance_kl,
)
from tests.data import make_svi, steps

Y = np.random.default_rng(0).standard_normal((25, 2)) @ np.array([[1.0, 0.8], [0, 2]])


def natural(scale, df):
    empty = jnp.zeros((*scale.shape[:-1], 0)), jnp.zeros((*scale.shape[:-2], 0, 0))
    return RegressionNatural(jnp.asarray(scale), *empty, jnp.asarray(df))


def test_an_inverse_wishart_sends_its_closed_form(x64):
    scale = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]])
    posterior = natural(np.stack([8 * scale, scale]), np.array([9.0, 5.0]))
    prior = dist.InverseWishart(7.0, scale_matrix=2 * jnp.eye(3))

    def density(prior, cov):
        return prior.log_prob(cov)

    message = closest_inverse_wishart(density, posterior, prior)
    own = natural(np.stack([2 * np.eye(3)] * 2), np.array([7.0, 7.0]))
    np.testing.assert_allclose(message.vv, own.vv, atol=1e-10)
    np.testing.assert_allclose(message.df, own.df, rtol=1e-10)
    found = free_covariance_kl(density, posterior, prior)
    np.testing.assert_allclose(found, posterior.kl(own), rtol=1e-10)


def program(rooted, event, prior=None):
    scales = (prior or dist.HalfCauchy(1.0)).expand([2])
    scales = scales.to_event(1) if event else scales

    def model():
        sigma = numpyro.sample("sigma", scales)
        if rooted:
            root = numpyro.sample("omega", dist.LKJCholesky(2, 2.0))
            fn = dist.MultivariateNormal(scale_tril=sigma[:, None] * root)
        else:
            omega = numpyro.sample("omega", dist.LKJ(2, 2.0))
            fn = dist.MultivariateNormal(
                covariance_matrix=sigma[:, None] * omega * sigma
            )
        with numpyro.plate("data", len(Y)):
            numpyro.sample("y", fn, obs=Y)

    return model


@pytest.mark.parametrize(("rooted", "event"), [(True, False), (False, True)])
def test_the_posterior_that_quadrature_finds(rooted, event, x64):
    model = program(rooted, event)
    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=0.5), 40)
    assert "Correlation of 'omega', 'sigma', whose prior is not" in str(guide.structure)
    logs, part = np.linspace(-1.5, 2.0, 90), np.linspace(-0.95, 0.95, 90)
    first, second, rho = np.meshgrid(np.exp(logs), np.exp(logs), part, indexing="ij")
    cross = rho * first * second
    cov = np.stack(
        [np.stack([first**2, cross], -1), np.stack([cross, second**2], -1)], -2
    )
    squares = np.trace(np.linalg.solve(cov, Y.T @ Y), axis1=-2, axis2=-1)
    density = -0.5 * squares - 0.5 * len(Y) * np.linalg.slogdet(2 * np.pi * cov)[1]
    half = dist.HalfCauchy(1.0)
    density = density + half.log_prob(first) + half.log_prob(second)
    density = density + np.log(first * second)
    roots = np.zeros(cov.shape)
    roots[..., 0, 0], roots[..., 1, 0] = 1.0, rho
    roots[..., 1, 1] = np.sqrt(1 - rho**2)
    density = density + dist.LKJCholesky(2, 2.0).log_prob(roots)  # of rho, for two
    cell = (logs[1] - logs[0]) ** 2 * (part[1] - part[0])
    evidence = jax.nn.logsumexp(density) + np.log(cell)
    weights = np.exp(density - jax.nn.logsumexp(density))
    assert 0 < losses[-1] + evidence < 0.05
    keys = random.PRNGKey(0)
    drawn = guide.sample_posterior(keys, params, sample_shape=(8000,))
    own = {
        "sigma": (first, drawn["sigma"][:, 0]),
        "rho": (rho, drawn["omega"][:, 1, 0]),
    }
    for grid, draws in own.values():
        mean = np.sum(weights * grid)
        sd = np.sqrt(np.sum(weights * (grid - mean) ** 2))
        np.testing.assert_allclose(np.mean(draws), mean, atol=0.06 * sd)
        np.testing.assert_allclose(np.std(draws), sd, rtol=0.08)


def test_components_of_a_mixture_have_a_covariance_each():
    def model(y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("components", 2):
            mean = dist.Normal(0.0, 5.0).expand([2]).to_event(1)
            loc = numpyro.sample("loc", mean)
            half = dist.HalfNormal(2.0).expand([2]).to_event(1)
            sigma = numpyro.sample("sigma", half)
            root = numpyro.sample("root", dist.LKJCholesky(2, 1.0))
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            tril = (sigma[..., None] * root)[z]
            fn = dist.MultivariateNormal(loc[z], scale_tril=tril)
            numpyro.sample("y", fn, obs=y)

    y = jnp.asarray(np.concatenate([Y[:12] - 6, 0.3 * Y[12:] + 6]), jnp.float32)
    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=0.5), 20, y)
    assert np.isfinite(losses).all()
    with handlers.seed(rng_seed=0):
        found = guide.median(params)
    assert found["root"].shape == (2, 2, 2)
    small, large = np.sort(np.prod(found["sigma"], -1))
    assert 3 * small < large


def test_bounds_of_scales_beside_correlations_are_refused_by_name():
    model = program(True, False, dist.Uniform(0.0, 5.0))
    match = "(?s)'sigma' .Uniform.*bounds.*'omega'.*HalfNormal"
    with pytest.raises(ValueError, match=match), handlers.seed(rng_seed=0):
        ns.AutoSVAE(model)()
