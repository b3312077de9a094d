# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where plots are drawn, and in what colours."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["axes_of", "palette"]


def axes_of(ax: Any, **size: Any) -> Any:
    """The axes that are given, or those of a new figure.

    :param ax: axes of matplotlib, or None.
    :param size: options of a new figure.
    :raises ImportError: if there is no matplotlib.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "numpyro_svae.plots needs matplotlib, which is not installed. Install it: "
            "pip install matplotlib."
        ) from error
    return plt.subplots(layout="constrained", **size)[1] if ax is None else ax


def palette(count: int, colors: Any = None) -> np.ndarray:
    """Colours of states, ``(count, 4)``: those of a colour map, or a list of them.

    :param count: how many are needed; a shorter list is repeated.
    :param colors: name of a colour map, or colours; by default strong ones before pale
        ones of the same hues.
    """
    import matplotlib as mpl
    from matplotlib.colors import to_rgba_array

    if colors is None:
        chosen = mpl.colormaps["tab20"](np.r_[0:20:2, 1:20:2])
    elif isinstance(colors, str):
        chosen = mpl.colormaps[colors](np.linspace(0, 1, max(count, 2)))
    else:
        chosen = to_rgba_array(colors)
    return chosen[np.arange(count) % len(chosen)]
