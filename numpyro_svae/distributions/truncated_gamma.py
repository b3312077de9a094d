# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Powers of a truncated Gamma: the posteriors of scales whose prior has bounds."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from numpyro_svae.families.gamma_nodes import GammaNodes, gamma_nodes, log_range
from numpyro_svae.families.truncated_gamma import LogBounds, TruncatedGammaNatural

__all__ = ["PowerOfTruncatedGamma"]

_CELLS, _FLAT = 1024, 1e-3


class PowerOfTruncatedGamma(dist.Distribution):
    r"""The distribution of a value x of which a power :math:`x^p` is a Gamma that has
    been truncated to an interval.

    Draws are those of a density that is log-linear between 1,024 points of the
    logarithm; the density and the moments are exact.

    :param concentration: of the Gamma, of any sign if the interval begins above zero.
    :param rate: of the Gamma, zero for a power law.
    :param power: p, 1 for precisions, -1 for variances, -2 for standard deviations.
    :param bounds: of the logarithm of the power.
    """

    arg_constraints = {
        "concentration": constraints.real,
        "rate": constraints.nonnegative,
    }
    reparametrized_params = ["concentration", "rate"]
    pytree_data_fields = ("concentration", "rate")
    pytree_aux_fields = ("power", "bounds")

    def __init__(
        self,
        concentration: Any,
        rate: Any,
        power: int,
        bounds: LogBounds,
        *,
        validate_args: bool | None = None,
    ) -> None:
        both = jnp.broadcast_arrays(jnp.asarray(concentration), jnp.asarray(rate))
        self.concentration, self.rate = both
        self.power, self.bounds = power, bounds
        super().__init__(jnp.shape(both[0]), validate_args=validate_args)

    @property
    def natural_parameters(self) -> TruncatedGammaNatural:
        """Those of the Gamma."""
        return TruncatedGammaNatural(
            concentration=self.concentration, rate=self.rate, bounds=self.bounds
        )

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The values between those of the bounds."""
        ends = (jnp.exp(x / self.power) for x in self.natural_parameters.log_bounds)
        first, second = ends
        low, high = (first, second) if self.power > 0 else (second, first)
        return constraints.interval(low, high)

    def log_prob(self, value: Array) -> Array:
        """The log density of a value; minus infinity outside of the bounds."""
        natural, size = self.natural_parameters, jnp.abs(self.power)
        x = self.power * jnp.log(value)
        low, high = natural.log_bounds
        found = self.concentration * x - self.rate * jnp.exp(x) + jnp.log(size)
        found = found - jnp.log(value) - natural.log_normalizer()
        slack = 4 * jnp.finfo(x.dtype).eps * (1 + jnp.abs(x))
        return jnp.where((x >= low - slack) & (x <= high + slack), found, -jnp.inf)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw values, by the inverse of the distribution function.

        :param key: random key.
        :param sample_shape: how many.
        :return: ``sample_shape + batch_shape``.
        """
        shape = sample_shape + self.batch_shape
        unit = random.uniform(key, shape, self.concentration.dtype)
        logs = _inverse_cdf(self.natural_parameters, unit)
        return jnp.exp(logs / self.power)

    @property
    def mean(self) -> Array:
        """The mean."""
        return self._finite(1, self._values[1])

    @property
    def variance(self) -> Array:
        """The variance."""
        nodes, mean, values = self._values
        return self._finite(2, nodes.mean((values - mean) ** 2))

    @property
    def _values(self) -> tuple[GammaNodes, Array, Array]:
        nodes = gamma_nodes(self.natural_parameters)
        values = jnp.exp(nodes.logs / self.power)
        return nodes, nodes.mean(values), values

    def _finite(self, order: int, moment: Array) -> Array:
        """A moment, infinite where the density of large values falls too slowly."""
        low, _ = self.natural_parameters.log_bounds
        left = self.concentration + order / self.power
        return jnp.where((left > 0) | jnp.isfinite(low), moment, jnp.inf)


def _inverse_cdf(natural: TruncatedGammaNatural, unit: Array) -> Array:
    """Logarithms of a truncated Gamma, from numbers in (0, 1).

    :param unit: of shape ``(*sample, *batch)``.
    """
    rank = natural.concentration.ndim
    center, left, right = log_range(natural)
    grid = jnp.linspace(0.0, 1.0, _CELLS + 1, dtype=unit.dtype)
    grid = grid.reshape(-1, *(1,) * rank)
    steps = grid * (left + right) - left
    c = natural.rate * jnp.exp(center)
    logs = (natural.concentration - c) * steps - c * (jnp.expm1(steps) - steps)
    rises = jnp.diff(logs, axis=0)
    apart = jnp.abs(rises) > _FLAT
    known = jnp.where(apart, rises, 1.0)
    mass = jnp.exp(logs[:-1]) * jnp.where(apart, jnp.expm1(known) / known, 1.0)
    ends = jnp.cumsum(mass, 0) / jnp.sum(mass, 0)
    flat = ends.reshape(_CELLS, -1)
    asked = unit.reshape(-1, flat.shape[-1])
    cells = jax.vmap(jnp.searchsorted, (1, 1), 1)(flat, asked)
    cells = jnp.minimum(cells, _CELLS - 1).reshape(unit.shape)

    def at(values: Array) -> Array:
        wide = jnp.broadcast_to(values, (len(values), *ends.shape[1:]))
        columns = wide.reshape(len(values), -1)
        found = jnp.take_along_axis(columns, cells.reshape(asked.shape), 0)
        return found.reshape(unit.shape)

    share, rise = at(mass / jnp.sum(mass, 0)), at(rises)
    part = jnp.clip((unit - (at(ends) - share)) / share, 0.0, 1.0)
    flat_cell = jnp.abs(rise) <= _FLAT
    known = jnp.where(flat_cell, 1.0, rise)
    part = jnp.where(flat_cell, part, jnp.log1p(part * jnp.expm1(known)) / known)
    return center + at(steps[:-1]) + part * at(jnp.diff(steps, axis=0))
