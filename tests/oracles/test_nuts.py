# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""NumPyro's NUTS on the same program finds the same posterior."""

from jax import random
import numpy as np
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS
import pytest

import numpyro_svae as ns
from tests.data import make_svi, sequences, steps
from tests.models import observed_lds


@pytest.mark.slow
def test_posterior_means_of_linear_dynamics(x64):
    x, actions = sequences(count=3, steps=5, outputs=2)
    guide = ns.AutoSVAE(observed_lds)
    params, _ = steps(make_svi(observed_lds, guide), 1, x, actions)
    mcmc = MCMC(
        NUTS(observed_lds), num_warmup=500, num_samples=2000, progress_bar=False
    )
    mcmc.run(random.PRNGKey(0), x, actions)
    draws = mcmc.get_samples()
    for name, posterior in guide.get_posterior(params).items():
        chains = np.asarray(draws[name])[None]
        error = chains.std((0, 1)) / np.sqrt(effective_sample_size(chains))
        assert np.all(error < 0.1 * chains.std((0, 1)))
        deviation = np.abs(chains.mean((0, 1)) - posterior.mean) / error
        assert np.max(deviation) < 4.0, (name, deviation)
