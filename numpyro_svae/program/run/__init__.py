# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Runs a program at chosen values and looks at its sites, plates and scans."""
