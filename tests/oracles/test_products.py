# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Products of chains and other sites, against the densities of their programs.

Along each path of the discrete sites a program's log density is a quadratic form of its
Gaussian ones, which is read off :func:`numpyro.infer.util.log_density`.
"""

from functools import partial
from itertools import product
import math

import jax
from jax import random
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import log_density
import pytest

import numpyro_svae as ns
from tests import coupled

pytestmark = pytest.mark.x64
Y = np.array([[[0.3, 0.1], [1.2, -0.4], [1.9, 0.6]]])
MODELS = [
    coupled.two_chains,
    coupled.grouped_offsets,
    coupled.factorial_hmm,
    coupled.shared_regime,
    coupled.regime_and_label,
]
EXACT = ns.FixedPoint(tolerance=1e-13, max_sweeps=600)


class BruteForce:
    """The ELBO of any product of distributions of the sites of a program."""

    def __init__(self, model, local):
        self.local = local
        self.discrete = [n for n in local if jnp.issubdtype(_draw(local[n]).dtype, int)]
        self.states = [n for n in local if n not in self.discrete]
        sizes = [_sites(local[n]) for n in self.discrete]
        self.paths = [jnp.array(list(product(range(k), repeat=t))) for k, t in sizes]
        zeros = {name: jnp.zeros_like(_draw(local[name])) for name in self.states}
        flat, unravel = ravel_pytree(zeros)
        self.order = sorted(self.states)  # that of ravel_pytree

        def density(paths, x):
            values = {
                name: jnp.reshape(path, _draw(local[name]).shape)
                for name, path in zip(self.discrete, paths)
            }
            return log_density(model, (Y,), {}, {**values, **unravel(x)})[0]

        def form(*paths):
            """The quadratic form, from its values at sums of unit vectors."""
            at, eye = jax.vmap(partial(density, paths)), jnp.eye(len(flat))
            origin, ones = density(paths, flat), at(eye)
            pairs = jax.vmap(at)(eye[:, None] + eye)
            precision = -(pairs - ones[:, None] - ones + origin)
            return origin, ones - origin + 0.5 * jnp.diagonal(precision), precision

        for axis in reversed(range(len(self.paths))):
            axes = [None] * len(self.paths)
            axes[axis] = 0
            form = jax.vmap(form, axes)
        self.constant, self.info, self.precision = jax.jit(form)(*self.paths)

    def arguments(self):
        """Log probabilities of paths; means and covariances of Gaussian sites."""
        log_probs, gaussians = [], []
        for name, paths in zip(self.discrete, self.paths):
            shape = _draw(self.local[name]).shape
            values = jnp.reshape(paths, (len(paths), *shape))
            found = jax.vmap(self.local[name].log_prob)(values)
            log_probs.append(jnp.reshape(found, len(paths)))
        for name in self.order:
            fn = self.local[name]
            dense = fn.to_dense() if hasattr(fn, "to_dense") else fn
            dense = getattr(dense, "base_dist", dense)  # without to_event
            mean, cov = jnp.ravel(fn.mean), dense.covariance_matrix
            blocks = jnp.reshape(cov, (-1, *cov.shape[-2:]))
            gaussians.append((mean, jax.scipy.linalg.block_diag(*blocks)))
        return log_probs, gaussians

    def __call__(self, log_probs, gaussians):
        log_probs = [jax.nn.log_softmax(found) for found in log_probs]
        value = self.constant
        if gaussians:
            mean = jnp.concatenate([mean for mean, _ in gaussians])
            cov = jax.scipy.linalg.block_diag(*[cov for _, cov in gaussians])
            second = cov + jnp.outer(mean, mean)
            value = value + self.info @ mean
            value = value - 0.5 * jnp.sum(self.precision * second, (-2, -1))
        for found in reversed(log_probs):
            value = value @ jnp.exp(found)
        for found in log_probs:
            value = value - jnp.exp(found) @ found
        for mean, cov in gaussians:
            size = len(mean) * (1 + math.log(2 * math.pi))
            value = value + 0.5 * (size + jnp.linalg.slogdet(cov)[1])
        return value

    def log_evidence(self):
        value = self.constant
        if self.states:
            size = self.info.shape[-1] * math.log(2 * math.pi)
            solved = jnp.linalg.solve(self.precision, self.info[..., None])[..., 0]
            value = value + 0.5 * jnp.sum(self.info * solved, -1)
            value = value + 0.5 * (size - jnp.linalg.slogdet(self.precision)[1])
        return jax.scipy.special.logsumexp(value)


def _draw(fn):
    return fn.sample(random.PRNGKey(0))


def _sites(fn):
    """Number of states, and of positions, of a discrete marginal."""
    probs = fn.probs
    return probs.shape[-1], math.prod(probs.shape[:-1])


def loss_of(model, y=Y, **options):
    guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(**options))
    return float(ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, model, guide, y))


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.__name__)
def optimum(request):
    """A program, the loss of its product, and brute force."""
    with jax.enable_x64(True):
        guide = ns.AutoSVAE(request.param, fixed_point=EXACT)
        loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, request.param, guide, Y)
        local = guide.posterior_local({}, Y)
        return request.param, float(loss), BruteForce(request.param, local)


def test_the_elbo_is_that_of_brute_force(optimum):
    _, loss, brute = optimum
    np.testing.assert_allclose(-loss, brute(*brute.arguments()), rtol=1e-9)
    evidence = brute.log_evidence()
    assert evidence - 2.0 < -loss < evidence - 1e-4


def test_the_product_is_a_stationary_point_of_brute_force(optimum):
    _, _, brute = optimum
    for slope in jax.tree.leaves(jax.grad(brute, (0, 1))(*brute.arguments())):
        np.testing.assert_allclose(slope, 0.0, atol=1e-7)


@pytest.mark.slow
def test_a_minibatch_stands_for_all_of_the_data():
    """Two sequences that are equal, and one of them that counts twice.

    What they share is global then, and as far as the sweeps of its start went.
    """
    y = np.concatenate([Y, Y])
    converged = {"tolerance": 1e-9, "max_sweeps": 600}
    whole = loss_of(coupled.grouped_offsets, y, **converged)
    half = partial(coupled.grouped_offsets, subsample=1)
    np.testing.assert_allclose(loss_of(half, y, **converged), whole, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:AutoSVAE. coordinate ascent has ended")
@pytest.mark.parametrize("model", [coupled.two_chains, coupled.regime_and_label])
def test_no_sweep_lowers_the_elbo(model):
    losses = [loss_of(model, max_sweeps=n, anneal=0) for n in (1, 2, 3, 20)]
    assert np.all(np.diff(losses) < -1e-9)


@pytest.mark.parametrize(
    "model, weight", [("two_chains", "LOADING"), ("factorial_hmm", "EFFECTS")]
)
def test_its_gradient_is_that_of_finite_differences(model, weight):
    """Of posterior means, which the stationary ELBO alone would not test."""
    model, weight = getattr(coupled, model), jnp.asarray(getattr(coupled, weight))
    guide = ns.AutoSVAE(model, fixed_point=EXACT)

    @jax.jit
    @jax.value_and_grad
    def functional(weight):
        local = guide.posterior_local({}, Y, weight)
        first = local["a"].probs[..., 1] if "a" in local else local["x"].mean[..., 1]
        return jnp.sum(first * jnp.arange(1.0, 4.0))

    guide.posterior_local({}, Y, weight)
    direction = np.random.default_rng(0).standard_normal(weight.shape)
    step = 1e-5
    change = functional(weight + step * direction)[0]
    change = change - functional(weight - step * direction)[0]
    slope = jnp.sum(functional(weight)[1] * direction)
    assert abs(slope) > 1e-2
    np.testing.assert_allclose(slope, change / (2 * step), rtol=1e-6)
