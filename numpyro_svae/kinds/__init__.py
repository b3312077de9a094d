# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What programs are made of: kinds of local sites, and classes of global blocks."""

from numpyro_svae.inference.kinds import DiscreteKind, GaussianKind
from numpyro_svae.kinds.categorical import CategoricalKind
from numpyro_svae.kinds.discrete_chain import DiscreteChainKind
from numpyro_svae.kinds.gaussian_chain import GaussianChainKind
from numpyro_svae.kinds.vector import VectorKind
from numpyro_svae.program.diagonal import DiagonalPrior
from numpyro_svae.program.gaussian_prior import GaussianPrior
from numpyro_svae.program.kinds import LocalKind, register
from numpyro_svae.program.noise_priors import CovariancePrior, NoisePrior
from numpyro_svae.program.observations import Observation, register_observation
from numpyro_svae.program.precision_prior import PrecisionPrior
from numpyro_svae.program.priors import Prior, Reading, register_prior
from numpyro_svae.program.rate_priors import BetaPrior, GammaPrior
from numpyro_svae.program.regression_prior import RegressionPrior
from numpyro_svae.program.table_priors import DirichletPrior

__all__ = [
    "CategoricalKind",
    "DiscreteChainKind",
    "DiscreteKind",
    "GammaPrior",
    "GaussianChainKind",
    "GaussianKind",
    "LocalKind",
    "NoisePrior",
    "Observation",
    "Prior",
    "Reading",
    "VectorKind",
    "register",
    "register_observation",
    "register_prior",
]

for _kind in CategoricalKind, DiscreteChainKind, VectorKind, GaussianChainKind:
    register(_kind())

for _block in (  # the last is asked first
    GaussianPrior,
    CovariancePrior,
    GammaPrior,
    PrecisionPrior,
    DiagonalPrior,
    BetaPrior,
    DirichletPrior,
    RegressionPrior,
):
    register_prior(_block)
