# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of a weight and a covariance together."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import ExpectedRegression, RegressionNatural
from numpyro_svae.families.matrices import has_cholesky
from numpyro_svae.program.priors.priors import Prior

__all__ = ["JointPrior", "wrong_regression"]


@dataclass(frozen=True)
class JointPrior(Prior):
    """A prior over the weight and the covariance of a regression.

    :param dim: D, the number of rows.
    :param columns: M, the number of regressors.
    :param vector: whether the weight is a vector, that is, a mean.
    """

    dim: int
    columns: int
    vector: bool

    accepted = (
        f"{Prior.accepted}; or two sites, of which that of the location may depend on "
        "global sites: Sigma ~ InverseWishart(df, scale_matrix) and mu ~ "
        "MultivariateNormal(top, Sigma / kappa), which are independent in the guide"
    )
    part = "both"
    has_noise = True
    """Whether it holds the covariance of a factor."""

    by_entry = False
    """Whether each entry of a response has a precision that is read by itself."""

    @abstractmethod
    def values(self, weight: Any, cov: Any) -> dict[str, Any]:
        """Site values for a weight ``(..., D, M)`` and a covariance ``(..., D, D)``."""

    @abstractmethod
    def pair(self, values: dict[str, Any]) -> tuple[Any, Any]:
        """The weight ``(..., D, M)`` and the covariance, from values by site."""

    @abstractmethod
    def regression(self, moments: Any, entries: Array | None) -> ExpectedRegression:
        """The regression that a factor is, from the moments of the block.

        :param entries: which entries of the response count, ``(..., D)``; None for all.
        """

    @abstractmethod
    def whole(self, natural: Any) -> RegressionNatural:
        """Natural parameters with a full covariance, to find a start with."""

    @abstractmethod
    def of_whole(self, start: RegressionNatural) -> Any:
        """Natural parameters of the block, from those with a full covariance."""

    def covers(self, dim: int) -> bool:
        """Whether its covariance can be that of D dimensions."""
        return self.dim == dim

    def fault(self, natural: RegressionNatural) -> str | None:
        fine = natural.in_domain()
        return None if fine else wrong_regression(self.sites[0], self.name, natural)

    def basis_pair(self, column: Any) -> tuple[Any, Any]:
        """A weight that copies a regressor to entry 0, a covariance that counts.

        Under it the location of a factor shows the chosen regressor, and its
        covariance shows which member of the batch was picked.
        """
        row = np.eye(self.dim, 1)
        shape = (*self.batch_shape, self.dim)
        count = 1.0 + np.arange(self.components or 1)
        cov = (count[:, None, None] * np.eye(self.dim)).reshape(*shape, self.dim)
        if isinstance(column, int):
            chosen = row * (np.arange(self.columns) == column)
            return np.broadcast_to(chosen, (*shape, self.columns)), cov
        chosen = row * (jnp.arange(self.columns) == column)
        return jnp.broadcast_to(chosen, (*shape, self.columns)), jnp.asarray(cov)

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        return self.values(*self.basis_pair(column))

    def unit_noise(self) -> dict[str, Any]:
        """Values with a weight of zero, at which all covariances are one."""
        shape = (*self.batch_shape, self.dim)
        cov = np.broadcast_to(np.eye(self.dim), (*shape, self.dim))
        return self.values(np.zeros((*shape, self.columns)), cov)


def wrong_regression(noise: str, name: str, natural: RegressionNatural) -> str:
    """What is wrong with the natural parameters of a regression or a covariance.

    :param noise: the site of the covariance.
    :param name: the site of the weight.
    """
    dim, lowest = natural.vv.shape[-1], np.min(natural.df)
    if not lowest > dim - 1:
        return (
            f"Site '{noise}': found {lowest} degrees of freedom for matrices of size "
            f"{dim}. Accepted: more than {dim - 1}."
        )
    part = "scale matrix"
    if not has_cholesky(natural.uu):
        part = "column precision (or the concentration)"
    return (
        f"Site '{name}': its {part} is not positive definite in {natural.vv.dtype}. "
        "Accepted: symmetric positive definite matrices, with a location that is not "
        "so far from zero that rounding hides the scale."
    )
