# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian state space models as one dense Gaussian, in NumPy."""

from typing import NamedTuple

import numpy as np


class Dense(NamedTuple):
    """A Gaussian over the states ``(T, D)`` and observations ``(T, P)``, flattened."""

    mean: np.ndarray
    covariance: np.ndarray
    sizes: tuple[int, int, int]

    def given(self, y, seen):
        """Moments of everything given the observations at the steps that are seen."""
        steps, dim, outputs = self.sizes
        start = steps * dim
        index = start + np.arange(steps * outputs).reshape(steps, outputs)[seen].ravel()
        cross, own = self.covariance[:, index], self.covariance[np.ix_(index, index)]
        gain = np.linalg.solve(own, cross.T).T
        away = np.asarray(y)[seen].ravel() - self.mean[index]
        return self._replace(
            mean=self.mean + gain @ away, covariance=self.covariance - gain @ cross.T
        )

    def states(self, steps):
        """Mean and covariance of some states, flattened."""
        return self._part(steps, 0, self.sizes[1])

    def observations(self, steps):
        """Mean and covariance of some observations, flattened."""
        return self._part(steps, self.sizes[0] * self.sizes[1], self.sizes[2])

    def _part(self, steps, start, size):
        index = (start + np.asarray(steps)[:, None] * size + np.arange(size)).ravel()
        return self.mean[index], self.covariance[np.ix_(index, index)]


def dense(first, biases, matrix, noise, loading, offset, seen_noise):
    """States ``x' = matrix x + bias + noise``, observations ``loading x + offset``.

    :param first: mean and covariance of the first state.
    :param biases: of the steps, ``(T - 1, D)``.
    """
    (mean, cov), dim, steps = first, len(matrix), len(biases) + 1
    means, covs = [mean], np.zeros((steps * dim, steps * dim))
    covs[:dim, :dim] = cov
    for t, bias in enumerate(biases):
        now, then = slice(t * dim, (t + 1) * dim), slice((t + 1) * dim, (t + 2) * dim)
        means.append(matrix @ means[-1] + bias)
        covs[then, : now.stop] = matrix @ covs[now, : now.stop]
        covs[: now.stop, then] = covs[then, : now.stop].T
        covs[then, then] = matrix @ covs[now, now] @ matrix.T + noise
    full = np.kron(np.eye(steps), loading)
    states = np.concatenate(means)
    seen = full @ states + np.tile(offset, steps)
    cross = full @ covs
    own = cross @ full.T + np.kron(np.eye(steps), seen_noise)
    covariance = np.block([[covs, cross.T], [cross, own]])
    return Dense(np.concatenate([states, seen]), covariance, (steps, dim, len(loading)))
