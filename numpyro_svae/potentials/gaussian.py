# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Potentials: what a recognition network says about a latent site."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jax import Array, tree_util
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jax.typing import ArrayLike
import numpy as np
from numpyro.util import not_jax_tracer

__all__ = ["GaussianPotential"]


@dataclass(frozen=True, eq=False)
class GaussianPotential:
    r"""Quadratic log potentials over vectors, one for each position of a batch:

    .. math:: \psi(x) = h^\top x - \tfrac12 x^\top J x

    A potential multiplies a prior density by :math:`\exp\psi(x)`; it need not be
    normalisable, and the zero potential says nothing about :math:`x`. A sum of
    potentials is a potential.

    :param info_vector: :math:`h`, shape ``(..., D)``.
    :param precision: :math:`J`, positive semi-definite. Its number of axes says which
        form it has: as many as ``info_vector`` for the diagonal ``(..., D)``, one more
        for full matrices ``(..., D, D)``. Leading axes broadcast.
    """

    info_vector: Array
    precision: Array

    def __post_init__(self) -> None:
        _check_shapes(jnp.shape(self.info_vector), jnp.shape(self.precision))
        dtype = jnp.result_type(self.info_vector, self.precision, jnp.float32)
        for name in ("info_vector", "precision"):
            object.__setattr__(self, name, jnp.asarray(getattr(self, name), dtype))

    @classmethod
    def from_loc_scale(cls, loc: ArrayLike, scale: ArrayLike) -> "GaussianPotential":
        r"""The logarithm of :math:`N(x \mid \mu, \mathrm{diag}(\sigma^2))`, up to a
        constant: :math:`h = \mu / \sigma^2`, :math:`J = \mathrm{diag}(1 / \sigma^2)`.

        :param loc: :math:`\mu`, shape ``(..., D)``.
        :param scale: :math:`\sigma > 0`, shape ``(..., D)``, or ``()``.
        :raises ValueError: if shapes do not fit, or a scale is seen to be negative.
        """
        loc, scale = jnp.asarray(loc), jnp.asarray(scale)
        _check_vector("loc", loc)
        if scale.ndim and scale.shape[-1] not in (1, loc.shape[-1]):
            raise ValueError(
                f"scale: found shape {scale.shape} with loc of shape {loc.shape}; "
                "accepted is one standard deviation for each entry of loc, shape "
                f"(..., {loc.shape[-1]}), or a scalar."
            )
        if not_jax_tracer(scale) and np.any(np.asarray(scale) < 0):
            raise ValueError(
                f"scale: found {np.min(scale):.3g}; accepted are positive numbers, as "
                "jax.nn.softplus(scale) makes of what a network returns."
            )
        loc, scale = jnp.broadcast_arrays(loc, scale)
        precision = 1.0 / scale**2
        return cls(loc * precision, precision)

    @classmethod
    def from_loc_scale_tril(
        cls, loc: ArrayLike, scale_tril: ArrayLike
    ) -> "GaussianPotential":
        r"""The logarithm of :math:`N(x \mid \mu, L L^\top)`, up to a constant.

        :param loc: :math:`\mu`, shape ``(..., D)``.
        :param scale_tril: lower triangular :math:`L`, shape ``(..., D, D)``.
        """
        loc, scale_tril = jnp.asarray(loc), jnp.asarray(scale_tril)
        _check_vector("loc", loc)
        size = loc.shape[-1]
        if scale_tril.shape[-2:] != (size, size):
            raise ValueError(
                f"scale_tril: found shape {scale_tril.shape} with loc of shape "
                f"{loc.shape}; accepted is (..., {size}, {size})."
            )
        batch = jnp.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        scale_tril = jnp.broadcast_to(scale_tril, batch + (size, size))
        identity = jnp.broadcast_to(
            jnp.eye(size, dtype=scale_tril.dtype), scale_tril.shape
        )
        precision = cho_solve((scale_tril, True), identity)
        precision = 0.5 * (precision + jnp.swapaxes(precision, -1, -2))
        return cls(
            _matvec(precision, jnp.broadcast_to(loc, batch + (size,))), precision
        )

    @property
    def dim(self) -> int:
        """Size ``D`` of the vectors."""
        return jnp.shape(self.info_vector)[-1]

    @property
    def is_diagonal(self) -> bool:
        """Whether ``precision`` holds diagonals."""
        return jnp.ndim(self.precision) == jnp.ndim(self.info_vector)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the positions."""
        axes = 1 if self.is_diagonal else 2
        return jnp.broadcast_shapes(
            jnp.shape(self.info_vector)[:-1], jnp.shape(self.precision)[:-axes]
        )

    def full_precision(self) -> Array:
        """The precision as matrices ``(..., D, D)``."""
        if not self.is_diagonal:
            return self.precision
        # Rows of D + 1 entries, end to end: its derivative has no sum over each row.
        shape, size = self.precision.shape, self.dim
        rows = jnp.pad(self.precision[..., None], [(0, 0)] * len(shape) + [(0, size)])
        flat = rows.reshape(*shape[:-1], size * (size + 1))[..., : size**2]
        return flat.reshape(*shape, size)

    def about(self, origin: ArrayLike) -> "GaussianPotential":
        r"""The potential as a function of :math:`x - o`, less its value at :math:`o`.

        :param origin: :math:`o`, shape ``(..., D)``.
        """
        apply = jnp.multiply if self.is_diagonal else _matvec
        pull = apply(self.precision, jnp.asarray(origin))
        return GaussianPotential(self.info_vector - pull, self.precision)

    def mask(self, mask: ArrayLike) -> "GaussianPotential":
        """The zero potential wherever ``mask`` is false, whatever is stored there.

        A masked position may hold NaN or infinity: neither its value nor its gradient
        is used.

        :param mask: booleans that broadcast with ``batch_shape``.
        """
        mask = jnp.asarray(mask, bool)
        try:
            jnp.broadcast_shapes(mask.shape, self.batch_shape)
        except ValueError:
            raise ValueError(
                f"mask: found shape {mask.shape}; accepted are shapes that broadcast "
                f"with the batch shape {self.batch_shape} of the potential."
            ) from None
        batch = jnp.broadcast_shapes(mask.shape, self.batch_shape)
        mask = jnp.broadcast_to(mask, batch)

        def select(x, rank):
            x = jnp.broadcast_to(x, batch + x.shape[x.ndim - rank :])
            return jnp.where(mask.reshape(batch + (1,) * rank), x, 0.0)

        return GaussianPotential(
            select(self.info_vector, 1),
            select(self.precision, 1 if self.is_diagonal else 2),
        )

    def __add__(self, other: "GaussianPotential") -> "GaussianPotential":
        """The sum of two potentials; it is diagonal if both are."""
        if not isinstance(other, GaussianPotential):
            return NotImplemented
        if self.dim != other.dim:
            raise ValueError(
                f"other: found a potential over {other.dim} dimensions; accepted are "
                f"potentials over {self.dim}, like the one it is added to."
            )
        if self.is_diagonal and other.is_diagonal:
            precision, rank = self.precision + other.precision, 1
        else:
            precision, rank = self.full_precision() + other.full_precision(), 2
        info_vector = self.info_vector + other.info_vector
        return GaussianPotential(*_aligned(info_vector, precision, rank))

    def __call__(self, x: ArrayLike) -> Array:
        r"""The value :math:`\psi(x)`.

        :param x: points, ``(..., D)``.
        :return: shape ``(...)``.
        """
        x = jnp.asarray(x)
        if self.is_diagonal:
            return jnp.sum((self.info_vector - 0.5 * self.precision * x) * x, -1)
        return jnp.sum((self.info_vector - 0.5 * _matvec(self.precision, x)) * x, -1)

    def expected(self, mean: ArrayLike, covariance: ArrayLike) -> Array:
        r"""The expectation :math:`E[\psi(x)] = \psi(m) - \tfrac12 \mathrm{tr}(J P)`.

        :param mean: :math:`m`, shape ``(..., D)``.
        :param covariance: :math:`P`, shape ``(..., D, D)``.
        :return: shape ``(...)``.
        """
        covariance = jnp.asarray(covariance)
        if self.is_diagonal:
            variance = jnp.diagonal(covariance, axis1=-2, axis2=-1)
            return self(mean) - 0.5 * jnp.sum(self.precision * variance, -1)
        return self(mean) - 0.5 * jnp.sum(self.precision * covariance, (-2, -1))


def _matvec(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector[..., None])[..., 0]


def _aligned(vector: Array, precision: Array, rank: int) -> tuple[Array, Array]:
    """Give vectors and precisions (of ``rank`` axes) the same number of batch axes."""
    batch = max(vector.ndim - 1, precision.ndim - rank)
    vector = vector.reshape((1,) * (batch + 1 - vector.ndim) + vector.shape)
    missing = batch + rank - precision.ndim
    return vector, precision.reshape((1,) * missing + precision.shape)


def _check_vector(name: str, x: Array) -> None:
    if x.ndim == 0:
        raise ValueError(f"{name}: found a scalar; accepted is an array (..., D).")


def _check_shapes(vector: tuple[int, ...], precision: tuple[int, ...]) -> None:
    if not vector:
        raise ValueError("info_vector: found a scalar; accepted is an array (..., D).")
    size = vector[-1]
    axes = len(precision) - len(vector) + 1
    if axes in (1, 2) and precision[-axes:] == (size,) * axes:
        try:
            jnp.broadcast_shapes(vector[:-1], precision[:-axes])
            return
        except ValueError:
            pass
    raise ValueError(
        f"precision: found shape {precision} with info_vector of shape {vector}; "
        f"accepted are diagonals {_shape(vector[:-1], size)} or full matrices "
        f"{_shape(vector[:-1], size, size)}, with leading axes that broadcast."
    )


def _shape(batch: tuple[int, ...], *sizes: int) -> str:
    """A shape in the form in which Python prints tuples."""
    return str(batch + sizes)


def _unflatten(_: None, fields: Iterable[Any]) -> GaussianPotential:
    """Rebuild without checks: JAX transformations pass placeholders for arrays."""
    potential = object.__new__(GaussianPotential)
    for name, value in zip(("info_vector", "precision"), fields, strict=True):
        object.__setattr__(potential, name, value)
    return potential


tree_util.register_pytree_with_keys(
    GaussianPotential,
    lambda p: (
        (
            (tree_util.GetAttrKey("info_vector"), p.info_vector),
            (tree_util.GetAttrKey("precision"), p.precision),
        ),
        None,
    ),
    _unflatten,
)
