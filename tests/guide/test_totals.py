# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The sum of the terms of an ELBO in a form of its own is that of the terms by site."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import block, scale
import pytest

import numpyro_svae as ns
from tests.conjugate import diagonal_mixture, gaussian, poisson_hmm
from tests.coupled import two_chains
from tests.data import clusters, make_svi, sequences
from tests.graphs_of_sites import (
    hierarchy,
    hierarchy_svae,
    members_recognised,
    nested_labels,
)
from tests.masked import masked_hmm
from tests.models import (
    known_lds,
    labelled_mixture,
    lds_recognition,
    lds_svae,
    linear_lds,
    mixture,
    mixture_recognition,
    mixture_svae,
)
from tests.switching import hmm_svae, recognition, slds_svae

POINTS, LABELS = clusters(8)
Y, ACTIONS = sequences()
PLANE = Y[..., :2]
COUNTS = jnp.abs(jnp.round(Y))
SOME = np.arange(4) % 3 > 0
CASES = {
    "no-locals": (gaussian, None, (POINTS,)),
    "mixture": (mixture, None, (POINTS,)),
    "minibatch": (partial(mixture, subsample=4), None, (POINTS,)),
    "labels": (labelled_mixture, None, (POINTS, LABELS)),
    "latent-mixture": (partial(diagonal_mixture, latent=True), None, (POINTS,)),
    "mixture-svae": (mixture_svae, mixture_recognition, (Y[:, 0],)),
    "linear": (linear_lds, None, (Y, ACTIONS)),
    "lds-svae": (lds_svae, lds_recognition, (Y, ACTIONS)),
    "points": (partial(known_lds, learn=True), None, (Y, ACTIONS)),
    "hmm": (poisson_hmm, None, (COUNTS[..., 0],)),
    "hmm-svae": (hmm_svae, recognition, (Y,)),
    "slds-svae": (slds_svae, recognition, (Y, ACTIONS)),
    "hierarchy": (hierarchy, None, (Y,)),
    "hierarchy-svae": (hierarchy_svae, members_recognised, (Y[:, :3],)),
    "nested-labels": (nested_labels, None, (Y[..., 0],)),
    "two-chains": (two_chains, None, (PLANE,)),
    "masked": (masked_hmm, None, (PLANE, SOME, np.stack([SOME] * 5, 1))),
}


def problem(name):
    model, recognise, args = CASES[name]
    guide = ns.AutoSVAE(model, recognise, num_starts=1)
    svi = make_svi(model, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), *args))
    return params, model, guide, args


def loss_of(params, model, guide, args, **options):
    elbo = ns.SVAE_ELBO(**options)
    return elbo.loss(random.PRNGKey(3), params, model, guide, *args)


def sum_by_site(params, *args):
    return sum(loss_of(params, *args, sum_sites=False).values())


def assert_same(found, expected):
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(leaf, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_the_terms_by_site(name, x64):
    params, *rest = problem(name)

    @jax.jit
    def both(params):
        """In one program, most of which they share."""
        return tuple(
            jax.value_and_grad(lambda p, loss=loss: loss(p, *rest))(params)
            for loss in (loss_of, sum_by_site)
        )

    assert_same(*both(params))


def test_gradients_of_gradients_are_those_of_the_terms_by_site(x64):
    """Of parameters that all posteriors depend on."""
    params, *rest = problem("points")
    noise = params.pop("noise")
    found, expected = (
        jax.jit(jax.grad(jax.grad(lambda x, f=f: f({**params, "noise": x}, *rest))))
        for f in (loss_of, sum_by_site)
    )
    np.testing.assert_allclose(found(noise), expected(noise), rtol=1e-8)


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize(
    "change", [partial(scale, scale=0.3), partial(block, hide=["z"])]
)
def test_handlers_that_change_terms_change_their_sum(change, x64):
    """A weight on the divergences, as in annealing; or a site that is not there."""
    params, model, guide, args = problem("mixture")
    rest = model, change(guide), args
    assert_same(loss_of(params, *rest), sum_by_site(params, *rest))
    assert abs(loss_of(params, *rest) - loss_of(params, model, guide, args)) > 0.1
