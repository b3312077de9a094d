# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What programs are made of: kinds of local sites, and classes of global blocks."""

from numpyro_svae.inference.local.kinds import DiscreteKind, GaussianKind
from numpyro_svae.kinds.categorical import CategoricalKind
from numpyro_svae.kinds.discrete_chain import DiscreteChainKind
from numpyro_svae.kinds.gaussian_chain import GaussianChainKind
from numpyro_svae.kinds.nonlinear_chain import NonlinearChainKind
from numpyro_svae.kinds.vector import VectorKind
from numpyro_svae.program.priors.correlation_prior import CorrelationPrior
from numpyro_svae.program.priors.diagonal import DiagonalPrior
from numpyro_svae.program.priors.gaussian_prior import GaussianPrior
from numpyro_svae.program.priors.noise_priors import CovariancePrior, NoisePrior
from numpyro_svae.program.priors.observations import Observation, register_observation
from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.priors.priors import Prior, Reading, register_prior
from numpyro_svae.program.priors.rate_priors import BetaPrior, GammaPrior
from numpyro_svae.program.priors.regression_prior import RegressionPrior
from numpyro_svae.program.priors.table_priors import DirichletPrior
from numpyro_svae.program.run.kinds import LocalKind, register

__all__ = [
    "CategoricalKind",
    "DiscreteChainKind",
    "DiscreteKind",
    "GammaPrior",
    "GaussianChainKind",
    "GaussianKind",
    "LocalKind",
    "NoisePrior",
    "NonlinearChainKind",
    "Observation",
    "Prior",
    "Reading",
    "VectorKind",
    "register",
    "register_observation",
    "register_prior",
]

for _kind in (
    CategoricalKind,
    DiscreteChainKind,
    VectorKind,
    GaussianChainKind,
    NonlinearChainKind,  # is asked before the linear one, whose classes it shares
):
    register(_kind())

for _block in (  # the last is asked first
    GaussianPrior,
    CovariancePrior,
    CorrelationPrior,
    GammaPrior,
    PrecisionPrior,
    DiagonalPrior,
    BetaPrior,
    DirichletPrior,
    RegressionPrior,
):
    register_prior(_block)
