# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factors at the current expectations of the globals, and their messages."""
