# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The matrix-normal inverse-Wishart distribution."""

from __future__ import annotations

from typing import ClassVar, Self

from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import MultivariateStudentT, constraints
from numpyro.distributions.batch_util import vmap_over

from numpyro_svae.distributions.arguments import matrix_shape, one_of
from numpyro_svae.distributions.constraints import pack, unpack
from numpyro_svae.distributions.gaussian_inverse_wishart import GaussianInverseWishart
from numpyro_svae.families import RegressionNatural

__all__ = ["MatrixNormalInverseWishart"]


class MatrixNormalInverseWishart(GaussianInverseWishart):
    r"""Joint prior over the weight and the noise covariance of a linear regression.

    The conjugate prior of :math:`v \sim N(F u, \Sigma)`, for F of shape D x M and
    :math:`\Sigma` of shape D x D:

    .. math::

        \Sigma \sim \mathcal{W}^{-1}(\nu, \Psi), \quad
        F \mid \Sigma \sim \mathcal{MN}(M_0, \Sigma, K^{-1}), \quad
        p(F, \Sigma) \propto |\Sigma|^{-(\nu + D + 1 + M)/2} \exp\left(-\tfrac12
        \mathrm{tr}\, \Sigma^{-1} [\Psi + (F - M_0) K (F - M_0)^T]\right)

    A sample is an array :math:`[F | \Sigma]` of shape (D, M + D): :meth:`unpack` it.

    :param loc: mean :math:`M_0` of the weight, of shape (..., D, M).
    :param column_precision: positive definite :math:`K`, of shape (..., M, M), relative
        to the noise: one observation adds :math:`u u^T` to it.
    :param df: degrees of freedom :math:`\nu > D - 1`, of shape (...).
    :param scale_matrix: positive definite :math:`\Psi`, of shape (..., D, D).
    :param scale_tril: lower Cholesky factor of :math:`\Psi`, in place of it.

    **References**

    1. C. M. Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3.
    2. E. B. Fox, Bayesian Nonparametric Learning of Complex Dynamical Phenomena, PhD
       thesis, MIT, 2009, appendix F.
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_matrix,
        "column_precision": constraints.positive_definite,
        "df": constraints.dependent(is_discrete=False, event_dim=0),
        "scale_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
    }
    reparametrized_params: ClassVar = list(arg_constraints)
    pytree_data_fields = ("loc", "column_precision", "df", "scale_tril")

    def __init__(
        self,
        loc: ArrayLike,
        column_precision: ArrayLike,
        df: ArrayLike,
        scale_matrix: ArrayLike | None = None,
        *,
        scale_tril: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        name, scale = one_of(owner, scale_matrix=scale_matrix, scale_tril=scale_tril)
        dim, num_columns = matrix_shape(owner, "loc", loc, "(..., D, M)")
        arguments = {"loc": loc, "column_precision": column_precision, "df": df}
        event_shapes = {
            "loc": (dim, num_columns),
            "column_precision": (num_columns, num_columns),
            "df": (),
            name: (dim, dim),
        }
        self._setup({**arguments, name: scale}, event_shapes, validate_args)

    def _regression(self) -> tuple[Array, Array]:
        return self.loc, self.column_precision

    @classmethod
    def from_natural_parameters(
        cls, natural: RegressionNatural, *, validate_args: bool | None = None
    ) -> Self:
        loc, _, scale_tril, df = natural.to_standard()
        return cls(
            loc, natural.uu, df, scale_tril=scale_tril, validate_args=validate_args
        )

    def posterior_predictive(self, regressor: ArrayLike) -> MultivariateStudentT:
        r"""Distribution of :math:`v \sim N(F u, \Sigma)` given u and no parameters.

        :param regressor: u, of shape (..., M), which broadcasts with the batch shape.
        :return: multivariate t with :math:`\nu - D + 1` degrees of freedom, location
            :math:`M_0 u` and scale :math:`\Psi (1 + u^T K^{-1} u) / (\nu - D + 1)`.
        """
        return self._predictive(jnp.asarray(regressor, self.loc.dtype))

    @staticmethod
    def pack(weight: ArrayLike, cov: ArrayLike) -> Array:
        """Join F (..., D, M) and Sigma (..., D, D) into an event (..., D, M + D)."""
        return pack(weight, cov)

    @staticmethod
    def unpack(value: ArrayLike) -> tuple[Array, Array]:
        """Split an event (..., D, M + D) into F (..., D, M) and Sigma (..., D, D)."""
        return unpack(jnp.asarray(value))


@vmap_over.register
def _vmap_over_mniw(
    dist: MatrixNormalInverseWishart,
    loc=None,
    column_precision=None,
    df=None,
    scale_matrix=None,
    scale_tril=None,
):
    scale_tril = scale_matrix if scale_tril is None else scale_tril
    axes = {"loc": loc, "column_precision": column_precision, "df": df}
    return vmap_over.dispatch(GaussianInverseWishart)(
        dist, scale_tril=scale_tril, **axes
    )
