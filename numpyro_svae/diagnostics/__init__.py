# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is looked at after fitting: ArviZ data and the likelihood of each datum."""
