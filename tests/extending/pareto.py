# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A conjugate observation of one's own: Pareto, whose exponent has a Gamma prior.

log p(y) = log alpha - alpha log(y / m) - log y
"""

import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.families import GammaNatural
from numpyro_svae.kinds import GammaPrior, Observation


def _pareto(fn, y):
    """The statistics, which go with ``E log alpha`` and ``-E alpha``, and the rest."""
    return GammaNatural(jnp.ones(y.shape), jnp.log(y / fn.scale)), -jnp.log(y)


PARETO = Observation(dist.Pareto, "alpha", GammaPrior, _pareto, given=("scale",))
