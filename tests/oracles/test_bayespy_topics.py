# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Latent Dirichlet allocation beside BayesPy from the same start."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bayespy.inference import VB
    from bayespy.inference.vmp.nodes.categorical import CategoricalMoments
    from bayespy.nodes import Categorical, Constant, Dirichlet, Gate

DOCUMENTS, TOPICS, VOCABULARY, LENGTH, SWEEPS = 3, 2, 5, 6, 5
RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, VOCABULARY, (DOCUMENTS, LENGTH))
OF_WORD = np.repeat(np.arange(DOCUMENTS), LENGTH)
WEIGHTS = RNG.uniform(1, 3, (DOCUMENTS, TOPICS))
PHRASES = RNG.uniform(1, 3, (TOPICS, VOCABULARY))


def listed(words):
    """All words in one plate, each with the number of its document."""
    with numpyro.plate("documents", DOCUMENTS):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(TOPICS)))
    with numpyro.plate("topics", TOPICS):
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.ones(VOCABULARY)))
    with numpyro.plate("words", words.size):
        z = numpyro.sample("z", dist.Categorical(theta[OF_WORD]))
        numpyro.sample("w", dist.Categorical(phi[z]), obs=words.ravel())


def nested(words):
    """A plate of words inside of that of documents, which has the weights too."""
    with numpyro.plate("topics", TOPICS):
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.ones(VOCABULARY)))
    with numpyro.plate("documents", DOCUMENTS, dim=-2):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(TOPICS)))
        with numpyro.plate("words", LENGTH, dim=-1):
            z = numpyro.sample("z", dist.Categorical(theta))
            numpyro.sample("w", dist.Categorical(phi[z]), obs=words)


def bounds():
    """The bound of BayesPy after each sweep."""
    theta = Dirichlet(np.ones(TOPICS), plates=(DOCUMENTS,))
    phi = Dirichlet(np.ones(VOCABULARY), plates=(TOPICS,))
    of_word = Constant(CategoricalMoments(DOCUMENTS), OF_WORD)
    z = Categorical(Gate(of_word, theta), plates=(WORDS.size,))
    w = Categorical(Gate(z, phi))
    theta.initialize_from_parameters(WEIGHTS)
    phi.initialize_from_parameters(PHRASES)
    w.observe(WORDS.ravel())
    found, engine = [], VB(w, z, theta, phi)
    for _ in range(SWEEPS):
        z.update()
        found.append(engine.compute_lowerbound())
        theta.update()
        phi.update()
    return found


@pytest.mark.parametrize("model", [listed, nested])
def test_topics_have_the_bound_of_bayespy(model, x64):
    shape = (DOCUMENTS, 1, TOPICS) if model is nested else WEIGHTS.shape
    start = {
        "theta": dist.Dirichlet(jnp.asarray(WEIGHTS).reshape(shape)),
        "phi": dist.Dirichlet(jnp.asarray(PHRASES)),
    }
    guide = ns.AutoSVAE(model, init=start)
    _, losses = steps(make_svi(model, guide), SWEEPS, WORDS)
    np.testing.assert_allclose(-losses, bounds(), rtol=1e-9)
