# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Functions around ``SVI``: batches, checkpoints, restarts, merges, annealing."""

from numpyro_svae.training.annealing import anneal_kl
from numpyro_svae.training.batches import run_batches, shuffled
from numpyro_svae.training.checkpoints import load_state, save_state
from numpyro_svae.training.fits import load_fit, save_fit
from numpyro_svae.training.merging import Merges, merge_components
from numpyro_svae.training.plateau import Plateau
from numpyro_svae.training.restarts import Restarts, run_restarts
from numpyro_svae.training.windows import windows
from numpyro_svae.whole_steps import skipped_steps

__all__ = [
    "Merges",
    "Plateau",
    "Restarts",
    "anneal_kl",
    "load_fit",
    "load_state",
    "merge_components",
    "run_batches",
    "run_restarts",
    "save_fit",
    "save_state",
    "shuffled",
    "skipped_steps",
    "windows",
]
