# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""NumPyro distributions for structured variational autoencoders."""

from numpyro_svae.distributions import kl as kl, promotion as promotion
from numpyro_svae.distributions.constraints import weight_cov
from numpyro_svae.distributions.dirichlet_with_zeros import DirichletWithZeros
from numpyro_svae.distributions.discrete_markov_chain import DiscreteMarkovChain
from numpyro_svae.distributions.linear_gaussian_chain import LinearGaussianChain
from numpyro_svae.distributions.matrix_normal_inverse_wishart import (
    MatrixNormalInverseWishart,
)
from numpyro_svae.distributions.nonlinear_gaussian_chain import NonlinearGaussianChain
from numpyro_svae.distributions.normal_inverse_wishart import NormalInverseWishart
from numpyro_svae.distributions.root_inverse_gamma import RootInverseGamma
from numpyro_svae.distributions.truncated_gamma import PowerOfTruncatedGamma

__all__ = [
    "DirichletWithZeros",
    "DiscreteMarkovChain",
    "LinearGaussianChain",
    "MatrixNormalInverseWishart",
    "NonlinearGaussianChain",
    "NormalInverseWishart",
    "PowerOfTruncatedGamma",
    "RootInverseGamma",
    "weight_cov",
]
