# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What ``obs_mask`` leaves out is latent: inferred exactly, or an error."""

from itertools import product

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests.data import make_svi

KEY = random.PRNGKey(0)
SEEN = np.array([True, False, True, True, False])
WEIGHT = np.array([[1.0, -0.5], [0.3, 2.0], [0.0, 1.0]])
STEP = np.array([[0.9, 0.2], [-0.1, 0.7]])
NOISE = 0.3 * np.eye(3)
PRIOR = ns.NormalInverseWishart(np.ones(2), 0.3, 5.0, np.eye(2))


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def vectors(x, obs_mask=None):
    """Vectors of one component, of which some are missing."""
    mu, cov = ns.sample("component", PRIOR)
    with numpyro.plate("data", len(x)):
        fn = dist.MultivariateNormal(mu, cov)
        numpyro.sample("x", fn, obs=x, obs_mask=obs_mask)


def regression(x, y, seen):
    """Some of the regressors are missing."""
    with numpyro.plate("data", len(x)):
        fn = dist.MultivariateNormal(jnp.ones(2), jnp.eye(2))
        x = numpyro.sample("x", fn, obs=x, obs_mask=seen)
        fn = dist.MultivariateNormal(x @ WEIGHT.T, NOISE)
        numpyro.sample("y", fn, obs=y)


def walks(x, y, seen):
    """Some of the paths are missing as a whole."""
    with numpyro.plate("data", len(x)):
        chain = ns.LinearGaussianChain(
            jnp.ones(2), jnp.eye(2), STEP, 0.5 * jnp.eye(2), num_steps=x.shape[1]
        )
        x = numpyro.sample("x", chain, obs=x, obs_mask=seen)
        fn = dist.MultivariateNormal(x @ WEIGHT.T, NOISE)
        numpyro.sample("y", fn.to_event(1), obs=y)


def decoded(x, y, seen):
    """Vectors of which some are seen, all of them behind a nonlinear function."""
    with numpyro.plate("data", len(x)):
        fn = dist.MultivariateNormal(jnp.ones(2), jnp.eye(2))
        x = numpyro.sample("x", fn, obs=x, obs_mask=seen)
        fn = dist.Normal(jnp.tanh(x @ WEIGHT.T), 0.5).to_event(1)
        numpyro.sample("y", fn, obs=y)


def counts(seen):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", len(seen)):
        data = jnp.ones(len(seen), int)
        numpyro.sample("n", dist.Poisson(rate), obs=data, obs_mask=seen)


def loss_of(guide, model, *args):
    return float(ns.SVAE_ELBO().loss(KEY, {}, model, guide, *args))


def test_missing_vectors_teach_nothing(x64):
    x, found = numbers(5, 2), []
    for args in ((x, SEEN), (x[SEEN],)):
        guide = ns.AutoSVAE(vectors)
        svi = make_svi(vectors, guide, natural=1.0)
        state, _ = svi.update(svi.init(KEY, *args), *args)
        posterior = guide.get_posterior(svi.get_params(state))["component"]
        natural = posterior.natural_parameters
        found.append((svi.evaluate(state, *args), natural.vv, natural.df))
    for missing, left_out in zip(*found):
        np.testing.assert_allclose(missing, left_out, rtol=1e-9)


@pytest.mark.parametrize("steps", [0, 3])
def test_missing_regressors_and_paths_are_inferred(x64, steps):
    time = (steps,) if steps else ()
    x, y = numbers(5, *time, 2), numbers(5, *time, 3, seed=1)
    model, size = (walks, steps) if steps else (regression, 1)
    means, covs = [np.ones(2)], [np.eye(2)]
    for _ in range(size - 1):
        means.append(STEP @ means[-1])
        covs.append(STEP @ covs[-1] @ STEP.T + 0.5 * np.eye(2))
    joint = np.zeros((2 * size, 2 * size))
    for t in range(size):
        for u in range(t, size):
            block = np.linalg.matrix_power(STEP, u - t) @ covs[t]
            joint[2 * u : 2 * u + 2, 2 * t : 2 * t + 2] = block
            joint[2 * t : 2 * t + 2, 2 * u : 2 * u + 2] = block.T
    mean, loading = np.concatenate(means), np.kron(np.eye(size), WEIGHT)
    noise = np.kron(np.eye(size), NOISE)
    total = loading @ joint @ loading.T + noise
    flat_x, flat_y = np.reshape(x, (5, -1)), np.reshape(y, (5, -1))
    gain = np.linalg.solve(total, loading @ joint).T
    evidence = 0.0
    for own_x, own_y, seen in zip(flat_x, flat_y, SEEN):
        if seen:
            evidence += multivariate_normal(mean, joint).logpdf(own_x)
            evidence += multivariate_normal(loading @ own_x, noise).logpdf(own_y)
        else:
            evidence += multivariate_normal(loading @ mean, total).logpdf(own_y)
    guide = ns.AutoSVAE(model)
    loss = loss_of(guide, model, x, y, SEEN)
    np.testing.assert_allclose(loss, -evidence, rtol=1e-8)
    locals = guide.posterior_local({}, x, y, SEEN)
    local = locals["x_unobserved" if steps else "x"]
    expected = mean + (flat_y - loading @ mean) @ gain.T
    found = np.reshape(local.mean, (5, -1))
    np.testing.assert_allclose(found[~SEEN], expected[~SEEN], atol=1e-8)
    if not steps:  # what is known is certain
        np.testing.assert_array_equal(found[SEEN], flat_x[SEEN])
        assert not np.any(local.covariance_matrix[SEEN])


def test_missing_vectors_behind_a_network(x64):
    def recognition(x, y, seen):
        potential = ns.GaussianPotential.from_loc_scale(y[:, :2], 0.7 * jnp.ones(2))
        return {"x": potential}

    x, y = numbers(5, 2), numbers(5, 3, seed=1)
    guide = ns.AutoSVAE(decoded, recognition)
    whole = loss_of(guide, decoded, x, y, SEEN)
    changed = jnp.where(SEEN[:, None], x, 7.0)
    assert np.isfinite(whole)
    np.testing.assert_allclose(loss_of(guide, decoded, changed, y, SEEN), whole)
    without = ns.AutoSVAE(decoded)  # what is missing is sent gradients
    better = loss_of(without, decoded, x, y, SEEN)
    assert better < whole
    np.testing.assert_allclose(loss_of(without, decoded, changed, y, SEEN), better)


def test_missing_counts_are_an_error_that_says_what_to_write():
    with pytest.raises(ValueError, match=r"'n_unobserved': obs_mask.*fn.mask\(seen\)"):
        loss_of(ns.AutoSVAE(counts), counts, SEEN)


LABELS, KNOWN = np.array([0, 1, 1, 0, 1, 0]), np.array([1, 1, 0, 0, 1, 0], bool)
CENTRES = np.array([[0.0, 1.0], [1.5, -1.0]])
STATES = dist.Dirichlet(np.array([1.5, 2.0]))


def labelled(y, labels, known, counts, scored):
    """Labels of which a part is known, and masks around them and around the data."""
    weights = numpyro.sample("weights", STATES)
    with numpyro.plate("data", len(y)):
        with numpyro.handlers.mask(mask=counts):
            fn = dist.Categorical(weights)
            z = numpyro.sample("z", fn, obs=labels, obs_mask=known)
        fn = dist.MultivariateNormal(jnp.asarray(CENTRES)[z], jnp.eye(2)).mask(scored)
        numpyro.sample("y", fn, obs=y)


def after_a_step(*args):
    guide = ns.AutoSVAE(labelled, num_starts=1, init={"weights": STATES})
    svi = make_svi(labelled, guide, natural=1.0)
    state, loss = jax.jit(svi.update)(svi.init(KEY, *args), *args)
    params = svi.get_params(state)
    return loss, params["weights_auto_natural"].concentration


@pytest.mark.parametrize("around", ["everything", "known labels"])
def test_masks_around_labels_that_are_known_in_part(x64, around):
    y, out = numbers(6, 2), KNOWN & (LABELS == 1)
    if around == "everything":
        out = np.array([0, 1, 0, 1, 0, 0], bool)
    scored = ~out if around == "everything" else np.ones(6, bool)
    loss, weights = after_a_step(y, LABELS, KNOWN, ~out, scored)
    kept = (a[~out] for a in (y, LABELS, KNOWN, ~out, scored))
    expected, others = after_a_step(*kept)
    for own, label in zip(y[out & scored], LABELS[out & scored]):
        expected -= multivariate_normal(CENTRES[label]).logpdf(own)
    np.testing.assert_allclose(loss, expected, rtol=1e-9)
    np.testing.assert_allclose(weights, others, rtol=1e-9)


def test_a_label_has_its_own_name_and_counts_where_it_is_known():
    def model(y, labels, known):
        with numpyro.plate("data", len(y)):
            fn = dist.Categorical(jnp.array([0.4, 0.6]))
            z = numpyro.sample("z", fn, obs=labels, obs_mask=known)
            gaussian = dist.MultivariateNormal(jnp.asarray(CENTRES)[z], jnp.eye(2))
            numpyro.sample("y", gaussian, obs=y)

    guide, args = ns.AutoSVAE(model), (numbers(6, 2), LABELS, KNOWN)
    probs = guide.posterior_local({}, *args)["z"].probs
    np.testing.assert_allclose(probs[KNOWN], np.eye(2)[LABELS[KNOWN]], atol=1e-6)
    counts = ns.report(model, guide, {}, *args, num_samples=100, show=False).counts
    np.testing.assert_allclose(counts["z"], probs.sum(0), rtol=1e-5)
    smoothed = ns.smooth(model, guide, {}, *args)["z_probs"]
    assert smoothed.dims == ("data", "category")
    idata = ns.to_arviz(model, guide, {}, *args, num_samples=3, local_sites=["z"])
    draws = idata["posterior"]["z"]
    assert draws.dims == ("chain", "draw", "data")
    assert np.array_equal(draws.values[0][:, KNOWN], np.tile(LABELS[KNOWN], (3, 1)))


def test_a_vector_that_a_step_of_a_scan_misses_has_its_prior_given_the_path(x64):
    """Nothing depends on it: the path is that of a mask."""

    def model(y, seen, masked):
        x = numpyro.sample("first", dist.MultivariateNormal(jnp.ones(2), jnp.eye(2)))

        def step(x, now):
            y, seen = now
            fn = dist.MultivariateNormal(STEP @ x, 0.5 * jnp.eye(2))
            x = numpyro.sample("x", fn)
            fn = dist.MultivariateNormal(WEIGHT @ x, NOISE)
            if masked:
                numpyro.sample("y", fn.mask(seen), obs=y)
            else:
                numpyro.sample("y", fn, obs=y, obs_mask=seen)
            return x, None

        scan(step, x, (y, seen))

    found = {}
    for masked in (True, False):
        guide, args = ns.AutoSVAE(model, num_starts=1), (numbers(5, 3), SEEN, masked)
        loss = ns.SVAE_ELBO().loss(KEY, {}, model, guide, *args)
        found[masked] = loss, guide.posterior_local({}, *args)
    (bound, known), (loss, posterior) = found[True], found[False]
    np.testing.assert_allclose(loss, bound, rtol=1e-9)
    np.testing.assert_allclose(posterior["x"].mean, known["x"].mean, rtol=1e-7)
    expected = known["x"].mean[1:][~SEEN] @ WEIGHT.T
    np.testing.assert_allclose(posterior["y"].mean[1:][~SEEN], expected, rtol=1e-7)
    cov = posterior["y"].base_dist.covariance_matrix[1:][~SEEN]
    np.testing.assert_allclose(cov, np.broadcast_to(NOISE, (2, 3, 3)), atol=1e-12)


def states(y, labels, known, how):
    """Three states in a path, of which some are known: said in the body of a scan."""

    def step(z, now):
        y, label, known = now
        fn = dist.Categorical(jnp.asarray(ROWS)[z])
        if how == "obs_mask":
            z = numpyro.sample("z", fn, obs=label, obs_mask=known)
        else:
            z = numpyro.sample("z", fn)
            fn = dist.Categorical(jnp.eye(3)[z]).mask(known)
            numpyro.sample("z_known", fn, obs=label)
        numpyro.sample("y", dist.Normal(jnp.asarray(CENTRES_OF_3)[z], 1.0), obs=y)
        return z, None

    z = numpyro.sample("first", dist.Categorical(jnp.ones(3) / 3))
    scan(step, z, (y, labels, known))


ROWS = np.array([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.2, 0.2, 0.6]])
CENTRES_OF_3 = np.array([-1.0, 0.0, 2.0])
PATH = np.array([0.3, -1.0, 0.5, 2.0]), np.array([0, 2, 1, 0]), np.arange(4) % 2 == 0


def test_states_that_are_known_in_part_are_data_of_their_own(x64):
    """As the error says; against all paths."""
    with pytest.raises(ValueError, match=r"'z': .*eye\(K\)\[z\]\)\.mask\(known\)"):
        ns.AutoSVAE(states).posterior_local({}, *PATH, "obs_mask")
    y, labels, known = PATH
    weights = {}
    for path in product(range(3), repeat=5):
        steps = np.array(path)
        fits = np.all((steps[1:] == labels) | ~known)
        terms = -0.5 * (y - CENTRES_OF_3[steps[1:]]) ** 2 + np.log(
            ROWS[steps[:-1], steps[1:]]
        )
        weights[path] = float(fits * np.exp(np.sum(terms)))
    total = sum(weights.values())
    expected = [
        [sum(w for p, w in weights.items() if p[t] == k) / total for k in range(3)]
        for t in range(5)
    ]
    found = ns.AutoSVAE(states).posterior_local({}, *PATH, "data")["z"]
    np.testing.assert_allclose(found.probs, expected, atol=1e-9)


def test_a_mask_of_steps_makes_no_copies_of_a_path():
    """NumPyro would draw a path for each entry of the mask."""

    def model(y, labels, known):
        chain = ns.DiscreteMarkovChain(jnp.ones(3) / 3, ROWS, num_steps=4)
        z = numpyro.sample("z", chain, obs=labels, obs_mask=known)
        numpyro.sample(
            "y", dist.Normal(jnp.asarray(CENTRES_OF_3)[z], 1.0).to_event(1), obs=y
        )

    with pytest.raises(ValueError, match=r"'z': .*\(4,\).* 4 times.*mask\(known\)"):
        ns.AutoSVAE(model).posterior_local({}, *PATH)
