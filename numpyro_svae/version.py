# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The version of the package, read by the build as well."""

__version__ = "0.1.0"
