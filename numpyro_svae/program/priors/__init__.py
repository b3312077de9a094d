# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The global blocks: conjugate priors, and what factors read of them."""
