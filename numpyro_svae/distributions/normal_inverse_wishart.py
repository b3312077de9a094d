# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The normal inverse-Wishart distribution."""

from __future__ import annotations

from typing import ClassVar, Self

from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import MultivariateStudentT, constraints
from numpyro.distributions.batch_util import vmap_over

from numpyro_svae.distributions.arguments import one_of, vector_shape
from numpyro_svae.distributions.constraints import pack, unpack
from numpyro_svae.distributions.gaussian_inverse_wishart import GaussianInverseWishart
from numpyro_svae.families import RegressionNatural

__all__ = ["NormalInverseWishart"]


class NormalInverseWishart(GaussianInverseWishart):
    r"""Joint prior over the mean and the covariance of a multivariate normal.

    The conjugate prior of :math:`v \sim N(\mu, \Sigma)`, of dimension D:

    .. math::

        \Sigma \sim \mathcal{W}^{-1}(\nu, \Psi), \quad
        \mu \mid \Sigma \sim N(\mu_0, \Sigma / \kappa), \quad
        p(\mu, \Sigma) \propto |\Sigma|^{-(\nu + D + 2)/2} \exp\left(-\tfrac12
        \mathrm{tr}\, \Sigma^{-1} [\Psi + \kappa (\mu - \mu_0) (\mu - \mu_0)^T]\right)

    It is the :class:`MatrixNormalInverseWishart` with one regressor that is always one.
    A sample is an array :math:`[\mu | \Sigma]` of shape (D, 1 + D): :meth:`unpack` it.

    :param loc: :math:`\mu_0`, of shape (..., D).
    :param concentration: :math:`\kappa > 0`, of shape (...): the number of observations
        that the prior mean is worth.
    :param df: degrees of freedom :math:`\nu > D - 1`, of shape (...).
    :param scale_matrix: positive definite :math:`\Psi`, of shape (..., D, D).
    :param scale_tril: lower Cholesky factor of :math:`\Psi`, in place of it.

    **References**

    1. K. P. Murphy, Machine Learning: A Probabilistic Perspective, 2012, section 4.6.3.
    2. A. Gelman et al., Bayesian Data Analysis, 3rd edition, 2013, section 3.6.
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "concentration": constraints.positive,
        "df": constraints.dependent(is_discrete=False, event_dim=0),
        "scale_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
    }
    reparametrized_params: ClassVar = list(arg_constraints)
    pytree_data_fields = ("loc", "concentration", "df", "scale_tril")

    def __init__(
        self,
        loc: ArrayLike,
        concentration: ArrayLike,
        df: ArrayLike,
        scale_matrix: ArrayLike | None = None,
        *,
        scale_tril: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        name, scale = one_of(owner, scale_matrix=scale_matrix, scale_tril=scale_tril)
        (dim,) = vector_shape(owner, "loc", loc, "(..., D)")
        arguments = {"loc": loc, "concentration": concentration, "df": df, name: scale}
        event_shapes = {"loc": (dim,), "concentration": (), "df": (), name: (dim, dim)}
        self._setup(arguments, event_shapes, validate_args)

    def _regression(self) -> tuple[Array, Array]:
        return self.loc[..., None], self.concentration[..., None, None]

    @classmethod
    def from_natural_parameters(
        cls, natural: RegressionNatural, *, validate_args: bool | None = None
    ) -> Self:
        loc, _, scale_tril, df = natural.to_standard()
        return cls(
            loc[..., 0],
            natural.uu[..., 0, 0],
            df,
            scale_tril=scale_tril,
            validate_args=validate_args,
        )

    def posterior_predictive(self) -> MultivariateStudentT:
        r"""Distribution of :math:`v \sim N(\mu, \Sigma)` with both integrated out.

        :return: multivariate t with :math:`\nu - D + 1` degrees of freedom, location
            :math:`\mu_0` and scale :math:`\Psi (1 + 1/\kappa) / (\nu - D + 1)`.
        """
        return self._predictive(jnp.ones(1, self.loc.dtype))

    @staticmethod
    def pack(loc: ArrayLike, cov: ArrayLike) -> Array:
        """Join mu (..., D) and Sigma (..., D, D) into an event (..., D, 1 + D)."""
        return pack(jnp.asarray(loc)[..., None], cov)

    @staticmethod
    def unpack(value: ArrayLike) -> tuple[Array, Array]:
        """Split an event (..., D, 1 + D) into mu (..., D) and Sigma (..., D, D)."""
        loc, cov = unpack(jnp.asarray(value))
        return loc[..., 0], cov


@vmap_over.register
def _vmap_over_niw(
    dist: NormalInverseWishart,
    loc=None,
    concentration=None,
    df=None,
    scale_matrix=None,
    scale_tril=None,
):
    scale_tril = scale_matrix if scale_tril is None else scale_tril
    axes = {"loc": loc, "concentration": concentration, "df": df}
    return vmap_over.dispatch(GaussianInverseWishart)(
        dist, scale_tril=scale_tril, **axes
    )
