# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A few fitted guides, shared by the tests of what a guide can do afterwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import random
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns
from tests.data import clusters, make_svi, sequences
from tests.models import (
    lds_recognition,
    lds_svae,
    mixture,
    mixture_recognition,
    mixture_svae,
)

DRAWS = 40  # of what ArviZ is given


class Fitted(NamedTuple):
    """A guide after a few steps."""

    model: Callable
    guide: ns.AutoSVAE
    svi: SVI
    params: dict[str, Any]
    losses: Any
    args: tuple


def fit(model, recognition, *args):
    guide = ns.AutoSVAE(model, recognition, num_starts=1)  # far from the end
    svi = make_svi(model, guide, natural=0.5)
    result = svi.run(random.PRNGKey(0), 20, *args, progress_bar=False)
    return Fitted(model, guide, svi, result.params, result.losses, args)


@pytest.fixture(scope="session")
def gmm():
    """Model 1."""
    return fit(mixture, None, clusters()[0])


@pytest.fixture(scope="session")
def svae():
    """Model 2."""
    return fit(mixture_svae, mixture_recognition, sequences()[0][:, 0])


@pytest.fixture(scope="session")
def lds():
    """Model 5."""
    return fit(lds_svae, lds_recognition, *sequences())


@pytest.fixture(scope="session")
def mixture_data(gmm):
    args = gmm.model, gmm.guide, gmm.params, *gmm.args
    return ns.to_arviz(*args, num_samples=DRAWS, num_particles=1, local_sites=["z"])


@pytest.fixture(scope="session")
def lds_data(lds):
    args = lds.model, lds.guide, lds.params, *lds.args
    return ns.to_arviz(
        *args, num_samples=DRAWS, num_particles=4, local_sites=["x"], losses=lds.losses
    )
