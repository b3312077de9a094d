# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Messages between blocks, and inference in groups of coupled local sites."""
