# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Plots of what was learnt; they need matplotlib."""

from numpyro_svae.plots.images import plot_frames
from numpyro_svae.plots.sequences import plot_elbo, plot_segmentation, plot_states
from numpyro_svae.plots.spaces import plot_clusters, plot_vector_field

__all__ = [
    "plot_clusters",
    "plot_elbo",
    "plot_frames",
    "plot_segmentation",
    "plot_states",
    "plot_vector_field",
]
