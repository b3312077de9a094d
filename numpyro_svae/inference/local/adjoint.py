# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The linear system of an implicit gradient.

It has a module of its own, as lineax is loaded only where one is solved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp
import lineax

__all__ = ["solve_adjoint"]

_MAX_PRODUCTS = 200


def solve_adjoint(pull: Callable[[Array], Array], g: Array) -> tuple[Array, Array]:
    """Solve ``v = g + J' v`` for the product ``pull`` with ``J'``.

    Where the solution is not found, ``v = g`` takes its place: the gradient of one
    sweep, which is a descent direction wherever sweeps converge (Fung et al.,
    *JFB: Jacobian-free backpropagation for implicit networks*, AAAI 2022).

    :return: the solution, and whether it was found.
    """
    tolerance = 1e-10 if g.dtype == jnp.float64 else 1e-4
    operator = lineax.FunctionLinearOperator(
        lambda v: v - pull(v), jax.ShapeDtypeStruct(g.shape, g.dtype)
    )
    solver = _ConjugateResiduals(tolerance)
    solution = lineax.linear_solve(operator, g, solver, throw=False)
    good = solution.result == lineax.RESULTS.successful
    return jnp.where(good, solution.value, g), good


class _Search(NamedTuple):
    """A solution so far, what is left, and the last directions with their images."""

    value: Array
    left: Array
    directions: Array
    images: Array
    products: Array


class _ConjugateResiduals(lineax.AbstractLinearSolver):
    """What GMRES finds, with the product with ``A`` at one place instead of three.

    It is the derivative of a sweep, and most of what is compiled. Each direction is
    what is left, made such that its image is orthogonal to those of the directions
    before (generalised conjugate residuals: Eisenstat, Elman and Schultz, *Variational
    iterative methods for nonsymmetric systems of linear equations*, 1983).

    :param tolerance: of the largest residual, in units of the largest entry of ``g``.
    :param max_steps: how many products there are at most.
    :param kept: how many directions are kept.
    """

    tolerance: float
    max_steps: int = _MAX_PRODUCTS
    kept: int = 20

    def init(self, operator: Any, options: dict) -> Any:
        return operator

    def transpose(self, state: Any, options: dict) -> tuple:
        return state.transpose(), options

    def conj(self, state: Any, options: dict) -> tuple:
        return lineax.conj(state), options

    def assume_full_rank(self) -> bool:
        return True

    def compute(self, state: Any, vector: Array, options: dict) -> tuple:
        def goes_on(search: _Search) -> Array:
            unfinished = _largest(search.left) > enough
            return unfinished & (search.products < self.max_steps)

        def add(search: _Search) -> _Search:
            value, left, directions, images, products = search
            direction, image = left, state.mv(left)
            for _ in range(2):  # once more for what rounding leaves
                along = images @ image
                image = image - along @ images
                direction = direction - along @ directions
            size = jnp.linalg.norm(image)
            scale = jnp.where(size > 0, 1.0 / size, 0.0)
            direction, image = scale * direction, scale * image
            step, slot = image @ left, products % self.kept
            return _Search(
                value + step * direction,
                left - step * image,
                directions.at[slot].set(direction),
                images.at[slot].set(image),
                products + 1,
            )

        enough = self.tolerance * _largest(vector)
        none = jnp.zeros((self.kept, vector.size), vector.dtype)
        begin = _Search(jnp.zeros_like(vector), vector, none, none, jnp.array(0))
        search = lax.while_loop(goes_on, add, begin)
        result = lineax.RESULTS.where(
            _largest(search.left) <= enough,
            lineax.RESULTS.successful,
            lineax.RESULTS.max_steps_reached,
        )
        stats = {"num_steps": search.products, "max_steps": self.max_steps}
        return search.value, result, stats


def _largest(x: Array) -> Array:
    return jnp.max(jnp.abs(x), initial=0.0)
