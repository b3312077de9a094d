# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Film strips and films of what a camera saw and of what was imagined."""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

SIZE = 32


def film_strip(real, imagined, every=5, columns=13, seconds=0.05):
    """Pictures of an episode, and below each what was imagined of it.

    :param real: its pictures from the second on.
    :param imagined: what was imagined of them.
    :param seconds: from one picture to the next.
    """
    some = np.arange(every - 1, len(imagined), every)
    whole = len(some) - len(some) % columns or len(some)  # rows without blanks
    rows = [some[i : i + columns] for i in range(0, whole, columns)]
    figure, axes = plt.subplots(
        2 * len(rows), 1, figsize=(9, 1.5 * len(rows)), layout="constrained"
    )
    for i, row in enumerate(rows):
        began, ended = seconds * (row[[0, -1]] + 1)
        show_row(axes[2 * i], real[row], columns, f"{began:.1f} to {ended:.1f} s")
        show_row(axes[2 * i + 1], imagined[row], columns, "imagined")
    return figure


def show_row(ax, pictures, columns, name):
    """Pictures side by side, in a row that has room for more."""
    tiles = np.full((columns, SIZE, SIZE + 1), np.nan)
    tiles[: len(pictures), :, :-1] = np.reshape(pictures, (-1, SIZE, SIZE))
    colours = plt.get_cmap("gray_r").with_extremes(bad="#c8d6e5")
    wall = tiles.transpose(1, 0, 2).reshape(SIZE, -1)[:, :-1]
    ax.imshow(wall, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax.spines[:].set_visible(False)


def save_gif(path, real, imagined, zoom=6, seconds=0.05):
    """A film of the real episode, with what was imagined at its right."""
    frames, pace = [], {"duration": round(1000 * seconds), "loop": 0}
    for pair in zip(real, imagined):
        left, right = (np.pad(np.reshape(x, (SIZE, SIZE)), 1) for x in pair)
        left[:, -1] = right[:, 0] = 0.4
        both = np.clip(np.concatenate([left, right], 1), 0, 1)
        grey = np.kron(np.uint8(255 * (1 - both)), np.ones((zoom, zoom), np.uint8))
        frames.append(Image.fromarray(grey))
    frames[0].save(path, save_all=True, append_images=frames[1:], **pace)
