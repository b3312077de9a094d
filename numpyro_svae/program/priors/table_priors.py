# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of which parameters may have single entries."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import DirichletNatural, NaturalParameters
from numpyro_svae.program.priors.priors import Prior, Reading
from numpyro_svae.program.run.sites import Site

__all__ = ["DirichletPrior", "TablePrior", "wrong_concentration"]


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

    Rows that ``to_event`` has made are members of the batch, like those of a plate.

    :param size: number of categories.
    :param kind: the class of its distribution.
    :param extra: how many dimensions of the batch ``to_event`` has made.
    """

    size: int
    kind: type[dist.Dirichlet] = dist.Dirichlet
    extra: int = 0

    distributions = (dist.Dirichlet,)

    @classmethod
    def find(cls, reading: Reading, site: Site) -> DirichletPrior:
        size, kind, extra = site.fn.event_shape[-1], type(site.fn), site.extra
        return cls(site.name, (site.name,), site.positions, size, kind, extra)

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        return np.full(event_shape, 1.0 / event_shape[-1])

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
        fn: Any = sites[self.name].fn
        shape = *self.batch_shape, self.size
        return DirichletNatural(jnp.broadcast_to(fn.concentration, shape) + 0.0)

    def natural_of(self, fn: Any) -> NaturalParameters:
        return DirichletNatural(fn.concentration)

    def fault(self, natural: DirichletNatural) -> str | None:
        return None if natural.in_domain() else wrong_concentration(self.name, natural)

    def posterior(self, natural: DirichletNatural) -> dist.Distribution:
        fn = self.kind(natural.concentration, validate_args=False)
        return fn.to_event(self.extra)

    def unpack(self, value: Array) -> dict[str, Array]:
        return {self.name: value}


def wrong_concentration(name: str, natural: DirichletNatural) -> str:
    """What is wrong with the concentrations of a Dirichlet or a Beta."""
    return (
        f"Site '{name}': found a concentration of {np.min(natural.concentration)}. "
        "Accepted: positive and finite concentrations; for a Dirichlet zeros too, of "
        "categories that are impossible, not of a whole row."
    )
