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
    assert -1.1 < value <= -1.0


def test_a_block_at_the_end_of_its_family_does_not_hold_up_another():
    """Their bounds have nothing to do with each other."""

    def slope(natural, to):
        return GammaNatural(to - natural.concentration, jnp.zeros(()))

    def bound(naturals):
        ends, goes_on = (naturals[name].concentration for name in ("ends", "goes on"))
        rise = {
            "ends": slope(naturals["ends"], -1e3),
            "goes on": slope(naturals["goes on"], 50.0),
        }
        return (-1e-3 * ends - (goes_on - 50.0) ** 2, None), rise

    natural = GammaNatural(jnp.ones(()), jnp.ones(()))
    _, found, _ = ascend(bound, {"ends": natural, "goes on": natural}, 20, 0.5)
    assert found["ends"].has_density()
    assert jnp.abs(found["goes on"].concentration - 50.0) < 0.1
