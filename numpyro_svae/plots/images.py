# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Strips of pictures: data, reconstructions, forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_svae.plots.axes import axes_of

__all__ = ["plot_frames"]

_GAP = 0.08  # between pictures, in units of one


def plot_frames(
    rows: dict[str, Any],
    ax: Any = None,
    *,
    shape: tuple[int, int] | None = None,
    every: int = 1,
    forecast_from: int | None = None,
    cmap: str = "gray",
    limits: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """Sequences of pictures side by side, one strip for each, to compare over time.

    :param rows: from labels to pictures, ``(T, H, W)``, ``(T, H, W, 3)``, or
        ``(T, H * W)`` with a ``shape``. Strips may be shorter than the longest.
    :param ax: axes of matplotlib; by default new ones.
    :param shape: height and width of flat pictures.
    :param every: show every n-th picture.
    :param forecast_from: step at which a line divides what was seen from what was
        forecast.
    :param cmap: colour map of pictures with one channel.
    :param limits: values that are black and white.
    :return: the axes.
    """
    strips = {name: _pictures(name, row, shape)[::every] for name, row in rows.items()}
    longest = max(map(len, strips.values()))
    height, width = next(iter(strips.values())).shape[1:3]
    tall, wide = (1 + _GAP) * len(strips), (1 + _GAP) * longest
    scale = min(0.9, 11 / wide)
    ax = axes_of(ax, figsize=(scale * wide + 1, scale * tall * height / width + 0.6))
    options = {"cmap": cmap, "vmin": limits[0], "vmax": limits[1]}
    ratio = height / width
    for r, strip in enumerate(strips.values()):
        top = r * (ratio + _GAP)
        for t, picture in enumerate(strip):
            left = t * (1 + _GAP)
            extent = (left, left + 1, top + ratio, top)
            ax.imshow(picture, extent=extent, interpolation="nearest", **options)
    bottom = len(strips) * (ratio + _GAP) - _GAP
    ax.set(xlim=(-_GAP, wide), ylim=(bottom + _GAP, -_GAP), aspect="equal")
    middles = np.arange(len(strips)) * (ratio + _GAP) + ratio / 2
    ax.set_yticks(middles, list(strips))
    ticks = np.arange(0, longest, max(1, longest // 10))
    ax.set_xticks(ticks * (1 + _GAP) + 0.5, ticks * every)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if forecast_from is not None:
        line = np.ceil(forecast_from / every) * (1 + _GAP) - _GAP / 2
        ax.axvline(line, color="tab:red", lw=1.5)
    ax.set_xlabel("step")
    return ax


def _pictures(name: str, row: Any, shape: tuple[int, int] | None) -> np.ndarray:
    row = np.asarray(row)
    if row.ndim == 2 and shape is not None:
        row = row.reshape(len(row), *shape)
    if row.ndim < 3:
        raise ValueError(
            f"rows: '{name}' has shape {row.shape}; accepted are (T, H, W), "
            "(T, H, W, 3), and (T, H * W) with a shape."
        )
    return row
