# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is predicted, over what was seen: forecasts, filled gaps, rates of spikes."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_svae.plots.axes import axes_of

__all__ = ["plot_forecast", "plot_imputed", "plot_raster"]


def plot_forecast(
    draws: Any,
    ax: Any = None,
    *,
    past: Any = None,
    future: Any = None,
    time: Any = None,
    levels: tuple[float, ...] = (0.5, 0.9),
    color: Any = "C0",
    label: Any = None,
) -> Any:
    """The fan of a forecast of one quantity, after the data that it goes on from.

    :param draws: ``(S, H)``, such as ``forecast(...)["y"][:, n, :, d]``.
    :param ax: axes of matplotlib; by default new ones.
    :param past: the data before, ``(T,)``; NaN where there are none.
    :param future: what came, ``(H,)``.
    :param time: of past and future steps, ``(T + H,)``; by default the last step of the
        data is 0.
    :param levels: probabilities of the intervals, each between its quantiles.
    :param color: of the fan.
    :param label: of the median, for a legend.
    :return: the axes.
    :raises ValueError: if shapes do not fit.
    """
    draws = _matrix("draws", draws, "(S, H)")
    before = np.zeros(0) if past is None else np.asarray(past, float)
    steps, horizon = len(before), draws.shape[1]
    if time is None:
        time = np.arange(1 - steps, horizon + 1)
    time = np.asarray(time)
    for name, found, size in (("time", time, steps + horizon), ("past", before, steps)):
        if found.shape != (size,):
            raise ValueError(
                f"{name}: found shape {found.shape}; accepted is ({size},), for "
                f"{steps} steps before and {horizon} after."
            )
    ax = axes_of(ax, figsize=(6.5, 2.6))
    later = time[steps:]
    _fan(ax, later, draws, levels, color)
    ax.plot(later, np.median(draws, 0), color=color, lw=1.3, label=label)
    if past is not None:
        ax.plot(time[:steps], before, color="k", lw=0.9)
        ax.axvline((time[steps - 1] + time[steps]) / 2, color="0.6", lw=0.7, ls=":")
    if future is not None:
        ax.plot(later, np.asarray(future), color="k", lw=0.9, ls="--")
    ax.set_xlabel("step")
    ax.margins(x=0.01)
    return ax


def plot_imputed(
    draws: Any,
    data: Any,
    seen: Any,
    ax: Any = None,
    *,
    truth: Any = None,
    time: Any = None,
    levels: tuple[float, ...] = (0.5, 0.9),
    color: Any = "C1",
) -> Any:
    """Data of one quantity, and what fills their gaps.

    :param draws: ``(S, T)``, such as ``impute(...)["y"][:, n, :, d]``.
    :param data: ``(T,)``; values that are not seen are not drawn.
    :param seen: where there are data, ``(T,)``.
    :param ax: axes of matplotlib; by default new ones.
    :param truth: what would have been seen, ``(T,)``, drawn in the gaps.
    :param time: of the steps, ``(T,)``.
    :param levels: probabilities of the intervals.
    :param color: of what fills the gaps.
    :return: the axes.
    """
    draws = _matrix("draws", draws, "(S, T)")
    seen = np.asarray(seen, bool)
    time = np.arange(draws.shape[1]) if time is None else np.asarray(time)
    ax = axes_of(ax, figsize=(6.5, 2.6))
    # a gap reaches to the data beside it, where all draws are the same
    beside = ~seen | ~np.r_[True, seen[:-1]] | ~np.r_[seen[1:], True]
    shown = np.where(beside, draws, np.nan)
    _fan(ax, time, shown, levels, color)
    ax.plot(time, np.median(shown, 0), color=color, lw=1.3)
    ax.plot(time, np.where(seen, np.asarray(data, float), np.nan), "k.-", ms=3, lw=0.7)
    if truth is not None:
        hidden = np.where(beside, np.asarray(truth, float), np.nan)
        ax.plot(time, hidden, color="k", lw=0.9, ls="--")
    ax.set_xlabel("step")
    ax.margins(x=0.01)
    return ax


def plot_raster(
    counts: Any, ax: Any = None, *, rates: Any = None, bin_width: float = 1.0
) -> Any:
    """Spikes of neurons over time, a row for each, over the rates that were inferred.

    :param counts: spikes of each bin, ``(T, N)``.
    :param ax: axes of matplotlib; by default new ones.
    :param rates: expected counts of the bins, ``(T, N)``, drawn as shades.
    :param bin_width: of a bin, in the unit of time of the axis.
    :return: the axes.
    """
    counts = _matrix("counts", counts, "(T, N)")
    steps, neurons = counts.shape
    ax = axes_of(ax, figsize=(7.0, 1.0 + 0.12 * neurons))
    if rates is not None:
        shades = _matrix("rates", rates, "(T, N)").T
        ax.imshow(
            shades,
            aspect="auto",
            origin="lower",
            cmap="Blues",
            vmin=0.0,
            vmax=1.8 * float(np.nanmax(shades)) or 1.0,  # ticks are seen on the darkest
            extent=(0, steps * bin_width, -0.5, neurons - 0.5),
        )
    times, rows = np.nonzero(counts)
    middle = (times + 0.5) * bin_width
    ax.vlines(middle, rows - 0.4, rows + 0.4, color="k", lw=0.6)
    ax.set(xlim=(0, steps * bin_width), ylim=(-0.5, neurons - 0.5))
    ax.set(xlabel="step" if bin_width == 1 else "time", ylabel="neuron")
    return ax


def _fan(ax: Any, time: Any, draws: np.ndarray, levels: Any, color: Any) -> None:
    """Central intervals of draws, the widest one palest."""
    for level in sorted(levels, reverse=True):
        tails = (0.5 - level / 2, 0.5 + level / 2)
        low, high = np.quantile(draws, tails, axis=0)
        share = 0.5 / len(levels)
        ax.fill_between(time, low, high, color=color, alpha=share, lw=0)


def _matrix(name: str, value: Any, shape: str) -> np.ndarray:
    found = np.asarray(value, float)
    if found.ndim != 2:
        raise ValueError(
            f"{name}: found shape {found.shape}; accepted is {shape}, of one sequence "
            "and, where there are draws, one of its dimensions."
        )
    return found
