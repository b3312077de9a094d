# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Structured variational autoencoders for NumPyro."""

from numpyro_svae import kinds
from numpyro_svae.diagnostics.likelihood import LogLikelihood, log_likelihood
from numpyro_svae.diagnostics.report import Report, report
from numpyro_svae.diagnostics.to_arviz import to_arviz
from numpyro_svae.distributions import (
    DirichletWithZeros,
    DiscreteMarkovChain,
    LinearGaussianChain,
    MatrixNormalInverseWishart,
    NonlinearGaussianChain,
    NormalInverseWishart,
)
from numpyro_svae.elbo import SVAE_ELBO
from numpyro_svae.forecasting.filter import FilterState, filter
from numpyro_svae.forecasting.forecast import forecast, log_score
from numpyro_svae.forecasting.impute import impute
from numpyro_svae.forecasting.scores import bits_per_spike, coverage, crps
from numpyro_svae.forecasting.smooth import smooth
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.local.cubature import Cubature
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.samples import Samples
from numpyro_svae.optim import svae_optimizer
from numpyro_svae.potentials import CategoricalPotential, GaussianPotential
from numpyro_svae.sample import sample
from numpyro_svae.version import __version__

__all__ = [
    "SVAE_ELBO",
    "AutoSVAE",
    "CategoricalPotential",
    "Cubature",
    "DirichletWithZeros",
    "DiscreteMarkovChain",
    "FilterState",
    "FixedPoint",
    "GaussianPotential",
    "LinearGaussianChain",
    "LogLikelihood",
    "MatrixNormalInverseWishart",
    "NonlinearGaussianChain",
    "NormalInverseWishart",
    "Report",
    "Samples",
    "__version__",
    "bits_per_spike",
    "coverage",
    "crps",
    "filter",
    "forecast",
    "impute",
    "kinds",
    "log_likelihood",
    "log_score",
    "report",
    "sample",
    "smooth",
    "svae_optimizer",
    "to_arviz",
]
