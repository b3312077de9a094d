# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the normal and the matrix-normal inverse-Wishart distributions share.

A normal inverse-Wishart is the matrix-normal inverse-Wishart of a regression on one
regressor that is always one, so all formulas are written once, for a weight F (D x M)
and a covariance matrix Sigma (D x D) with

    Sigma ~ InverseWishart(df, Psi),    F | Sigma ~ MatrixNormal(M_0, Sigma, K^-1).
"""

from __future__ import annotations

from typing import Self

from jax import Array, random
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import MultivariateStudentT
from numpyro.distributions.constraints import dependent_property
from numpyro.distributions.util import lazy_property, promote_shapes, validate_sample
from numpyro.util import is_prng_key

from numpyro_svae.distributions.arguments import (
    CheckedArguments,
    broadcast_batch_shapes,
    check_values,
)
from numpyro_svae.distributions.bartlett import bartlett_tril, solve_tril
from numpyro_svae.distributions.constraints import pack, symmetrize, unpack, weight_cov
from numpyro_svae.families import RegressionNatural, RegressionStandard
from numpyro_svae.shared_programs import quick_jit

__all__ = ["GaussianInverseWishart"]


class GaussianInverseWishart(CheckedArguments):
    """What :class:`MatrixNormalInverseWishart` and :class:`NormalInverseWishart` share.

    Not for use on its own: a subclass says how its arguments become the standard
    parameters of a regression (:meth:`_regression`) and come from natural parameters.
    """

    def _setup(
        self,
        arguments: dict[str, ArrayLike],
        event_shapes: dict[str, tuple[int, ...]],
        validate_args: bool | None,
    ) -> None:
        """Check the arguments and store them with as many batch dimensions each."""
        owner = type(self).__name__
        shapes = {name: jnp.shape(value) for name, value in arguments.items()}
        batch_shape = broadcast_batch_shapes(owner, shapes, event_shapes)
        dim, *columns = event_shapes["loc"]
        if self._validate_args if validate_args is None else validate_args:
            check_values(owner, arguments, dim)
        arrays = {name: jnp.asarray(value) for name, value in arguments.items()}
        dtype = jnp.result_type(float, *arrays.values())
        for name, array in arrays.items():
            shape = batch_shape + event_shapes[name]
            (value,) = promote_shapes(array.astype(dtype), shape=shape)
            if name == "scale_matrix":
                name, value = "scale_tril", jnp.linalg.cholesky(value)
            setattr(self, name, value)
        event_shape = (dim, (columns[0] if columns else 1) + dim)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @dependent_property(is_discrete=False, event_dim=2)
    def support(self):
        dim, width = self.event_shape
        return weight_cov(width - dim)

    @lazy_property
    def scale_matrix(self) -> Array:
        """The scale matrix Psi, of shape (..., D, D)."""
        return self.scale_tril @ self.scale_tril.mT

    def _regression(self) -> tuple[Array, Array]:
        """The location (..., D, M) and the column precision (..., M, M)."""
        raise NotImplementedError

    def _standard(self) -> RegressionStandard:
        loc, precision = self._regression()
        single = precision.shape[-1] == 1
        column_tril = jnp.sqrt(precision) if single else jnp.linalg.cholesky(precision)
        return RegressionStandard(loc, column_tril, self.scale_tril, self.df)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        r"""Draw reparameterised samples, by the Bartlett decomposition.

        With L the Cholesky factor of :math:`\Psi`, T the lower triangular Bartlett
        factor of a Wishart(:math:`\nu`, I) and E a matrix of standard normals,
        :math:`\Sigma = C C^T` for :math:`C = L T^{-T}`, and
        :math:`F = M_0 + C E K^{-1/2}`.

        :param key: a random key.
        :param sample_shape: leading shape of the draws.
        :return: array of shape ``sample_shape + batch_shape + (D, M + D)``.
        """
        if key is None or not is_prng_key(key):
            raise ValueError(f"key must be a jax.random key; got {key!r}.")
        return _draw(key, sample_shape + self.batch_shape, self._standard())

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Log density with respect to the entries of F and the lower triangle of Sigma.

        :param value: packed array of shape (..., D, M + D).
        """
        standard = self._standard()
        weight, cov = unpack(jnp.asarray(value))
        dim, num_columns = weight.shape[-2:]
        tril = jnp.linalg.cholesky(cov)
        shift = (weight - standard.loc) @ standard.column_tril
        whitened = solve_tril(tril, pack(shift, standard.scale_tril))
        log_diagonal = jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)).sum(-1)
        return (
            -(standard.df + dim + 1 + num_columns) * log_diagonal
            - 0.5 * jnp.square(whitened).sum((-2, -1))
            - standard.log_normalizer()
        )

    @property
    def mean(self) -> Array:
        r"""Mean :math:`[M_0 | \Psi / (\nu - D - 1)]`, of shape (..., D, M + D).

        NaN where it does not exist, as in NumPyro's InverseWishart: the weight for
        :math:`\nu \le D`, the covariance for :math:`\nu \le D + 1`.
        """
        loc, df = self._standard().loc, self._standard().df[..., None, None]
        dim = loc.shape[-2]
        weight = jnp.where(df > dim, loc, jnp.nan)
        return self._full(weight, _divide_if(self.scale_matrix, df - dim - 1))

    @property
    def mode(self) -> Array:
        r"""Mode of the joint density, :math:`[M_0 | \Psi / (\nu + D + M + 1)]`."""
        loc, df = self._standard().loc, self._standard().df[..., None, None]
        return self._full(loc, self.scale_matrix / (df + sum(loc.shape[-2:]) + 1))

    @property
    def variance(self) -> Array:
        r"""Variance of each entry, of shape (..., D, M + D).

        :math:`Var(F_{im}) = \Psi_{ii} (K^{-1})_{mm} / (\nu - D - 1)` and
        :math:`Var(\Sigma_{ij}) = [(\nu - D + 1) \Psi_{ij}^2 + (\nu - D - 1) \Psi_{ii}
        \Psi_{jj}] / [(\nu - D) (\nu - D - 1)^2 (\nu - D - 3)]` (Press, Applied
        Multivariate Analysis, 1982, section 5.2). Infinite where an entry has a mean
        and no finite variance, as have those on the diagonal of the covariance, whose
        mean may be infinite itself: the weight for :math:`D < \nu \le D + 1`, the
        covariance for :math:`D + 1 < \nu \le D + 3`. NaN where there is no mean.
        """
        loc, column_tril, _, df = self._standard()
        dim, num_columns = loc.shape[-2:]
        psi, excess = self.scale_matrix, df[..., None, None] - dim
        diagonal = jnp.diagonal(psi, axis1=-2, axis2=-1)
        root = solve_tril(column_tril, jnp.eye(num_columns, dtype=loc.dtype))
        columns = jnp.square(root).sum(-2)[..., None, :]
        products = diagonal[..., :, None] * columns
        weight = _divide_if(products, excess - 1, _infinite_if(excess > 0))
        products = diagonal[..., :, None] * diagonal[..., None, :]
        spread = (excess + 1) * jnp.square(psi) + (excess - 1) * products
        with_mean = _infinite_if((excess > 1) | jnp.eye(dim, dtype=bool))
        denominator = jnp.where(excess > 3, excess * jnp.square(excess - 1), 1)
        cov = _divide_if(spread / denominator, excess - 3, with_mean)
        return self._full(weight, cov)

    def entropy(self) -> Array:
        r"""Entropy :math:`A + (\nu + D + 1 + M)/2 \, E\log|\Sigma| + D (\nu + M)/2`,
        of shape ``batch_shape``, with A the log normaliser."""
        standard = self._standard()
        dim, num_columns = standard.loc.shape[-2:]
        power = 0.5 * (standard.df + dim + 1 + num_columns)
        entropy = (
            standard.log_normalizer()
            + power * standard.expected_log_det()
            + 0.5 * dim * (standard.df + num_columns)
        )
        return jnp.broadcast_to(entropy, self.batch_shape)

    @property
    def natural_parameters(self) -> RegressionNatural:
        """Natural parameters, in which conjugate updates are additions."""
        loc, precision = self._regression()
        return RegressionNatural.from_standard(loc, precision, self.scale_tril, self.df)

    @classmethod
    def from_natural_parameters(
        cls, natural: RegressionNatural, *, validate_args: bool | None = None
    ) -> Self:
        """The distribution that has these natural parameters.

        :param natural: natural parameters, with any batch shape.
        """
        raise NotImplementedError

    @property
    def expected_statistics(self) -> RegressionNatural:
        r"""Expectations of :math:`(-\tfrac12 \Sigma^{-1}, \Sigma^{-1} F, -\tfrac12
        F^T \Sigma^{-1} F, -\tfrac12 \log|\Sigma|)`, in a container like that of the
        natural parameters."""
        return self.natural_parameters.expected_statistics()

    def posterior(self, statistics: RegressionNatural) -> Self:
        """The posterior given the statistics of data, by conjugacy.

        :param statistics: statistics, summed over the observations (for each of which
            :meth:`~numpyro_svae.families.RegressionNatural.observe` gives them); the
            batch shapes must broadcast.
        """
        natural = self.natural_parameters + statistics
        return type(self).from_natural_parameters(
            natural, validate_args=self._validate_args
        )

    def _predictive(self, regressor: Array) -> MultivariateStudentT:
        r"""Of :math:`v \sim N(F u, \Sigma)` for a regressor u of shape (..., M): a
        multivariate t with :math:`\nu - D + 1` degrees of freedom, location
        :math:`M_0 u` and scale :math:`\Psi (1 + u^T K^{-1} u) / (\nu - D + 1)`
        (Murphy, Machine Learning, 2012, section 7.6.3.2)."""
        loc, column_tril, scale_tril, df = self._standard()
        df = df - (loc.shape[-2] - 1)
        column = regressor[..., None]
        spread = 1 + jnp.square(solve_tril(column_tril, column)).sum((-2, -1))
        factor = jnp.sqrt(spread / df)[..., None, None] * scale_tril
        return MultivariateStudentT(df, (loc @ column)[..., 0], factor)

    def _full(self, weight: Array, cov: Array) -> Array:
        return jnp.broadcast_to(pack(weight, cov), self.shape())


def _divide_if(
    numerator: Array, denominator: Array, otherwise: Array | float = jnp.nan
) -> Array:
    """The ratio where the denominator is positive, something else elsewhere."""
    positive = denominator > 0
    ratio = numerator / jnp.where(positive, denominator, 1)
    return jnp.where(positive, ratio, otherwise)


def _infinite_if(exists: Array) -> Array:
    """Infinity where a moment exists, NaN elsewhere."""
    return jnp.where(exists, jnp.inf, jnp.nan)


@quick_jit
def _draw(key: Array, shape: tuple[int, ...], standard: RegressionStandard) -> Array:
    """Samples of a batch shape, in one program even where nothing else is compiled."""
    key_cov, key_weight = random.split(key)
    loc, column_tril, scale_tril, df = standard
    dim, num_columns = loc.shape[-2:]
    wishart_tril = bartlett_tril(key_cov, df, dim, shape)
    cov_factor = solve_tril(wishart_tril, scale_tril.mT).mT
    noise = random.normal(key_weight, shape + (num_columns, dim), loc.dtype)
    scaled = solve_tril(column_tril, noise, transpose=True).mT
    return pack(loc + cov_factor @ scaled, symmetrize(cov_factor @ cov_factor.mT))
