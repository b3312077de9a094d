# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads a program: which blocks, local sites and factors it has."""
