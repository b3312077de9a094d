# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What changes with time: the bound, smoothed states, segments."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_svae.plots.axes import axes_of, palette

__all__ = ["plot_elbo", "plot_segmentation", "plot_states"]


def plot_elbo(losses: Any, ax: Any = None, *, per: float = 1.0, window: int = 0) -> Any:
    """The ELBO of each step of a run, and its running mean.

    The axis leaves the first steps out where they would hide what comes after them.

    :param losses: of a run of SVI, ``(S,)``, or of several, ``(R, S)``.
    :param ax: axes of matplotlib; by default new ones.
    :param per: what the ELBO is divided by, such as the number of data.
    :param window: number of steps in the running mean; by default a fiftieth of them.
    :return: the axes.
    """
    ax = axes_of(ax, figsize=(5.5, 2.8))
    elbo = -np.atleast_2d(np.asarray(losses, float)) / per
    steps = elbo.shape[1]
    window = window or max(1, steps // 50)
    kernel = np.ones(window) / window
    for run, color in zip(elbo, palette(len(elbo))):
        if window > 1:
            ax.plot(run, color=color, alpha=0.3, lw=0.6)
        mean = np.convolve(run, kernel, "valid")
        ax.plot(np.arange(steps - len(mean), steps), mean, color=color, lw=1.2)
    settled = elbo[:, steps // 20 :]
    settled = settled[np.isfinite(settled)]
    if settled.size:
        low, high = settled.min(), settled.max()
        margin = 0.05 * (high - low) or 1.0
        ax.set_ylim(low - margin, high + margin)
    ax.set(xlabel="step", ylabel="ELBO" if per == 1 else "ELBO per datum")
    ax.margins(x=0.01)
    return ax


def plot_states(
    mean: Any,
    covariance: Any,
    ax: Any = None,
    *,
    truth: Any = None,
    time: Any = None,
    deviations: float = 2.0,
    offset: float | None = None,
    labels: Any = None,
) -> Any:
    """Smoothed states of one sequence as lines with ribbons, one above the other.

    :param mean: ``(T, D)``, as of :func:`~numpyro_svae.smooth`.
    :param covariance: ``(T, D, D)``.
    :param ax: axes of matplotlib; by default new ones.
    :param truth: true states, ``(T, D)``, drawn as thin black lines.
    :param time: of the steps, ``(T,)``.
    :param deviations: half width of a ribbon, in posterior standard deviations.
    :param offset: distance between dimensions; by default what they need, and 0 puts
        all of them on one axis.
    :param labels: names of the dimensions.
    :return: the axes.
    """
    mean = np.asarray(mean, float)
    spread = np.sqrt(np.diagonal(np.asarray(covariance, float), axis1=-2, axis2=-1))
    steps, dim = mean.shape
    ax = axes_of(ax, figsize=(6.5, 1.2 + 0.8 * dim))
    time = np.arange(steps) if time is None else np.asarray(time)
    lower, upper = mean - deviations * spread, mean + deviations * spread
    if offset is None:
        offset = 1.1 * float(np.max(np.nanmax(upper, 0) - np.nanmin(lower, 0)))
    middle = (np.nanmax(upper, 0) + np.nanmin(lower, 0)) / 2 if offset else 0.0
    shift = -offset * np.arange(dim) - middle
    for d, color in enumerate(palette(dim)):
        low, high = lower[:, d] + shift[d], upper[:, d] + shift[d]
        ax.fill_between(time, low, high, color=color, alpha=0.3, lw=0)
        ax.plot(time, mean[:, d] + shift[d], color=color, lw=1.3)
        if truth is not None:
            ax.plot(time, np.asarray(truth)[:, d] + shift[d], color="k", lw=0.7)
    names = [f"$x_{{{d}}}$" for d in range(dim)] if labels is None else labels
    if offset:
        ax.set_yticks(-offset * np.arange(dim), names)
    ax.set_xlabel("step")
    ax.margins(x=0)
    return ax


def plot_segmentation(
    rows: Any,
    ax: Any = None,
    *,
    names: Any = None,
    colors: Any = None,
    num_states: int | None = None,
    time: tuple[float, float] | None = None,
) -> Any:
    """States over time, a coloured band for each row; padding is left blank.

    :param rows: states, ``(R, T)`` or ``(T,)``, with negative numbers (or masked
        entries) where there are none; or a dictionary from labels to states.
    :param ax: axes of matplotlib; by default new ones.
    :param names: of the states, for a legend above the bands.
    :param colors: name of a colour map, or colours of the states.
    :param num_states: K; by default as many as occur.
    :param time: of the left and the right end.
    :return: the axes.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    labels = list(rows) if isinstance(rows, dict) else None
    values = [rows[label] for label in labels] if labels else np.atleast_2d(rows)
    bands = np.ma.stack([np.ma.asarray(row) for row in values])
    bands = np.ma.masked_less(bands, 0)
    count = num_states or (int(bands.max()) + 1 if bands.count() else 1)
    ax = axes_of(ax, figsize=(7.5, 0.8 + 0.32 * len(bands)))
    chosen = palette(count, colors)
    left, right = (0, bands.shape[1]) if time is None else time
    ax.imshow(
        bands,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(chosen),
        vmin=-0.5,
        vmax=count - 0.5,
        extent=(left, right, len(bands), 0),
    )
    for edge in range(1, len(bands)):
        ax.axhline(edge, color="w", lw=1.5)
    ax.set_yticks(np.arange(len(bands)) + 0.5, labels or range(len(bands)))
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("step" if time is None else "time")
    if names is not None:
        handles = [Patch(color=color, label=name) for color, name in zip(chosen, names)]
        ax.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=min(count, 7),
            frameon=False,
            handlelength=1.0,
        )
    return ax
