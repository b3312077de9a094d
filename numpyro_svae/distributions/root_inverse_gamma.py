# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Powers of a Gamma: the posteriors of variances and of standard deviations."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
from jax.scipy.special import gammaln
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import PowerTransform

__all__ = ["RootInverseGamma", "is_power_of_gamma", "power_of_gamma"]


class RootInverseGamma(dist.TransformedDistribution):
    r"""The distribution of a standard deviation :math:`\sigma` whose precision
    :math:`\sigma^{-2}` is a Gamma.

    :param concentration: of the Gamma.
    :param rate: of the Gamma.
    """

    arg_constraints = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    reparametrized_params = ["concentration", "rate"]
    support = constraints.positive

    def __init__(
        self, concentration: Any, rate: Any, *, validate_args: bool | None = None
    ) -> None:
        precision = dist.Gamma(concentration, rate)
        self.concentration, self.rate = precision.concentration, precision.rate
        super().__init__(precision, PowerTransform(-0.5), validate_args=validate_args)

    @property
    def mean(self) -> Array:
        return self._moment(1)

    @property
    def variance(self) -> Array:
        second, mean = self._moment(2), self._moment(1)
        finite = jnp.isfinite(second)
        return jnp.where(finite, second - jnp.where(finite, mean, 0.0) ** 2, jnp.inf)

    def _moment(self, order: int) -> Array:
        """``E sigma^n``, infinite where the precision may be too small."""
        left = self.concentration - 0.5 * order
        known = jnp.where(left > 0, left, 1.0)
        log = gammaln(known) - gammaln(self.concentration)
        value = jnp.exp(log + 0.5 * order * jnp.log(self.rate))
        return jnp.where(left > 0, value, jnp.inf)


_FAMILIES: dict[int, Any] = {
    1: dist.Gamma,
    -1: dist.InverseGamma,
    -2: RootInverseGamma,
}


def power_of_gamma(power: int, concentration: Array, rate: Array) -> dist.Distribution:
    """The distribution of a value of which a power is a Gamma.

    :param power: 1, -1 or -2.
    :param concentration: of the Gamma.
    :param rate: of the Gamma.
    """
    return _FAMILIES[power](concentration, rate)


def is_power_of_gamma(power: int, fn: Any) -> bool:
    """Whether a distribution is of values of which a power is a Gamma."""
    return isinstance(fn, _FAMILIES[power])
