# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of a program: the conjugate priors and how they are spelled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any

from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.distributions import (
    MatrixNormalInverseWishart,
    NormalInverseWishart,
)
from numpyro_svae.families import (
    DirichletNatural,
    ExpectedRegression,
    NaturalParameters,
    RegressionNatural,
    expected,
)
from numpyro_svae.program.sites import Site

__all__ = ["DirichletPrior", "Prior", "RegressionPrior", "TablePrior"]


@dataclass(frozen=True)
class Prior(ABC):
    """A global block: one conjugate family, spelled as one site or as two.

    :param name: name of the block, that of its (last) site.
    :param sites: names of its sites, in program order.
    :param batch_shape: batch shape of its sites: ``()`` or ``(K,)``.
    """

    name: str
    sites: tuple[str, ...]
    batch_shape: tuple[int, ...]

    @property
    def components(self) -> int | None:
        """How many members the batch has; None without a batch."""
        return self.batch_shape[0] if self.batch_shape else None

    @property
    def features(self) -> tuple[int, ...]:
        """The event dimensions of an observation that one member covers."""
        return ()

    def moments(self, natural: Any) -> Any:
        """What factors read of the block, with its natural gradient."""
        return expected(natural)

    @abstractmethod
    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random value of each site, for probing."""

    @abstractmethod
    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        """The value of each site that data are read at.

        :param column: the regressor to show, for a prior over weights.
        """

    @abstractmethod
    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        """Natural parameters of the prior.

        :param sites: the sites of a run at :meth:`plain_values`.
        """

    @abstractmethod
    def posterior(self, natural: Any) -> dist.Distribution:
        """The posterior distribution of the packed block."""

    @abstractmethod
    def unpack(self, value: Array) -> dict[str, Array]:
        """Values of the sites, from one of the packed block."""

    def log_stretch(self, values: dict[str, Array]) -> Array | float:
        """Log of the volume in the packed block for a volume in the sites."""
        return 0.0


class TablePrior(Prior):
    """A block of which parameters may have single entries: probabilities or rates."""

    size: int
    """How many entries hang together, as categories do."""

    normalised = True
    """Whether these sum to one."""

    @property
    def member_size(self) -> int:
        """Number of entries of one member of the batch."""
        return self.size * prod(self.features)

    @property
    def total(self) -> int:
        """Number of entries of all members."""
        return self.member_size * prod(self.batch_shape)

    @abstractmethod
    def values_of(self, rows: Any) -> dict[str, Any]:
        """The value of its site, from that of all entries, ``(-1, size)``."""

    @abstractmethod
    def rows_of(self, values: dict[str, Any]) -> np.ndarray:
        """The values of all entries, ``(-1, size)``, from that of its site."""


@dataclass(frozen=True)
class DirichletPrior(TablePrior):
    """A Dirichlet prior over probabilities.

    :param size: number of categories.
    :param kind: the class of its distribution.
    """

    size: int
    kind: type[dist.Dirichlet] = dist.Dirichlet

    def values_of(self, rows: Any) -> dict[str, Any]:
        return {self.name: rows.reshape(*self.batch_shape, self.size)}

    def rows_of(self, values: dict[str, Any]) -> np.ndarray:
        return np.reshape(values[self.name], (-1, self.size))

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        return {self.name: rng.dirichlet(np.ones(self.size), self.batch_shape)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        rows = np.full((*self.batch_shape, self.size), 1.0 / self.size)
        return {self.name: rows}

    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        concentration = sites[self.name].fn.concentration
        return DirichletNatural(
            jnp.broadcast_to(concentration, (*self.batch_shape, self.size)) + 0.0
        )

    def posterior(self, natural: DirichletNatural) -> dist.Distribution:
        return self.kind(natural.concentration, validate_args=False)

    def unpack(self, value: Array) -> dict[str, Array]:
        return {self.name: value}


@dataclass(frozen=True)
class RegressionPrior(Prior):
    """A prior over a weight and a covariance, jointly or as two sites.

    :param dim: D, the number of rows.
    :param columns: M, the number of regressors.
    :param vector: whether the weight is a vector, that is, a mean.
    """

    dim: int
    columns: int
    vector: bool

    @property
    def packed(self) -> bool:
        """Whether the block is one site with a packed event."""
        return len(self.sites) == 1

    def values(self, weight: Any, cov: Any) -> dict[str, Any]:
        """Site values for a weight ``(..., D, M)`` and a covariance ``(..., D, D)``."""
        if self.packed:
            module = np if isinstance(cov, np.ndarray) else jnp
            return {self.name: module.concatenate([weight, cov], -1)}
        cov_site, weight_site = self.sites
        return {cov_site: cov, weight_site: weight[..., 0] if self.vector else weight}

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = (*self.batch_shape, self.dim)
        weight = rng.standard_normal((*shape, self.columns))
        root = rng.standard_normal((*shape, self.dim))
        cov = root @ np.swapaxes(root, -1, -2) + self.dim * np.eye(self.dim)
        return self.values(weight, cov)

    def pair(self, values: dict[str, Any]) -> tuple[Any, Any]:
        """The weight ``(..., D, M)`` and the covariance, from values by site."""
        if self.packed:
            value = values[self.name]
            return value[..., : self.columns], value[..., self.columns :]
        cov, weight = (values[name] for name in self.sites)
        return (weight[..., None] if self.vector else weight), cov

    def regression(
        self, moments: ExpectedRegression, entries: Array | None
    ) -> ExpectedRegression:
        """The regression that a factor is, from the moments of the block.

        :param entries: which entries of the response count, ``(..., D)``; None for all.
        """
        return moments

    def whole(self, natural: Any) -> RegressionNatural:
        """Natural parameters with a full covariance, to find a start with."""
        return natural

    def of_whole(self, start: RegressionNatural) -> Any:
        """Natural parameters of the block, from those with a full covariance."""
        return start

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

    @property
    def has_noise(self) -> bool:
        """Whether it holds the covariance of a factor."""
        return True

    def unit_noise(self) -> dict[str, Any]:
        """Values with a weight of zero, at which all covariances are one."""
        shape = (*self.batch_shape, self.dim)
        cov = np.broadcast_to(np.eye(self.dim), (*shape, self.dim))
        return self.values(np.zeros((*shape, self.columns)), cov)

    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        fn = sites[self.name].fn
        if self.packed:
            natural = fn.natural_parameters
        else:
            cov_fn = sites[self.sites[0]].fn
            scale_tril = cov_fn.base_dist.scale_tril
            loc, precision = self._conditional(fn)
            natural = RegressionNatural.from_standard(
                loc, precision, scale_tril, cov_fn.concentration
            )
        return _expand(natural, self.batch_shape)

    def _conditional(self, fn: dist.Distribution) -> tuple[Array, Array]:
        """Location and column precision of the weight's site."""
        if isinstance(fn, dist.MatrixNormal):
            tril = fn.scale_tril_column
            identity = jnp.broadcast_to(jnp.eye(self.columns), tril.shape)
            return fn.loc, cho_solve((tril, True), identity)
        count = 1.0 + jnp.arange(self.components or 1)
        count = jnp.reshape(count, self.batch_shape)
        concentration = count / fn.scale_tril[..., 0, 0] ** 2
        return fn.loc[..., None], concentration[..., None, None]

    def posterior(self, natural: RegressionNatural) -> dist.Distribution:
        family = NormalInverseWishart if self.vector else MatrixNormalInverseWishart
        return family.from_natural_parameters(natural)

    def unpack(self, value: Array) -> dict[str, Array]:
        return self.values(value[..., : self.columns], value[..., self.columns :])


def _expand(natural: RegressionNatural, shape: tuple[int, ...]) -> Any:
    def widen(leaf: Array, event_dim: int) -> Array:
        event = leaf.shape[leaf.ndim - event_dim :]
        return jnp.broadcast_to(leaf, shape + event)

    return RegressionNatural(
        widen(natural.vv, 2),
        widen(natural.vu, 2),
        widen(natural.uu, 2),
        widen(natural.df, 0),
    )
