# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the twelve models of a newcomer share: a fit, and two ways to judge it."""

from jax import random
import numpy as np
from numpyro.infer import SVI
import optax

import numpyro_svae as ns


def fit(model, *args, steps=100, natural=0.5, rate=0.02, **options):
    """A guide and its parameters."""
    guide = ns.AutoSVAE(model, **options)
    optimizer = ns.svae_optimizer(optax.adam(rate), natural)
    svi = SVI(model, guide, optimizer, loss=ns.SVAE_ELBO())
    return guide, svi.run(random.key(0), steps, *args, progress_bar=False).params


def deviations(posterior, truth):
    """How many posterior standard deviations the truth is from the mean."""
    return np.abs(np.asarray(posterior.mean) - truth) / np.sqrt(posterior.variance)


def score(model, guide, params, *args):
    """Log likelihood of each new datum."""
    found = ns.log_likelihood(
        model, guide, params, random.key(9), *args, num_samples=20
    )
    return np.asarray(found.value)
