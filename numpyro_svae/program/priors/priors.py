# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a global block says of itself, and which classes of them there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import Array
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import NaturalParameters, expected
from numpyro_svae.program.run.classes import entries_by_class
from numpyro_svae.program.run.sites import Program, Site

__all__ = [
    "Prior",
    "Reading",
    "priors_of",
    "register_prior",
]


@dataclass(frozen=True)
class Reading:
    """A program whose global blocks are being found.

    :param program: the program.
    :param sites: the sites of one run.
    :param needs: the latent sites that each site depends on.
    """

    program: Program
    sites: dict[str, Site]
    needs: dict[str, frozenset[str]]

    def users(self, name: str) -> list[Site]:
        """The sites that depend on a site."""
        return [self.sites[n] for n, used in self.needs.items() if name in used]

    def partners(self, half: Site) -> list[Site]:
        """The latent sites that may be one block with a site.

        They depend on it and on nothing else, and what depends on them depends on it
        too.
        """
        return [
            site
            for site in self.users(half.name)
            if not site.observed
            and self.needs[site.name] == {half.name}
            and self._share(half.name, site.name)
        ]

    def _share(self, half: str, name: str) -> bool:
        found = [self.needs[site.name] for site in self.users(name)]
        return not found or any(half in used for used in found)

    def batch_of(self, site: Site) -> tuple[int, ...]:
        """The batch shape of a block with members for components.

        :raises ValueError: naming the site, if it has several plates.
        """
        if len(site.batch_shape) > 1:
            raise ValueError(
                f"Site '{site.name}': a global site may have a batch of components, "
                f"found batch shape {site.batch_shape}. Open its plate by itself, "
                "outside of all other plates, so that the batch shape is (K,)."
            )
        return site.batch_shape


@dataclass(frozen=True)
class Prior(ABC):
    """A global block: one conjugate family, spelled as one site or as two.

    Another family is a class that derives from this one or from one of those below, in
    a file of its own, which :func:`register_prior` makes known.

    :param name: name of the block, that of its (last) site.
    :param sites: names of its sites, in program order.
    :param batch_shape: batch shape of its sites: ``()`` or ``(K,)``.
    """

    name: str
    sites: tuple[str, ...]
    batch_shape: tuple[int, ...]

    distributions: ClassVar[tuple[type[dist.Distribution], ...]] = ()
    """The classes of the sites that it is found from, without their wrappers."""

    accepted: ClassVar[str] = "fixed values or numpyro.param"
    """What its hyperparameters may be, for a message."""

    part: ClassVar[str] = ""
    """What it may be of a Gaussian factor: its ``"weight"``, its ``"noise"``, or
    ``"both"``."""

    # how it is recognised

    @classmethod
    def find(cls, reading: Reading, site: Site) -> Prior | None:
        """The block that a site of its classes is, or is the first site of.

        :return: None if it is none of these.
        :raises ValueError: naming the site, if it can be no block at all.
        """
        return None

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        """A value in the support of its sites, found without sampling."""
        return np.zeros(event_shape)

    @abstractmethod
    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random value of each site, for probing."""

    @abstractmethod
    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        """The value of each site that data are read at.

        :param column: the regressor to show, for a prior over weights.
        """

    # how it is checked and where it starts

    @abstractmethod
    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        """Natural parameters of the prior.

        :param sites: the sites of a run at :meth:`plain_values`.
        """

    def natural_of(self, fn: Any) -> NaturalParameters:
        """Natural parameters of a distribution as :meth:`posterior` gives it.

        :param fn: the distribution, without ``to_event``.
        """
        return fn.natural_parameters

    def fault(self, natural: Any) -> str | None:
        """What is wrong with the natural parameters of a prior, naming the site.

        :return: None if nothing is.
        """
        if natural.in_domain():
            return None
        lowest = min(np.min(leaf) for leaf in jax.tree.leaves(natural))
        return (
            f"Site '{self.name}': found a shape, a rate or another hyperparameter of "
            f"{lowest}. Accepted: positive and finite ones."
        )

    # its posterior

    @property
    def components(self) -> int | None:
        """How many members the batch has; None without a batch."""
        return self.batch_shape[0] if self.batch_shape else None

    @property
    def features(self) -> tuple[int, ...]:
        """The event dimensions of an observation that one member covers."""
        return ()

    @property
    def of_rates(self) -> bool:
        """Whether it has a Gamma prior, of which the rate may be learnt."""
        return False

    @property
    def is_free(self) -> bool:
        """Whether its prior is not conjugate."""
        return False

    def moments(self, natural: Any) -> Any:
        """What factors read of the block, with its natural gradient."""
        return expected(natural)

    @abstractmethod
    def posterior(self, natural: Any) -> dist.Distribution:
        """The posterior distribution of the packed block."""

    @abstractmethod
    def unpack(self, value: Array) -> dict[str, Array]:
        """Values of the sites, from one of the packed block."""

    def log_stretch(self, values: dict[str, Array]) -> Array | float:
        """Log of the volume in the packed block for a volume in the sites."""
        return 0.0


_PRIORS: list[type[Prior]] = []


def register_prior(kind: type[Prior]) -> None:
    """Make a class of global blocks known.

    :param kind: the class; it is asked before those that are known.
    """
    _PRIORS.insert(0, kind)


def priors_of(fn: Any) -> Iterator[type[Prior]]:
    """The classes of global blocks that a site may be of, those to ask first first.

    :param fn: the distribution of the site, without wrappers.
    """
    return entries_by_class(((k.distributions, k) for k in _PRIORS), fn)
