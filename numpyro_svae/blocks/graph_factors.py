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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple

import funsor
from funsor import Tensor, ops
from funsor.tensor import align_tensor, align_tensors
import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph_arrays import (
    half_inner,
    log_integral,
    log_sum_exp,
    matvec,
    minus_inner,
    minus_inner_vector,
    solve,
    solve_transposed,
    solve_vector,
)
from numpyro_svae.blocks.graph_terms import GaussianTerm, Term, Variable

__all__ = [
    "CanonicalFactor",
    "Conditional",
    "Domains",
    "choose_state",
    "factor",
    "funsor_on_jax",
    "integrate",
    "place_real",
    "product",
    "shifted",
    "sum_out",
    "total_over",
]

Domains = Mapping[str, Any]
"""Funsor's domain ``Bint[size]`` of every plate and every discrete variable."""


class CanonicalFactor(NamedTuple):
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


def factor(
    term: Term, declared: Mapping[str, Variable], domains: Domains
) -> CanonicalFactor:
    """The factor of a term, cut into blocks."""
    inputs = {name: domains[name] for name in term.plates + term.states}
    if not isinstance(term, GaussianTerm):
        return CanonicalFactor(Tensor(term.logits, inputs), {}, {})
    symmetric = 0.5 * (term.precision + jnp.swapaxes(term.precision, -1, -2))
    blocks: dict[str, slice] = {}
    start = 0
    for name in term.variables:
        blocks[name] = slice(start, start := start + declared[name].size)
    return CanonicalFactor(
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


def product(factors: Sequence[CanonicalFactor]) -> CanonicalFactor:
    """The product of factors: the sum of their logarithms."""
    return CanonicalFactor(
        reduce(ops.add, [f.constant for f in factors]),
        reduce(_add, [f.info for f in factors]),
        reduce(_add, [f.precision for f in factors]),
    )


def total_over(
    plates: frozenset[str], f: CanonicalFactor, domains: Domains
) -> CanonicalFactor:
    """The product over plates, of which no variable of the factor may be a member."""
    reduced = frozenset(funsor.Variable(plate, domains[plate]) for plate in plates)
    return jax.tree.map(lambda t: t.reduce(ops.add, reduced), f)


class Conditional(NamedTuple):
    r"""The density ``N(L^-T (w - sum_u K_u x_u), (L L')^-1)`` of a real variable.

    With :math:`J_{vv} = L L^\top`: ``white`` is :math:`w = L^{-1} h_v`, and ``cross``
    has :math:`K_u = L^{-1} J_{vu}` for the variables that it depends on.
    """

    tril: Tensor
    white: Tensor
    cross: dict[str, Tensor]


def shifted(f: CanonicalFactor, origin: Mapping[str, Tensor]) -> CanonicalFactor:
    r"""The factor as a function of :math:`y_u = x_u - m_u`:

    .. math::

        h_u \leftarrow h_u - \sum_v J_{uv} m_v, \quad
        c \leftarrow c + \tfrac12 \sum_u m_u^\top (h_u + h_u^{\text{new}})
    """
    constant, info = f.constant, dict(f.info)
    for (u, v), J in f.precision.items():
        info[u] = info[u] - _map(matvec, J, origin[v])
    for u, h in f.info.items():
        constant = constant + _map(half_inner, origin[u], h + info[u])
    return CanonicalFactor(constant, info, f.precision)


def integrate(f: CanonicalFactor, v: str) -> tuple[CanonicalFactor, Conditional]:
    r"""The integral over a real variable, and its density given all others:

    .. math::

        h_u \leftarrow h_u - K_u^\top w, \quad J_{ut} \leftarrow J_{ut} - K_u^\top K_t,

        c \leftarrow c + \tfrac12 w^\top w - \log\det L + \tfrac12 D \log 2\pi
    """
    tril = _map(jnp.linalg.cholesky, f.precision[v, v])
    white = _map(solve_vector, tril, f.info[v])
    cross = {
        u: _map(solve, tril, J) for (t, u), J in f.precision.items() if t == v != u
    }
    others = CanonicalFactor(
        f.constant,
        {u: h for u, h in f.info.items() if u != v},
        {pair: J for pair, J in f.precision.items() if v not in pair},
    )
    message = CanonicalFactor(
        _map(log_integral, tril, white),
        {u: _map(minus_inner_vector, cross[u], white) for u in cross},
        {(u, t): _map(minus_inner, cross[u], cross[t]) for u in cross for t in cross},
    )
    return product([others, message]), Conditional(tril, white, cross)


def sum_out(f: CanonicalFactor, z: str) -> tuple[CanonicalFactor, Tensor]:
    """The sum over a discrete variable, and its logits given all others.

    The factor has no real variables.
    """
    table, inputs = _last(f.constant, z)
    return CanonicalFactor(Tensor(log_sum_exp(table), inputs), {}, {}), f.constant


def place_real(q: Conditional, drawn: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    r"""The value :math:`L^{-\top} (w - \sum_u K_u x_u + \epsilon)`.

    :param drawn: the values of all variables that it depends on.
    :param noise: :math:`\epsilon`, in the plates of the variable.
    """
    right = _at(q.white, drawn) + noise
    for u, K in q.cross.items():
        right = right - _map(matvec, _at(K, drawn), drawn[u])
    return _map(solve_transposed, _at(q.tril, drawn), right)


def choose_state(
    logits: Tensor,
    z: Variable,
    drawn: Mapping[str, Tensor],
    choose: Callable[[str, Array], Array],
) -> Tensor:
    """A state, given the values of all variables that it depends on."""
    table, inputs = _last(_at(logits, drawn), z.name)
    return Tensor(choose(z.name, table), inputs, z.size)


def _at(t: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Read a tensor at drawn states."""
    return t(**{name: drawn[name] for name in t.inputs if name in drawn})


def _last(t: Tensor, z: str) -> tuple[Array, OrderedDict]:
    """The array of a tensor with the axis of one input last, and the other inputs."""
    others = OrderedDict((k, d) for k, d in t.inputs.items() if k != z)
    return align_tensor(others | {z: t.inputs[z]}, t), others
