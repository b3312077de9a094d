# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The kinds of local sites, one in each file."""

from numpyro_svae.kinds.categorical import CategoricalKind
from numpyro_svae.kinds.discrete_chain import DiscreteChainKind
from numpyro_svae.kinds.gaussian_chain import GaussianChainKind
from numpyro_svae.kinds.vector import VectorKind
from numpyro_svae.program.kinds import DiscreteKind, GaussianKind, LocalKind, register

__all__ = [
    "CategoricalKind",
    "DiscreteChainKind",
    "DiscreteKind",
    "GaussianChainKind",
    "GaussianKind",
    "LocalKind",
    "VectorKind",
    "register",
]

for _kind in CategoricalKind, DiscreteChainKind, VectorKind, GaussianChainKind:
    register(_kind())
