# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Errors around states, chains of them, and the fixed point of coupled sites."""

import jax.numpy as jnp
from numpyro import handlers
import pytest

import numpyro_svae as ns
from tests.switching import known_hmm, known_slds

Y = jnp.zeros((3, 4, 2))


def error_of(model, potential):
    """The message of the error about a potential for the states."""
    guide = ns.AutoSVAE(model, lambda y: {"z": potential})
    with pytest.raises(ValueError, match="Site 'z'") as raised:
        handlers.seed(guide, 0)(Y)
    return str(raised.value)


@pytest.mark.parametrize("model", [known_hmm, known_slds])
@pytest.mark.parametrize(
    "potential, parts",
    [
        (
            ns.GaussianPotential(jnp.zeros((3, 4, 2)), jnp.ones((3, 4, 2))),
            ["GaussianPotential. Accepted: a CategoricalPotential"],
        ),
        (
            ns.CategoricalPotential(jnp.zeros((3, 3, 2))),
            ["batch shape (3, 3) and states 2", "batch shape (3, 4)", "states 2"],
        ),
        (
            ns.CategoricalPotential(jnp.zeros((3, 4, 5))),
            ["states 5", "batch shape (3, 4)", "states 2"],
        ),
        (
            ns.CategoricalPotential(jnp.zeros((3, 4, 2)).at[1, 2, 0].set(jnp.nan)),
            ["NaN, infinite, or rules out every state", "CategoricalPotential.mask"],
        ),
        (
            ns.CategoricalPotential(jnp.zeros((3, 4, 2)).at[1, 2].set(-jnp.inf)),
            ["rules out every state somewhere", "minus infinity for some"],
        ),
    ],
    ids=["kind", "length", "states", "nan", "impossible"],
)
def test_a_potential_that_does_not_fit_a_chain_of_states(model, potential, parts):
    message = error_of(model, potential)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gradient": "exact"}, "gradient: found 'exact'; accepted are 'implicit'"),
        ({"max_sweeps": 0}, "found 0, 5 and 60; accepted are at least 1"),
        ({"anneal": -1}, "found 100, -1 and 60; accepted are at least 1"),
        ({"tolerance": 0.0}, "tolerance: found 0.0; accepted are positive"),
    ],
)
def test_options_of_the_fixed_point(options, message):
    with pytest.raises(ValueError, match=message):
        ns.FixedPoint(**options)
