# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What was learnt: dynamics, states, observations, and how well data are recognised."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_svae.plots.axes import axes_of, palette

__all__ = [
    "plot_amortization_gap",
    "plot_eigenvalues",
    "plot_loadings",
    "plot_occupancy",
    "plot_transitions",
]


def plot_eigenvalues(
    dynamics: Any, ax: Any = None, *, truth: Any = None, colors: Any = None
) -> Any:
    """Eigenvalues of dynamics, about the unit circle: within, they die down.

    The angle of one is its turn in a step.

    :param dynamics: matrices, ``(D, D + A)``, of which the first D columns count; draws
        of them ``(S, D, D + A)``, such as those of a posterior; or of several states,
        ``(S, K, D, D + A)``.
    :param ax: axes of matplotlib; by default new ones.
    :param truth: true matrices, ``(D, D)`` or ``(K, D, D)``, drawn as crosses.
    :param colors: name of a colour map, or colours of the states.
    :return: the axes.
    :raises ValueError: if the matrices have fewer columns than rows.
    """
    draws = np.asarray(dynamics, float)
    if draws.ndim < 4:
        draws = draws[..., None, :, :]  # of one state
    size = draws.shape[-2]
    if draws.shape[-1] < size:
        raise ValueError(
            f"dynamics: found matrices of shape {draws.shape[-2:]}; accepted are D "
            "rows and at least as many columns."
        )
    ax = axes_of(ax, figsize=(3.6, 3.6))
    found = np.linalg.eigvals(draws[..., :size])
    found = found.reshape(-1, *found.shape[-2:])
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color="0.6", lw=0.8)
    alpha = 1.0 if len(found) == 1 else max(0.05, min(0.6, 30 / len(found)))
    for k, color in enumerate(palette(found.shape[1], colors)):
        values = found[:, k].ravel()
        ax.scatter(values.real, values.imag, s=14, color=color, alpha=alpha, lw=0)
    if truth is not None:
        true = np.asarray(truth, float)
        values = np.linalg.eigvals(true[..., : true.shape[-2]]).ravel()
        ax.plot(values.real, values.imag, "kx", ms=7, mew=1.5)
    ax.axhline(0, color="0.85", lw=0.7, zorder=0)
    ax.axvline(0, color="0.85", lw=0.7, zorder=0)
    ax.set(aspect="equal", xlabel="real part", ylabel="imaginary part")
    return ax


def plot_loadings(
    loadings: Any,
    ax: Any = None,
    *,
    rows: Any = None,
    columns: Any = None,
    colorbar: bool = True,
) -> Any:
    """How observed dimensions depend on latent ones, as a picture about zero.

    :param loadings: ``(E, D)``, a row for each observed dimension.
    :param ax: axes of matplotlib; by default new ones.
    :param rows: names of the observed dimensions.
    :param columns: names of the latent ones.
    :param colorbar: whether there is a scale beside it.
    :return: the axes.
    """
    values = np.asarray(loadings, float)
    outputs, dim = values.shape
    ax = axes_of(ax, figsize=(1.6 + 0.45 * dim, 1.0 + 0.18 * outputs))
    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    image = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    names = [f"$x_{{{d}}}$" for d in range(dim)] if columns is None else columns
    ax.set_xticks(range(dim), names)
    if rows is not None:
        ax.set_yticks(range(outputs), rows)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, shrink=0.8)
    return ax


def plot_transitions(
    probs: Any, ax: Any = None, *, names: Any = None, numbers: bool = True
) -> Any:
    """The probabilities of the next state, a row for each state before.

    :param probs: ``(K, K)``, with rows that sum to one.
    :param ax: axes of matplotlib; by default new ones.
    :param names: of the states.
    :param numbers: whether each cell shows its probability, in per cent.
    :return: the axes.
    """
    probs = np.asarray(probs, float)
    count = len(probs)
    ax = axes_of(ax, figsize=(1.2 + 0.5 * count, 1.0 + 0.5 * count))
    ax.imshow(probs, cmap="Greys", vmin=0.0, vmax=1.0)
    if numbers:
        for (i, j), value in np.ndenumerate(probs):
            shade = "w" if value > 0.5 else "k"
            ax.text(j, i, f"{100 * value:.0f}", color=shade, ha="center", va="center")
    labels = range(count) if names is None else names
    ax.set_xticks(range(count), labels)
    ax.set_yticks(range(count), labels)
    ax.set(xlabel="next state", ylabel="state")
    return ax


def plot_occupancy(
    probs: Any, ax: Any = None, *, names: Any = None, colors: Any = None
) -> Any:
    """The share of the steps, or of the data, that each state has.

    :param probs: posterior probabilities, ``(..., K)``; NaN in the padding.
    :param ax: axes of matplotlib; by default new ones.
    :param names: of the states.
    :param colors: name of a colour map, or colours of the states.
    :return: the axes.
    """
    probs = np.asarray(probs, float)
    count = probs.shape[-1]
    ax = axes_of(ax, figsize=(1.5 + 0.4 * count, 2.4))
    share = np.nanmean(probs.reshape(-1, count), 0)
    ax.bar(range(count), share, color=palette(count, colors))
    ax.set_xticks(range(count), range(count) if names is None else names)
    ax.set(xlabel="state", ylabel="share")
    return ax


def plot_amortization_gap(
    gap: Any, ax: Any = None, *, bins: Any = 30, color: Any = "C0"
) -> Any:
    """What a recognition network costs each datum: how many nats better sweeps did.

    :param gap: nats by datum, of any shape, as ``report.amortization_gap`` has them by
        site.
    :param ax: axes of matplotlib; by default new ones.
    :param bins: of the histogram: their number, or their edges.
    :param color: of the bars.
    :return: the axes.
    """
    values = np.ravel(np.asarray(gap, float))
    ax = axes_of(ax, figsize=(4.5, 2.4))
    ax.hist(values, bins=bins, color=color)
    ax.axvline(values.mean(), color="k", lw=1, ls="--")
    ax.set(xlabel="amortisation gap (nats)", ylabel="data")
    return ax
