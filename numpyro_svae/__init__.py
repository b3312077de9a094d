# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Structured variational autoencoders for NumPyro."""

from numpyro_svae.version import __version__

__all__ = ["__version__"]
