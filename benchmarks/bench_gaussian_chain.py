# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Smoothing in a Gaussian chain, and its gradient, beside dynamax and cuthbert.

Diagonal potentials that vary by step and sequence, float32. Smoothed means,
covariances, covariances of neighbours and the log normaliser; and the value and
gradient, with respect to potentials and dynamics, of the log normaliser and a function
of one posterior sample. Writes ``results/gaussian_chain.json`` and its table.
"""

from __future__ import annotations

import math
import sys

from cuthbert import filter as cuthbert_filter, smoother as cuthbert_smoother
from cuthbert.gaussian import kalman
from dynamax.linear_gaussian_ssm.inference import (
    lgssm_posterior_sample,
    lgssm_smoother,
    make_lgssm_params,
)
import jax
import jax.numpy as jnp
import numpy as np
import timing

import numpyro_svae as ns

SIZES = [(64, 100, 4), (64, 100, 8), (1, 1000, 4), (16, 1000, 8), (1, 10000, 8)]


def problem(batch: int, steps: int, dim: int) -> tuple[jax.Array, ...]:
    """Transition matrix, and locations and scales of potentials."""
    rng = np.random.default_rng(0)
    matrix = 0.99 * np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    loc = rng.normal(size=(batch, steps, dim))
    scale = rng.uniform(0.5, 1.5, size=loc.shape)
    return tuple(jnp.asarray(x, jnp.float32) for x in (matrix, loc, scale))


def ours(matrix, loc, scale):
    dim, steps = loc.shape[-1], loc.shape[-2]
    eye = jnp.eye(dim)
    chain = ns.LinearGaussianChain(
        jnp.zeros(dim), eye, matrix, 0.1 * eye, num_steps=steps, validate_args=False
    )
    return chain.condition(ns.GaussianPotential.from_loc_scale(loc, scale))


def our_moments(matrix, loc, scale):
    posterior, log_normalizer = ours(matrix, loc, scale)
    cross = jnp.swapaxes(posterior.neighbor_covariance, -1, -2)
    return posterior.mean, posterior.covariance, cross, log_normalizer


def our_value(matrix, loc, scale):
    posterior, log_normalizer = ours(matrix, loc, scale)
    path = posterior.sample(jax.random.key(0))
    return jnp.sum(log_normalizer) + jnp.mean(jnp.sin(path))


def parameters(matrix, scale):
    eye = jnp.eye(matrix.shape[0])
    noise = jax.vmap(jnp.diag)(scale**2)
    return make_lgssm_params(jnp.zeros(len(eye)), eye, matrix, 0.1 * eye, eye, noise)


def log_constant(loc, scale):
    """What a likelihood has more than the potential of the same location."""
    terms = 0.5 * (loc / scale) ** 2 + jnp.log(scale) + 0.5 * math.log(2 * math.pi)
    return jnp.sum(terms, (-1, -2))


def dynamax_moments(matrix, loc, scale):
    def smooth(y, scale):
        found = lgssm_smoother(parameters(matrix, scale), y)
        mean, cov = found.smoothed_means, found.smoothed_covariances
        # Its cross terms are second moments, not covariances.
        cross = found.smoothed_cross_covariances
        cross = cross - mean[:-1, :, None] * mean[1:, None]
        return mean, cov, cross, found.marginal_loglik

    *moments, value = jax.vmap(smooth)(loc, scale)
    return *moments, value + log_constant(loc, scale)


def dynamax_value(matrix, loc, scale):
    def draw(key, y, scale):
        params = parameters(matrix, scale)
        found = lgssm_smoother(params, y)
        return lgssm_posterior_sample(key, params, y), found.marginal_loglik

    keys = jax.random.split(jax.random.key(0), len(loc))
    path, value = jax.vmap(draw)(keys, loc, scale)
    value = jnp.sum(value + log_constant(loc, scale))
    return value + jnp.mean(jnp.sin(path))


def cuthbert(matrix, loc, scale):
    """Filtered and smoothed states; its steps in order, which is faster on a CPU."""
    eye, zeros = jnp.eye(len(matrix)), jnp.zeros(len(matrix))
    # Its initial state is not observed: the step from it forgets it.
    first = jnp.arange(len(loc)) == 0
    inputs = loc, scale, first

    def dynamics(inputs):
        first = inputs[2]
        noise = jnp.where(first, 1.0, math.sqrt(0.1)) * eye
        return jnp.where(first, 0.0, matrix), zeros, noise

    def observation(inputs):
        y, scale, _ = inputs
        return eye, zeros, jnp.diag(scale), y

    forward = kalman.build_filter(zeros, eye, dynamics, observation)
    backward = kalman.build_smoother(
        dynamics, store_gain=True, store_chol_cov_given_next=True
    )
    filtered = cuthbert_filter(forward, inputs, forward.init_prepare())
    return filtered, cuthbert_smoother(backward, filtered)


def cuthbert_moments(matrix, loc, scale):
    def smooth(y, scale):
        filtered, smoothed = cuthbert(matrix, y, scale)
        cov = smoothed.chol_cov @ smoothed.chol_cov.mT
        cross = smoothed.gain[1:-1] @ cov[2:]
        return smoothed.mean[1:], cov[1:], cross, filtered.log_normalizing_constant[-1]

    *moments, value = jax.vmap(smooth)(loc, scale)
    return *moments, value + log_constant(loc, scale)


def cuthbert_value(matrix, loc, scale):
    def draw(key, y, scale):
        filtered, smoothed = cuthbert(matrix, y, scale)
        noise = jax.random.normal(key, y.shape)

        def step(x, given):
            mean, gain, spread, noise = given
            x = mean + gain @ (x - matrix @ mean) + spread @ noise
            return x, x

        last = filtered.mean[-1] + filtered.chol_cov[-1] @ noise[-1]
        given = filtered.mean, smoothed.gain, smoothed.chol_cov_given_next
        given = *(x[1:-1] for x in given), noise[:-1]
        _, path = jax.lax.scan(step, last, given, reverse=True)
        path = jnp.concatenate([path, last[None]])
        return path, filtered.log_normalizing_constant[-1]

    keys = jax.random.split(jax.random.key(0), len(loc))
    path, value = jax.vmap(draw)(keys, loc, scale)
    return jnp.sum(value + log_constant(loc, scale)) + jnp.mean(jnp.sin(path))


def gradient(value):
    return jax.value_and_grad(value, (0, 1, 2))


def main(sizes: list[tuple[int, int, int]]) -> None:
    rows = []
    for size in sizes:
        args = problem(*size)
        ways = {
            "numpyro_svae": (our_moments, args),
            "dynamax": (dynamax_moments, args),
            "cuthbert": (cuthbert_moments, args),
        }
        rows += timing.compare(f"moments {size}", ways)
        ways = {
            "numpyro_svae": (gradient(our_value), args),
            "dynamax": (gradient(dynamax_value), args),
            "cuthbert": (gradient(cuthbert_value), args),
        }
        rows += timing.compare(f"gradient {size}", ways)
        print(*rows[-6:], sep="\n", flush=True)
    timing.write("gaussian_chain", rows)


if __name__ == "__main__":
    main(SIZES[: int(sys.argv[1])] if len(sys.argv) > 1 else SIZES)
