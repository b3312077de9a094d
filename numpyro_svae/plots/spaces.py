# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Two dimensions of a latent space: clusters in it, and how states move."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_svae.plots.axes import axes_of, palette

__all__ = ["plot_clusters", "plot_vector_field"]


def plot_clusters(
    points: Any,
    loc: Any,
    cov: Any,
    ax: Any = None,
    *,
    weights: Any = None,
    labels: Any = None,
    transform: Any = None,
    deviations: Any = (1.0, 2.0),
    dims: tuple[int, int] = (0, 1),
    colors: Any = None,
) -> Any:
    """Points over the ellipses of the Gaussians that they are clusters of.

    :param points: ``(N, D)``, such as posterior means of a latent site.
    :param loc: means of the clusters, ``(K, D)``.
    :param cov: covariances of the clusters, ``(K, D, D)``.
    :param ax: axes of matplotlib; by default new ones.
    :param weights: of the clusters, ``(K,)``; those below 0.01 are not drawn.
    :param labels: clusters of the points, ``(N,)``, which give them their colours.
    :param transform: a function of outlines ``(..., D)``, such as a decoder, to draw
        the clusters where the points are data.
    :param deviations: of the outlines, in standard deviations.
    :param dims: the two dimensions to show.
    :param colors: name of a colour map, or colours of the clusters.
    :return: the axes.
    """
    ax = axes_of(ax, figsize=(4.5, 4.5))
    points, count = np.asarray(points), len(loc)
    chosen = palette(count, colors)
    used = np.ones(count, bool) if weights is None else np.asarray(weights) > 0.01
    outlines = _outlines(loc, cov, deviations, dims)
    if transform is not None:
        outlines = np.asarray(transform(outlines))
    for k in np.flatnonzero(used):
        for outline in outlines[k][..., list(dims)]:
            ax.fill(*outline.T, color=chosen[k], alpha=0.2, lw=0)
            ax.plot(*outline.T, color=chosen[k], lw=1)
    face = "0.3" if labels is None else chosen[np.asarray(labels)]
    shown = points[:, list(dims)]
    ax.scatter(*shown.T, s=8, c=face, edgecolors="0.2", linewidths=0.25, zorder=3)
    _frame(ax, shown)
    return ax


def _outlines(loc: Any, cov: Any, deviations: Any, dims: tuple[int, int]) -> np.ndarray:
    """Ellipses ``(K, len(deviations), 100, D)`` in the plane of two dimensions."""
    loc, cov = np.asarray(loc, float), np.asarray(cov, float)
    plane = list(dims)
    root = np.linalg.cholesky(cov[:, plane][:, :, plane])
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    rings = np.multiply.outer(np.asarray(deviations, float), circle)
    shape = (len(loc), *rings.shape[:2], loc.shape[-1])
    outlines = np.broadcast_to(loc[:, None, None], shape).copy()
    outlines[..., plane] += np.einsum("kij,rpj->krpi", root, rings)
    return outlines


def _frame(ax: Any, points: np.ndarray) -> None:
    """A square around the points, with what is drawn beyond it cut off."""
    low, high = np.nanmin(points, 0), np.nanmax(points, 0)
    centre, half = (low + high) / 2, 0.55 * (float(np.max(high - low)) or 1.0)
    ax.set(xlim=centre[0] + np.array([-half, half]), aspect="equal")
    ax.set(ylim=centre[1] + np.array([-half, half]))


def plot_vector_field(
    weight: Any,
    ax: Any = None,
    *,
    bias: Any = None,
    paths: Any = None,
    at: Any = None,
    color: Any = "0.3",
    grid: int = 15,
) -> Any:
    """How linear dynamics move states of two dimensions in one step.

    :param weight: F, ``(2, M)``, of which the first two columns are of the state.
    :param ax: axes of matplotlib; by default new ones.
    :param bias: what the inputs add to each step, ``(2,)``.
    :param paths: trajectories, ``(N, T, 2)`` or ``(T, 2)``, drawn as lines.
    :param at: where to draw arrows, ``(P, 2)``; by default a grid over the paths.
    :param color: of the arrows.
    :param grid: number of rows and columns of the grid.
    :return: the axes.
    :raises ValueError: if the states have not two dimensions.
    """
    weight = np.asarray(weight, float)
    if weight.ndim != 2 or weight.shape[0] != 2:
        raise ValueError(
            f"weight: found shape {weight.shape}; accepted is (2, M). Project states "
            "of more dimensions to two first."
        )
    ax = axes_of(ax, figsize=(4.5, 4.5))
    low, high = np.full(2, -1.0), np.full(2, 1.0)
    if paths is not None:
        paths = np.asarray(paths, float)
        paths = paths.reshape(-1, *paths.shape[-2:])
        low, high = np.nanmin(paths, (0, 1)), np.nanmax(paths, (0, 1))
        for path in paths:
            ax.plot(*path.T, color="0.75", lw=1, zorder=0)
    if at is None:
        lines = [np.linspace(low[d], high[d], grid) for d in range(2)]
        at = np.stack(np.meshgrid(*lines), -1).reshape(-1, 2)
    at = np.asarray(at, float)
    move = at @ (weight[:, :2] - np.eye(2)).T
    move = move if bias is None else move + np.asarray(bias)
    ax.quiver(*at.T, *move.T, angles="xy", color=color)
    ax.set_aspect("equal")
    return ax
