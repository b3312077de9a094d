# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One natural-gradient step of size one is the textbook posterior."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import multivariate_t

import numpyro_svae as ns
from tests.data import clusters, make_svi, sequences, steps
from tests.models import KAPPA, labelled_mixture, mixture, observed_lds

SPELLINGS = pytest.mark.parametrize("joint", [True, False], ids=["joint", "two-site"])


def one_step(model, *args):
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 1, *args)
    return guide.get_posterior(params)


def regression_posterior(v, u, loc):
    """Conjugate update of the prior that ``tests.models`` writes (Bishop, 3.3)."""
    dim, columns = loc.shape
    precision = KAPPA * np.eye(columns) + u.T @ u
    mean = np.linalg.solve(precision, (KAPPA * loc + v.T @ u).T).T
    residual, shift = v - u @ mean.T, mean - loc
    scale = np.eye(dim) + residual.T @ residual + KAPPA * shift @ shift.T
    return mean, precision, scale, dim + 2.0 + len(v)


def assert_is_niw(found, v, member=()):
    mean, precision, scale, df = regression_posterior(
        v, np.ones((len(v), 1)), np.zeros((v.shape[1], 1))
    )
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    close(found.loc[member], mean[:, 0])
    close(found.concentration[member], precision[0, 0])
    close(found.df[member], df)
    close(found.scale_matrix[member], scale)


@SPELLINGS
def test_mixture_with_observed_labels(joint, x64):
    y, labels = clusters(20)
    labels = np.where(labels == 2, 0, labels)  # nothing was seen of the last component
    found = one_step(partial(mixture, joint=joint), y, labels)
    assert isinstance(found["components"], ns.NormalInverseWishart)
    for k in range(3):
        assert_is_niw(found["components"], np.asarray(y)[labels == k], k)
    counts = np.bincount(labels, minlength=3)
    np.testing.assert_allclose(found["weights"].concentration, 0.7 + counts, rtol=1e-10)


@SPELLINGS
def test_mixture_with_labels_as_data(joint, x64):
    y, labels = clusters(20)
    found = one_step(partial(labelled_mixture, joint=joint), y, labels)
    assert set(found) == {"components"}
    for k in range(3):
        assert_is_niw(found["components"], np.asarray(y)[np.asarray(labels) == k], k)


@SPELLINGS
def test_linear_dynamics_with_observed_states_and_actions(joint, x64):
    x, actions = (np.asarray(a) for a in sequences(outputs=2))
    found = one_step(partial(observed_lds, joint=joint), x, actions)
    assert_is_niw(found["init"], x[:, 0])
    v = x[:, 1:].reshape(-1, 2)
    u = np.concatenate([x[:, :-1], actions], -1).reshape(-1, 3)
    dynamics = found["dynamics"]
    assert isinstance(dynamics, ns.MatrixNormalInverseWishart)
    expected = regression_posterior(v, u, 0.9 * np.eye(2, 3))
    names = ("loc", "column_precision", "scale_matrix", "df")
    for name, value in zip(names, expected):
        np.testing.assert_allclose(
            getattr(dynamics, name), value, rtol=1e-10, atol=1e-10, err_msg=name
        )


def log_evidence(v, u, loc):
    """One multivariate t after the other, each given the data before it."""
    dim, total = v.shape[1], 0.0
    for n in range(len(v)):
        mean, precision, scale, df = regression_posterior(v[:n], u[:n], loc)
        df = df - dim + 1
        spread = 1.0 + u[n] @ np.linalg.solve(precision, u[n])
        predictive = multivariate_t(mean @ u[n], scale * spread / df, df)
        total += predictive.logpdf(v[n])
    return total


def test_elbo_of_the_exact_posterior_is_the_evidence(x64):
    x, actions = (np.asarray(a) for a in sequences(outputs=2))
    _, losses = steps(make_svi(observed_lds, ns.AutoSVAE(observed_lds)), 2, x, actions)
    v = x[:, 1:].reshape(-1, 2)
    u = np.concatenate([x[:, :-1], actions], -1).reshape(-1, 3)
    evidence = log_evidence(v, u, 0.9 * np.eye(2, 3))
    evidence += log_evidence(x[:, 0], np.ones((len(x), 1)), np.zeros((2, 1)))
    np.testing.assert_allclose(-losses[1], evidence, rtol=1e-10)
