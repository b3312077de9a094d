# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of draws, and of rates, against what came.

**References:** T. Gneiting and A. Raftery, *Strictly proper scoring rules, prediction,
and estimation*, Journal of the American Statistical Association 102 (2007). F. Pei et
al., *Neural Latents Benchmark '21*, NeurIPS Datasets and Benchmarks 2021, of the bits
per spike.
"""

from __future__ import annotations

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

__all__ = ["bits_per_spike", "coverage", "crps"]


def bits_per_spike(
    rates: ArrayLike, counts: ArrayLike, constant: ArrayLike | None = None
) -> Array:
    r"""What rates tell of Poisson counts beyond constant rates, in bits by spike.

    :math:`\sum [y \log(\lambda / \bar\lambda) - (\lambda - \bar\lambda)] / (\log 2
    \sum y)`, as in the Neural Latents Benchmark. Zero is as good as constant rates;
    higher is better.

    :param rates: expected counts in each bin, ``(..., N)`` for ``N`` neurons, such as
        the mean of the draws of :func:`impute` of neurons that are masked, which is
        co-smoothing.
    :param counts: what was counted, ``(..., N)``; NaN where nothing was.
    :param constant: rates in each bin to compare with, ``(N,)`` or a shape that counts
        have; by default the mean of the counts of each neuron.
    :return: a number.
    :raises ValueError: if the shapes do not fit, or there is no spike.
    """
    rates, counts = jnp.asarray(rates), jnp.asarray(counts, float)
    if rates.shape != counts.shape or not counts.ndim:
        raise ValueError(
            f"rates: found shape {rates.shape} for counts of shape {counts.shape}. "
            "Accepted: one rate for each count, (..., neurons)."
        )
    seen = ~jnp.isnan(counts)
    counts = jnp.where(seen, counts, 0.0)
    bins = tuple(range(counts.ndim - 1))
    total = jnp.sum(counts)
    if not isinstance(total, jax.core.Tracer) and total == 0:
        raise ValueError("counts: found no spike; accepted are counts with some.")
    if constant is None:
        constant = jnp.sum(counts, bins) / jnp.maximum(jnp.sum(seen, bins), 1)
    constant = jnp.broadcast_to(jnp.asarray(constant), counts.shape)
    gained = xlogy(counts, rates) - xlogy(counts, constant) - (rates - constant)
    return jnp.sum(jnp.where(seen, gained, 0.0)) / (total * jnp.log(2.0))


def crps(draws: ArrayLike, observed: ArrayLike) -> Array:
    r"""Continuous ranked probability score of each entry; lower is better.

    :math:`E|Y - y| - \frac12 E|Y - Y'|` for independent draws :math:`Y, Y'` of the
    forecast, without bias in their number (by probability-weighted moments, without
    all pairs of draws). It has the unit of the data.

    :param draws: of shape ``(num_samples, ...)``, as :func:`forecast` returns them.
    :param observed: what came, ``(...)``; NaN where that is missing.
    :return: of shape ``(...)``, NaN where nothing was observed.
    :raises ValueError: if the shapes do not fit.
    """
    import scoringrules

    draws, observed = _checked(draws, observed)
    found = scoringrules.crps_ensemble(
        observed, draws, m_axis=0, estimator="pwm", backend="jax"
    )
    return jnp.asarray(found)


def coverage(draws: ArrayLike, observed: ArrayLike, probability: float) -> Array:
    """Whether central intervals of the draws contain what came.

    The share of true entries is ``probability`` where forecasts are calibrated.

    :param draws: of shape ``(num_samples, ...)``.
    :param observed: what came, ``(...)``.
    :param probability: of the intervals, such as 0.9 for those between the quantiles
        0.05 and 0.95.
    :return: booleans ``(...)``; their mean is the coverage.
    :raises ValueError: if the shapes do not fit, or it is no probability.
    """
    draws, observed = _checked(draws, observed)
    if not 0 < probability < 1:
        raise ValueError(
            f"probability: found {probability}; accepted are numbers between 0 and 1."
        )
    missing = not isinstance(observed, jax.core.Tracer) and jnp.isnan(observed).sum()
    if missing:
        raise ValueError(
            f"observed: found {missing} values that are NaN, which are neither within "
            "an interval nor outside. Accepted: what was observed alone, "
            "coverage(draws[:, seen], observed[seen], probability)."
        )
    tail = 0.5 * (1 - probability)
    low, high = jnp.quantile(draws, jnp.array([tail, 1 - tail]), axis=0)
    return (low <= observed) & (observed <= high)


def _checked(draws: ArrayLike, observed: ArrayLike) -> tuple[Array, Array]:
    draws, observed = jnp.asarray(draws), jnp.asarray(observed)
    if draws.ndim < 1 or draws.shape[1:] != observed.shape or len(draws) < 2:
        raise ValueError(
            f"draws: found shape {draws.shape} for observations of shape "
            f"{observed.shape}. Accepted: (num_samples, *observed.shape), with two "
            "samples or more."
        )
    dtype = jnp.result_type(draws, observed, float)
    return draws.astype(dtype), observed.astype(dtype)
