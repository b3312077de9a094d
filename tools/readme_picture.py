# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Draws the picture of the README: its example is run, and looked at.

python tools/readme_picture.py docs/images/example.png
"""

import sys

from jax import random
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from readme import example

import numpyro_svae as ns
from numpyro_svae.plots import plot_forecast, plot_states

SEEN = 20  # steps of the sequence that is gone on from


def picture(path: str) -> None:
    """What is seen, the states that were inferred, and a forecast with its actions."""
    found: dict = {}
    exec(compile(example(), "README.md", "exec"), found)
    y, actions = np.asarray(found["y"]), found["actions"]
    states = found["states"]
    paths = ns.forecast(
        found["model"],
        found["guide"],
        found["result"].params,
        random.key(5),
        y[:, :SEEN],
        actions[:, : SEEN - 1],
        horizon=y.shape[1] - SEEN,
        future_inputs={"actions": actions[:, SEEN - 1 :]},
        num_samples=300,
    )
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12, 2.7), layout="constrained", width_ratios=(1, 1.2, 1.2)
    )
    left.imshow(y[0].T, aspect="auto", cmap="magma", origin="lower")
    left.set(title="seen: 10 pixels", xlabel="step", ylabel="pixel")
    plot_states(states.mean[0], states.covariance[0], middle)
    middle.set_title("inferred: 4 latent dimensions")
    pixel = int(np.argmax(y[0, SEEN:].var(0)))
    plot_forecast(
        paths["y"][:, 0, :, pixel],
        right,
        past=y[0, :SEEN, pixel],
        future=y[0, SEEN:, pixel],
    )
    right.set_title(f"forecast of pixel {pixel}, with its actions")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    picture(sys.argv[1])
