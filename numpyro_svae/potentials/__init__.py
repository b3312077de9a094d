# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Potentials: what a recognition network says about latent sites."""

from numpyro_svae.potentials.categorical import CategoricalPotential
from numpyro_svae.potentials.gaussian import GaussianPotential

__all__ = ["CategoricalPotential", "GaussianPotential"]
