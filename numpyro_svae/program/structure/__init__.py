# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How a program is wired: local sites and factors, found by probing."""
