# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Natural-gradient ascent of a start."""

import jax.numpy as jnp

from numpyro_svae.families import GammaNatural
from numpyro_svae.inference.start.ascent import ascend


def test_an_ascent_ends_within_a_family_whose_bound_rises_beyond():
    def bound(naturals):
        beyond = naturals["rate"].concentration + 1.0
        slope = GammaNatural(-2.0 * beyond, jnp.zeros(()))
        return (-(beyond**2), None), {"rate": slope}

    start = {"rate": GammaNatural(jnp.ones(()), jnp.ones(()))}
    value, found, _ = ascend(bound, start, 50, 0.5)
    assert found["rate"].has_density()
    assert -1.1 < value < -1.0
