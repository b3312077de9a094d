# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads a NumPyro program: sites, provenance, probing, conjugate factors."""
