# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Plots of what was learnt; they need matplotlib."""

from numpyro_svae.plots.images import plot_frames
from numpyro_svae.plots.parameters import (
    plot_amortization_gap,
    plot_eigenvalues,
    plot_loadings,
    plot_occupancy,
    plot_transitions,
)
from numpyro_svae.plots.predictions import plot_forecast, plot_imputed, plot_raster
from numpyro_svae.plots.sequences import plot_elbo, plot_segmentation, plot_states
from numpyro_svae.plots.spaces import plot_clusters, plot_vector_field

__all__ = [
    "plot_amortization_gap",
    "plot_clusters",
    "plot_eigenvalues",
    "plot_elbo",
    "plot_forecast",
    "plot_frames",
    "plot_imputed",
    "plot_loadings",
    "plot_occupancy",
    "plot_raster",
    "plot_segmentation",
    "plot_states",
    "plot_transitions",
    "plot_vector_field",
]
