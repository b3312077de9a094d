# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Log factors of a graph as named tensors, and what elimination does to them.

Funsor's tensors carry plates and discrete variables by name, so that factors in
different plates add, reduce over plates and are read at drawn states without any
bookkeeping of axes. Its own Gaussian is not used: it stores a square root of the
precision, and so cannot differentiate a term of deficient rank, such as a regression
on a variable that is in an outer plate. Here a factor keeps its information form by
blocks, in which sums are exact and smooth and absent couplings cost nothing.

**References:** F. Obermeyer, E. Bingham, M. Jankowiak, D. Phan, J. Chen, "Functional
tensors for probabilistic programming", arXiv:1910.10775 (2019).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
import math
from typing import Any, NamedTuple

import funsor
from funsor import Tensor, ops
from funsor.tensor import align_tensor, align_tensors
import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from numpyro_svae.blocks.graph_terms import GaussianTerm, Term, Variable

__all__ = [
    "Domains",
    "Factor",
    "draw_real",
    "draw_state",
    "factor",
    "funsor_on_jax",
    "integrate",
    "product",
    "sum_out",
    "total_over",
]

Domains = Mapping[str, Any]
"""Funsor's domain ``Bint[size]`` of every plate and every discrete variable."""


class Factor(NamedTuple):
    """The log factor ``c + sum_u h_u' x_u - sum_uv x_u' J_uv x_v / 2``.

    ``info`` has ``h_u`` by name, ``precision`` has ``J_uv`` by both names, in both
    orders; a missing block is zero. ``constant`` has every plate and state as input.
    """

    constant: Tensor
    info: dict[str, Tensor]
    precision: dict[tuple[str, str], Tensor]

    @property
    def names(self) -> frozenset[str]:
        """The plates, discrete and real variables that it depends on."""
        return frozenset(self.constant.inputs) | frozenset(self.info)


@contextmanager
def funsor_on_jax() -> Iterator[None]:
    """Have funsor compute eagerly with JAX, as NumPyro's use of it does."""
    funsor.set_backend("jax")
    with funsor.interpretations.eager:
        yield


def factor(term: Term, declared: Mapping[str, Variable], domains: Domains) -> Factor:
    """The factor of a term, cut into blocks."""
    inputs = {name: domains[name] for name in term.plates + term.states}
    if not isinstance(term, GaussianTerm):
        return Factor(Tensor(term.logits, inputs), {}, {})
    symmetric = 0.5 * (term.precision + jnp.swapaxes(term.precision, -1, -2))
    blocks: dict[str, slice] = {}
    start = 0
    for name in term.variables:
        blocks[name] = slice(start, start := start + declared[name].size)
    return Factor(
        Tensor(term.constant, inputs),
        {u: Tensor(term.info[..., blocks[u]], inputs) for u in blocks},
        {
            (u, v): Tensor(symmetric[..., blocks[u], blocks[v]], inputs)
            for u in blocks
            for v in blocks
        },
    )


def _map(function, *tensors: Tensor) -> Tensor:
    """Apply a function of arrays with leading batch axes to named tensors."""
    inputs, arrays = align_tensors(*tensors, expand=True)
    return Tensor(function(*arrays), inputs)


def _add(a: dict, b: dict) -> dict:
    """Sums of blocks, of which either side may miss some."""
    return a | {k: a[k] + b[k] if k in a else b[k] for k in b}


def product(factors: Sequence[Factor]) -> Factor:
    """The product of factors: the sum of their logarithms."""
    return Factor(
        reduce(ops.add, [f.constant for f in factors]),
        reduce(_add, [f.info for f in factors]),
        reduce(_add, [f.precision for f in factors]),
    )


def total_over(plates: frozenset[str], f: Factor, domains: Domains) -> Factor:
    """The product over plates, of which no variable of the factor may be a member."""
    reduced = frozenset(funsor.Variable(plate, domains[plate]) for plate in plates)
    return jax.tree.map(lambda t: t.reduce(ops.add, reduced), f)


def integrate(f: Factor, v: str) -> Factor:
    r"""The integral over a real variable: with :math:`J_{vv} = L L^\top`,

    .. math::

        w = L^{-1} h_v, \quad K_u = L^{-1} J_{vu}, \quad
        h_u \leftarrow h_u - K_u^\top w, \quad J_{ut} \leftarrow J_{ut} - K_u^\top K_t,

        c \leftarrow c + \tfrac12 w^\top w - \log\det L + \tfrac12 D \log 2\pi
    """
    tril, white, cross = _whitened(f, v)
    return Factor(
        f.constant + _map(_log_integral, tril, white),
        _add(
            {u: h for u, h in f.info.items() if u != v},
            {u: _map(_minus_inner_vector, cross[u], white) for u in cross},
        ),
        _add(
            {pair: J for pair, J in f.precision.items() if v not in pair},
            {
                (u, t): _map(_minus_inner, cross[u], cross[t])
                for u in cross
                for t in cross
            },
        ),
    )


def sum_out(f: Factor, z: str) -> Factor:
    """The sum over the states of a discrete variable, in a factor without real ones."""
    inputs = OrderedDict((k, d) for k, d in f.constant.inputs.items() if k != z)
    table = align_tensor(inputs | {z: f.constant.inputs[z]}, f.constant)
    return Factor(Tensor(_log_sum_exp(table), inputs), {}, {})


def draw_real(f: Factor, v: str, drawn: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    r"""The value :math:`L^{-\top} (L^{-1} (h_v - \sum_u J_{vu} x_u) + \epsilon)`.

    :param drawn: the values of all other variables of the factor.
    :param noise: standard normal :math:`\epsilon`, in the plates of ``v``.
    """
    info = _at(f.info[v], drawn)
    for u in f.info:
        if u != v and (v, u) in f.precision:
            info = info - _map(_matvec, _at(f.precision[v, u], drawn), drawn[u])
    return _map(_draw, _at(f.precision[v, v], drawn), info, noise)


def draw_state(
    key: Array, f: Factor, z: Variable, drawn: Mapping[str, Tensor]
) -> Tensor:
    """A state, given the values of all other variables of the factor."""
    logits = _at(f.constant, drawn)
    inputs = OrderedDict((k, d) for k, d in logits.inputs.items() if k != z.name)
    table = align_tensor(inputs | {z.name: logits.inputs[z.name]}, logits)
    return Tensor(jax.random.categorical(key, table), inputs, z.size)


def _at(t: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Read a tensor at drawn states."""
    return t(**{name: drawn[name] for name in t.inputs if name in drawn})


def _whitened(f: Factor, v: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """``L``, ``w`` and ``K_u`` for every coupled ``u``."""
    tril = _map(jnp.linalg.cholesky, f.precision[v, v])
    cross = {
        u: _map(_solve, tril, J) for (t, u), J in f.precision.items() if t == v != u
    }
    return tril, _map(_solve_vector, tril, f.info[v]), cross


def _solve(tril: Array, right: Array) -> Array:
    return solve_triangular(tril, right, lower=True)


def _solve_vector(tril: Array, right: Array) -> Array:
    return _solve(tril, right[..., None])[..., 0]


def _matvec(a: Array, x: Array) -> Array:
    return jnp.matmul(a, x[..., None])[..., 0]


def _minus_inner(a: Array, b: Array) -> Array:
    return -jnp.matmul(jnp.swapaxes(a, -1, -2), b)


def _minus_inner_vector(a: Array, x: Array) -> Array:
    return _minus_inner(a, x[..., None])[..., 0]


def _log_integral(tril: Array, white: Array) -> Array:
    log_det = jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
    constant = 0.5 * white.shape[-1] * math.log(2 * math.pi)
    return 0.5 * jnp.sum(white**2, -1) - log_det + constant


def _draw(precision: Array, info: Array, noise: Array) -> Array:
    tril = jnp.linalg.cholesky(precision)
    right = _solve_vector(tril, info) + noise
    return solve_triangular(tril, right[..., None], lower=True, trans=1)[..., 0]


def _log_sum_exp(x: Array) -> Array:
    """Over the last axis; rows of ``-inf`` give ``-inf`` and a zero gradient."""
    top = jax.lax.stop_gradient(jnp.max(x, -1))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(x - top[..., None]), -1)
    possible = total > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, total, 1.0)) + top, -jnp.inf)
