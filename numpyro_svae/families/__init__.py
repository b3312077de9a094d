# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Conjugate exponential families: natural parameters, moments, natural gradients."""

from numpyro_svae.families.dirichlet import DirichletNatural
from numpyro_svae.families.expected_regression import ExpectedRegression
from numpyro_svae.families.gamma import GammaNatural
from numpyro_svae.families.gaussian import (
    ExpectedGaussian,
    GaussianNatural,
    gaussian_kl,
)
from numpyro_svae.families.natural import NaturalParameters, expected, natural_kl
from numpyro_svae.families.regression import RegressionNatural, RegressionStandard
from numpyro_svae.families.truncated_gamma import LogBounds, TruncatedGammaNatural

__all__ = [
    "DirichletNatural",
    "ExpectedGaussian",
    "ExpectedRegression",
    "GammaNatural",
    "GaussianNatural",
    "LogBounds",
    "NaturalParameters",
    "RegressionNatural",
    "RegressionStandard",
    "TruncatedGammaNatural",
    "expected",
    "gaussian_kl",
    "natural_kl",
]
