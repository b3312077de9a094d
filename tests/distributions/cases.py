# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The distributions that the battery runs on, with an oracle for each density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import functools
from typing import Any

import jax
from jax.typing import ArrayLike
import numpy as np
from numpyro.distributions import Distribution
import pytest
from scipy import stats

import numpyro_svae.distributions as nd

__all__ = [
    "CASES",
    "CHAINS",
    "NUM_DRAWS",
    "PRIORS",
    "WITH_MOMENTS",
    "Case",
    "draws",
    "every_case",
    "every_case_with_moments",
    "log_prob",
    "one_draw",
    "spd",
]


NUM_DRAWS = 20_000


@dataclass(frozen=True, eq=False)
class Case:
    """One distribution with its parameters.

    :param cls: the class.
    :param params: arguments of the constructor, as numpy arrays.
    :param log_density: the density of one event given unbatched parameters, by SciPy.
    """

    name: str
    cls: type[Distribution]
    params: dict[str, Any]
    log_density: Callable[..., float]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters that are arrays."""
        return {k: x for k, x in self.params.items() if isinstance(x, np.ndarray)}

    def make(self, **changes: Any) -> Distribution:
        return self.cls(**{**self.params, **changes})

    def unbatched(self, index: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The parameters of one element of the batch."""
        made = self.make()
        single = dict(self.params)
        for name, x in self.arrays.items():
            ndim = self.cls.arg_constraints[name].event_dim
            event_shape = x.shape[max(x.ndim - ndim, 0) :]
            single[name] = np.broadcast_to(x, made.batch_shape + event_shape)[index]
        return single

    def oracle(self, value: np.ndarray) -> np.ndarray:
        """Log density of values of shape ``batch_shape + event_shape``."""
        batch_shape = self.make().batch_shape
        rows = [
            self.log_density(value[index], **self.unbatched(index))
            for index in np.ndindex(batch_shape)
        ]
        return np.reshape(rows, batch_shape)


@functools.cache
def draws(case: Case) -> np.ndarray:
    """Samples in float64, drawn once because samplers take seconds to compile."""
    with jax.enable_x64(True):
        sampler = jax.jit(lambda made, key: made.sample(key, (NUM_DRAWS,)))
        return np.asarray(sampler(case.make(), jax.random.key(0)))


def one_draw(case: Case) -> jax.Array:
    """One sample, in the precision of the test."""
    return jax.numpy.asarray(draws(case)[0], jax.numpy.result_type(float))


def log_prob(made: Distribution, value: ArrayLike) -> jax.Array:
    """Compiled, which is faster here than operation by operation."""
    return _log_prob(made, value)


_log_prob = jax.jit(lambda made, value: made.log_prob(value))


def spd(seed: int, dim: int, *batch: int) -> np.ndarray:
    """A well-conditioned positive definite matrix of shape (*batch, dim, dim)."""
    factor = np.random.default_rng(seed).normal(size=(*batch, dim, dim + 2))
    return factor @ np.swapaxes(factor, -1, -2) / (dim + 2) + 0.3 * np.eye(dim)


def _scale(scale_matrix=None, scale_tril=None):
    return scale_tril @ scale_tril.T if scale_matrix is None else scale_matrix


def _niw_log_density(value, loc, concentration, df, **scale) -> float:
    mean, cov = value[:, 0], value[:, 1:]
    given_cov = stats.multivariate_normal(loc, cov / concentration).logpdf(mean)
    return given_cov + stats.invwishart(df, _scale(**scale)).logpdf(cov)


def _mniw_log_density(value, loc, column_precision, df, **scale) -> float:
    num_columns = loc.shape[-1]
    weight, cov = value[:, :num_columns], value[:, num_columns:]
    columns = np.linalg.solve(column_precision, np.eye(num_columns))
    given_cov = stats.matrix_normal(loc, cov, columns).logpdf(weight)
    return given_cov + stats.invwishart(df, _scale(**scale)).logpdf(cov)


def _chain_log_density(
    value,
    initial_loc,
    initial_cov,
    transition_matrix,
    transition_cov,
    inputs=None,
    num_steps=None,
) -> float:
    steps = len(value) - 1
    size = value.shape[-1]
    matrices = np.broadcast_to(
        transition_matrix, (steps, *transition_matrix.shape[-2:])
    )
    covs = np.broadcast_to(transition_cov, (steps, size, size))
    regressors = value[:-1]
    if inputs is not None:
        regressors = np.concatenate([regressors, inputs], -1)
    total = stats.multivariate_normal(initial_loc, initial_cov).logpdf(value[0])
    for v, u, matrix, cov in zip(value[1:], regressors, matrices, covs, strict=True):
        total += stats.multivariate_normal(matrix @ u, cov).logpdf(v)
    return total


def _turn(x: jax.Array, u: jax.Array) -> jax.Array:
    """A transition that is not linear, of one state and its inputs."""
    return 0.8 * jax.numpy.sin(x[::-1] + jax.numpy.sum(u)) + 0.1 * x**2 / (1 + x**2)


def _nonlinear_log_density(
    value,
    initial_loc,
    initial_cov,
    transition_cov,
    transition,
    inputs=None,
    num_steps=None,
) -> float:
    steps, size = len(value) - 1, value.shape[-1]
    inputs = np.zeros((steps, 0)) if inputs is None else inputs
    covs = np.broadcast_to(transition_cov, (steps, size, size))
    total = stats.multivariate_normal(initial_loc, initial_cov).logpdf(value[0])
    for v, x, u, cov in zip(value[1:], value[:-1], inputs, covs, strict=True):
        mean = 0.8 * np.sin(x[::-1] + u.sum()) + 0.1 * x**2 / (1 + x**2)
        total += stats.multivariate_normal(mean, cov).logpdf(v)
    return total


def _nonlinear(name: str, **params: Any) -> Case:
    params["transition"] = _turn
    return Case(name, nd.NonlinearGaussianChain, params, _nonlinear_log_density)


def _chain(name: str, **params: Any) -> Case:
    return Case(name, nd.LinearGaussianChain, params, _chain_log_density)


def _niw(name: str, **params: Any) -> Case:
    return Case(name, nd.NormalInverseWishart, params, _niw_log_density)


def _mniw(name: str, **params: Any) -> Case:
    return Case(name, nd.MatrixNormalInverseWishart, params, _mniw_log_density)


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


PRIORS = [
    _niw(
        "niw",
        loc=_normal(0, 2),
        concentration=np.array(0.7),
        df=np.array(12.0),
        scale_matrix=spd(1, 2),
    ),
    _niw(
        "niw-scalar",
        loc=_normal(2, 1),
        concentration=np.array(2.0),
        df=np.array(11.5),
        scale_matrix=spd(3, 1),
    ),
    _niw(
        "niw-batch",
        loc=_normal(4, 2, 3, 2),
        concentration=np.array([0.5, 1.0, 3.0]),
        df=np.array([[12.0], [15.0]]),
        scale_tril=np.linalg.cholesky(spd(5, 2)),
    ),
    _mniw(
        "mniw",
        loc=_normal(6, 2, 3),
        column_precision=spd(7, 3),
        df=np.array(12.0),
        scale_matrix=spd(8, 2),
    ),
    _mniw(
        "mniw-one-row",
        loc=_normal(9, 1, 2),
        column_precision=spd(10, 2),
        df=np.array(11.0),
        scale_tril=np.linalg.cholesky(spd(11, 1)),
    ),
    _mniw(
        "mniw-batch",
        loc=_normal(12, 3, 1),
        column_precision=spd(13, 1, 2),
        df=np.array(14.0),
        scale_matrix=spd(14, 3, 2),
    ),
]

CHAINS = [
    _chain(
        "chain",
        initial_loc=_normal(15, 2),
        initial_cov=spd(16, 2),
        transition_matrix=0.6 * _normal(17, 2, 2),
        transition_cov=spd(18, 2),
        num_steps=4,
    ),
    _chain(
        "chain-batch",
        initial_loc=_normal(19, 3, 2),
        initial_cov=spd(20, 2),
        transition_matrix=0.6 * _normal(21, 3, 4, 2, 3),
        transition_cov=spd(22, 2, 1),
        inputs=_normal(23, 4, 1),
    ),
    _nonlinear(
        "nonlinear-chain",
        initial_loc=_normal(24, 2),
        initial_cov=spd(25, 2),
        transition_cov=spd(26, 2),
        num_steps=4,
    ),
    _nonlinear(
        "nonlinear-chain-batch",
        initial_loc=_normal(27, 3, 2),
        initial_cov=spd(28, 2),
        transition_cov=spd(29, 2, 1),
        inputs=_normal(30, 4, 1),
    ),
]

CASES = [*PRIORS, *CHAINS]
WITH_MOMENTS = [case for case in CASES if case.cls is not nd.NonlinearGaussianChain]


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_case_with_moments = pytest.mark.parametrize(
    "case", WITH_MOMENTS, ids=lambda case: case.name
)
