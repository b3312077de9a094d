# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Errors of programs whose states depend on latent vectors in other ways."""

from jax import random
from jax.nn import softmax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from tests.recurrent import LOGITS, Y, recurrent


def scaled(y):
    recurrent(y, numpyro.sample("size", dist.Gamma(2.0, 1.0)) * LOGITS)


def whole_path(y, logits=lambda x: jnp.cumsum(x, 1), first=False):
    """States in plates whose logits see several steps of a path."""
    with numpyro.plate("sequences", len(y)):
        chain = ns.LinearGaussianChain(
            jnp.zeros(1), jnp.eye(1), 0.9 * jnp.eye(1), jnp.eye(1), num_steps=4
        )
        x = numpyro.sample("x", chain)
        seen = logits(x)
        both = jnp.concatenate([seen, -seen], -1)
        if first:
            probs = softmax(both[:, 0], -1)
            states = ns.DiscreteMarkovChain(probs, jnp.eye(2), 4)
        else:
            states = dist.Categorical(logits=both).to_event(1)
        z = numpyro.sample("z", states)
        loc = jnp.array([0.0, 1.0])[z][..., None]
        fn = dist.MultivariateNormal(loc, jnp.eye(1)).to_event(1)
        numpyro.sample("y", fn, obs=y)


CASES = {
    "a scale of the weights": (
        scaled,
        "depend on latent 'size', 'x'.* Gaussian sites, .* in the place of 'size'",
    ),
    "several steps": (whole_path, "'z': its probs .* at one step"),
    "a first state": (
        lambda y: whole_path(y, lambda x: x, first=True),
        "'z': its initial_probs .* first state of a chain",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused_is_named(case):
    model, message = CASES[case]
    svi = SVI(model, ns.AutoSVAE(model), optax.sgd(0.1), ns.SVAE_ELBO())
    with pytest.raises(ValueError, match=message):
        svi.init(random.PRNGKey(0), jnp.asarray(Y, float))


def test_a_structure_says_what_sends_its_gradient():
    guide = ns.AutoSVAE(recurrent)
    svi = SVI(recurrent, guide, optax.sgd(0.1), ns.SVAE_ELBO())
    svi.init(random.PRNGKey(0), jnp.asarray(Y))
    assert "'z', transition  sends its gradient to 'x'" in str(guide.structure)
