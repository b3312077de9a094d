# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a program is made of: local sites, conjugate factors and likelihoods.

Everything here is static: it says how a program is wired, never what its data are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numpyro_svae.program.priors import Prior

__all__ = [
    "CategoricalFactor",
    "ChainFactor",
    "Factor",
    "GaussianFactor",
    "Local",
    "Structure",
    "TableFactor",
]


@dataclass(frozen=True)
class Local:
    """A latent site that each datum has its own value of.

    :param name: name of the site.
    :param kind: ``"categorical"``, ``"gaussian"`` or ``"chain"``.
    :param size: number of categories, or dimension of the vector.
    """

    name: str
    kind: str
    size: int


@dataclass(frozen=True)
class Factor:
    """A conjugate factor of the joint density.

    :param site: the site whose density it is.
    """

    site: str


@dataclass(frozen=True)
class GaussianFactor(Factor):
    """``N(v; F u, Sigma)`` with ``u = parent_map @ x + data``.

    :param prior: the global block that holds (F, Sigma); None if they are given.
    :param selector: the latent categorical site that picks a member of the batch.
    :param gathered: whether data pick a member of the batch.
    :param parent: the latent Gaussian site x in the regressor.
    :param parent_map: of shape (M, D of x); None without a parent.
    """

    prior: str | None = None
    selector: str | None = None
    gathered: bool = False
    parent: str | None = None
    parent_map: np.ndarray | None = None


@dataclass(frozen=True)
class ChainFactor(Factor):
    """The density of a Gaussian chain.

    :param initial: the global block of the first state; None if it is given.
    :param transition: the global block of the dynamics; None if they are given.
    """

    initial: str | None = None
    transition: str | None = None


@dataclass(frozen=True)
class CategoricalFactor(Factor):
    """The density of a categorical site.

    :param prior: the Dirichlet block of its probabilities; None if they are given.
    """

    prior: str | None = None


@dataclass(frozen=True)
class TableFactor(Factor):
    """Any observed site that depends on nothing latent but one categorical site.

    :param selector: that site.
    """

    selector: str = ""


@dataclass(frozen=True, eq=False)
class Structure:
    """How a program is wired. It is hashed by identity, as a static argument of jit.

    :param priors: global blocks by name.
    :param locals: latent local sites by name, in program order.
    :param factors: conjugate factors, in program order.
    :param likelihoods: the observed sites that are sampled, with the latent sites
        that each depends on.
    """

    priors: dict[str, Prior]
    locals: dict[str, Local]
    factors: tuple[Factor, ...]
    likelihoods: dict[str, frozenset[str]]
