# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Bounds of small programs by enumeration of states and dense Gaussian integrals.

Every factor is the textbook expectation of its log density, linear in the expected
statistics of its block. Nothing here is centred, filtered or shared between steps.
"""

from __future__ import annotations

from functools import partial
import itertools
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, multigammaln
import numpy as np
import numpyro.distributions as dist

from tests.property.programs import Spec, fixed, known_pair, known_rows

LOG_2PI = np.log(2 * np.pi)


class Regression(NamedTuple):
    """Statistics of ``N(v; F u, S)``: ``E S^-1``, ``E S^-1 F``, ``E F'S^-1 F`` and
    ``E log|S|``."""

    p: Array
    a: Array
    q: Array
    log_det: Array

    def of(self, entries: Any) -> Regression:
        return self


class Rows(NamedTuple):
    """The same of rows that are independent: ``q`` and ``log_det`` of each."""

    p: Array
    a: Array
    q: Array
    log_det: Array

    def of(self, entries: Any) -> Regression:
        """The regression of some entries of the response."""
        keep = jnp.asarray(entries, float)
        return Regression(
            jnp.diag(self.p * keep),
            self.a * keep[:, None],
            jnp.tensordot(keep, self.q, 1),
            self.log_det @ keep,
        )


def member(found: Any, k: int | None) -> Any:
    return found if k is None else type(found)(*(leaf[k] for leaf in found))


def known(weight: Any, scale: Any) -> Rows:
    tau = jnp.asarray(scale) ** -2
    second = weight[..., :, None] * weight[..., None, :]
    q = tau[..., None, None] * second
    return Rows(tau, tau[..., None] * weight, q, -jnp.log(tau))


def inverse(matrix: Array) -> Array:
    eye = jnp.eye(matrix.shape[-1])
    return jnp.linalg.solve(matrix, jnp.broadcast_to(eye, matrix.shape))


def joint(natural: Any) -> Regression:
    """Of a matrix-normal-inverse-Wishart block."""
    dim, df = natural.vv.shape[-1], natural.df
    loc = jnp.linalg.solve(natural.uu, jnp.swapaxes(natural.vu, -1, -2))
    loc = jnp.swapaxes(loc, -1, -2)
    psi = natural.vv - loc @ jnp.swapaxes(natural.vu, -1, -2)
    p = df[..., None, None] * inverse(psi)
    a = p @ loc
    q = jnp.swapaxes(loc, -1, -2) @ a + dim * inverse(natural.uu)
    gammas = digamma((df[..., None] - jnp.arange(dim)) / 2)
    log_det = jnp.linalg.slogdet(psi)[1] - dim * jnp.log(2) - jnp.sum(gammas, -1)
    return Regression(p, a, q, log_det)


def apart(weight: Any, noise: Any) -> Rows:
    """Of weights and of independent precisions of their rows.

    :param weight: a Gaussian of each row, or of all entries.
    """
    tau = noise.concentration / noise.rate
    cov = inverse(weight.precision)
    mean = jnp.einsum("...ij,...j->...i", cov, weight.info_vector)
    if mean.ndim == tau.ndim:
        split = (tau.shape[-1], mean.shape[-1] // tau.shape[-1])
        cov = cov.reshape(*cov.shape[:-2], *split, *split)
        cov = jnp.einsum("...imin->...imn", cov)
        mean = mean.reshape(*mean.shape[:-1], *split)
    second = cov + mean[..., :, None] * mean[..., None, :]
    q = tau[..., None, None] * second
    log_det = jnp.log(noise.rate) - digamma(noise.concentration)
    return Rows(tau, tau[..., None] * mean, q, log_det)


def log_normalizer(natural: Any) -> Array:
    """Of a matrix-normal-inverse-Wishart block."""
    dim, columns = natural.vu.shape[-2:]
    loc = jnp.linalg.solve(natural.uu, jnp.swapaxes(natural.vu, -1, -2))
    psi = natural.vv - natural.vu @ loc
    half = natural.df / 2
    value = half * dim * jnp.log(2.0) + multigammaln(half, dim)
    value = value - half * jnp.linalg.slogdet(psi)[1] + dim * columns / 2 * LOG_2PI
    return value - dim / 2 * jnp.linalg.slogdet(natural.uu)[1]


def blocks(spec: Spec, params: dict[str, Any]) -> dict[str, Any]:
    """Moments of what the factors have, by name."""
    found: dict[str, Any] = {}
    there = {"vectors": spec.vectors, "data": spec.family == "gaussian"}
    kinds = {"vectors": spec.prior, "data": spec.seen}
    counts = {"vectors": spec.members, "data": spec.components}
    for name in (name for name in there if there[name]):
        if kinds[name] == "known":
            shape = shape_of(spec, name)
            found[name] = known(*known_pair(name, *shape, counts[name]))
        elif kinds[name] == "apart":
            found[name] = apart(params[f"{name}_weight"], params[f"{name}_noise"])
        else:
            found[name] = joint(params[name])
    if spec.discrete:
        first, rows = known_rows(spec.states)
        if spec.rows == "known":
            found["first"], found["rows"] = np.log(first), np.log(rows)
        else:
            found["first"] = expected_log(params["first"].concentration)
            if spec.timed:
                found["rows"] = expected_log(params["rows"].concentration)
    if spec.family == "bernoulli":
        both = params["data"].concentration
        found["data"] = expected_log(both)
    elif spec.family == "categorical":
        found["data"] = expected_log(params["data"].concentration)
    elif spec.family == "poisson":
        shape, rate = params["data"].concentration, params["data"].rate
        found["data"] = jnp.stack([digamma(shape) - jnp.log(rate), shape / rate], -1)
    return found


def shape_of(spec: Spec, name: str) -> tuple[int, int]:
    """Rows and columns of a weight."""
    if name == "data":
        return spec.outputs, spec.columns
    return spec.dim, spec.dim if spec.latent in ("path", "switching") else 1


def expected_log(concentration: Array) -> Array:
    return digamma(concentration) - digamma(jnp.sum(concentration, -1, keepdims=True))


class Quadratic(NamedTuple):
    """``constant + info' x - x' precision x / 2`` in all vectors of a sequence."""

    constant: Any
    info: Any
    precision: Any

    def plus(self, r: Regression, v: Any, u: Any) -> Quadratic:
        """Add ``E log N(v; F u, S)``.

        :param v: the matrix and the offset that give v from x.
        :param u: likewise.
        """
        (vm, v0), (um, u0) = v, u
        constant = -0.5 * (v0 @ r.p @ v0 - 2 * v0 @ r.a @ u0 + u0 @ r.q @ u0)
        constant = constant - 0.5 * (r.log_det + len(v0) * LOG_2PI)
        info = -vm.T @ r.p @ v0 + vm.T @ r.a @ u0 + um.T @ r.a.T @ v0 - um.T @ r.q @ u0
        cross = vm.T @ r.a @ um
        precision = vm.T @ r.p @ vm - cross - cross.T + um.T @ r.q @ um
        return Quadratic(
            self.constant + constant, self.info + info, self.precision + precision
        )

    def log_integral(self) -> Array:
        mean = jnp.linalg.solve(self.precision, self.info)
        log_det = jnp.linalg.slogdet(self.precision)[1]
        value = self.constant + 0.5 * self.info @ mean - 0.5 * log_det
        return value + 0.5 * len(self.info) * LOG_2PI


def log_mass(spec: Spec, found: dict[str, Any], data: dict[str, Any]) -> Array:
    """The log of the exponential of the expected energy, summed over all that is
    latent."""
    total = jnp.zeros(())
    for n in range(len(data["y"])):
        one = {key: value[n] for key, value in data.items()}
        length = one["length"] if spec.timed else 1
        paths = list(itertools.product(range(spec.states), repeat=length))
        if one.get("label", -1) >= 0:
            paths = [(one["label"],)]
        if spec.discrete:
            mass = partial(assignment, spec, found, one, length)
            total = total + jax.nn.logsumexp(jax.vmap(mass)(np.array(paths)))
        else:
            total = total + assignment(spec, found, one, length)
    return total


def assignment(
    spec: Spec, found: Any, one: dict[str, Any], length: int, path: Any = None
) -> Array:
    """The log mass of one path of states."""
    size = spec.dim * length if spec.vectors else 0
    q = Quadratic(jnp.zeros(()), jnp.zeros(size), jnp.zeros((size, size)))
    pick = np.eye(size).reshape(length, -1, size) if size else None
    nothing = np.zeros((1, size)), np.ones(1)
    constant = jnp.zeros(())
    for t in range(length):
        z = None if path is None else path[t]
        if spec.discrete:
            step = found["first"][z] if t == 0 else found["rows"][path[t - 1], z]
            constant = constant + step
        if spec.vectors:
            zero = np.zeros(spec.dim)
            own = member(found["vectors"], z).of(np.ones(spec.dim))
            if spec.latent not in ("path", "switching"):
                q = q.plus(own, (pick[t], zero), nothing)
            elif t == 0:
                start = known(np.zeros((spec.dim, 1)), np.ones(spec.dim))
                q = q.plus(start.of(np.ones(spec.dim)), (pick[0], zero), nothing)
            else:
                q = q.plus(own, (pick[t], zero), (pick[t - 1], zero))
        if not np.any(one["mask"][t]):
            continue
        pick_data = z if spec.components else None
        if spec.family != "gaussian":
            constant = constant + counted(spec, found, one["y"][t], pick_data)
            continue
        u = nothing
        if spec.vectors:
            u = pick[t], np.zeros(spec.dim)
            if spec.bias:
                u = np.concatenate([u[0], nothing[0]]), np.append(u[1], 1.0)
        y = np.where(one["mask"][t], one["y"][t], 0.0)
        r = member(found["data"], pick_data).of(one["mask"][t])
        q = q.plus(r, (np.zeros((len(y), size)), y), u)
        constant = constant + 0.5 * np.sum(~one["mask"][t]) * LOG_2PI
    if not size:
        return constant + q.constant
    return constant + q.log_integral()


def counted(spec: Spec, found: dict[str, Any], y: Any, k: int | None) -> Array:
    """The expected log probability of data that are not Gaussian."""
    if spec.family == "laplace":
        loc = fixed("laplace", *(() if k is None else (spec.states,)), len(y))
        loc = loc if k is None else jnp.asarray(loc)[k]
        return jnp.sum(-jnp.abs(y - loc) / 0.8 - np.log(1.6))
    moments = found["data"] if k is None else found["data"][k]
    if spec.family == "categorical":
        return moments[int(y)]
    if spec.family == "bernoulli":
        return jnp.sum(jnp.where(y == 1, moments[..., 0], moments[..., 1]))
    return jnp.sum(y * moments[..., 0] - moments[..., 1] - gammaln(y + 1.0))


# global blocks


def prior_of(spec: Spec, name: str, like: Any) -> Any:
    """Natural parameters of the prior of a block, in the container of its posterior."""
    alpha = {"first": 1.5, "rows": 0.8, "data": 1.3}
    if hasattr(like, "rate"):
        return type(like)(
            jnp.full_like(like.concentration, 2.0), jnp.full_like(like.rate, 1.5)
        )
    if name in ("data", "first", "rows") and hasattr(like, "concentration"):
        counts = jnp.full(like.concentration.shape, alpha[name])
        if spec.family == "bernoulli" and name == "data":
            counts = jnp.broadcast_to(jnp.array([2.0, 3.0]), counts.shape)
        return type(like)(counts)
    if hasattr(like, "info_vector"):
        block = name.removesuffix("_weight")
        rows, columns = shape_of(spec, block)
        loc = 0.5 * fixed(block, rows, columns)
        if like.info_vector.shape[-2:] != loc.shape:  # all entries together
            loc = loc.ravel()
        loc = jnp.broadcast_to(loc, like.info_vector.shape)
        eye = jnp.eye(loc.shape[-1]) / 1.5**2
        return type(like)(loc / 1.5**2, jnp.broadcast_to(eye, like.precision.shape))
    rows, columns = like.vu.shape[-2:]
    loc = 0.5 * fixed(name, rows, columns)
    uu = jnp.eye(columns) * (1.0 + jnp.arange(columns))
    parts = jnp.eye(rows) + loc @ uu @ loc.T, loc @ uu, uu, jnp.asarray(rows + 3.0)
    full = (like.vv, like.vu, like.uu, like.df)
    return type(like)(*(jnp.broadcast_to(p, f.shape) for p, f in zip(parts, full)))


def divergence(spec: Spec, name: str, posterior: Any) -> Array:
    """Of the posterior of a block from its prior."""
    prior = prior_of(spec, name, posterior)
    if hasattr(posterior, "rate"):
        pair = (dist.Gamma(x.concentration, x.rate) for x in (posterior, prior))
        return jnp.sum(dist.kl_divergence(*pair))
    if hasattr(posterior, "concentration"):
        pair = (dist.Dirichlet(x.concentration) for x in (posterior, prior))
        return jnp.sum(dist.kl_divergence(*pair))
    if hasattr(posterior, "info_vector"):
        pair = (gaussian(x) for x in (posterior, prior))
        return jnp.sum(dist.kl_divergence(*pair))
    r = joint(posterior)
    value = jnp.sum(-0.5 * r.p * (posterior.vv - prior.vv), (-2, -1))
    value += jnp.sum(r.a * (posterior.vu - prior.vu), (-2, -1))
    value += jnp.sum(-0.5 * r.q * (posterior.uu - prior.uu), (-2, -1))
    value += -0.5 * r.log_det * (posterior.df - prior.df)
    return jnp.sum(value - log_normalizer(posterior) + log_normalizer(prior))


def gaussian(natural: Any) -> Any:
    mean = jnp.linalg.solve(natural.precision, natural.info_vector[..., None])
    return dist.MultivariateNormal(mean[..., 0], precision_matrix=natural.precision)


def seen(name: str, posterior: Any, slope: Any) -> Any:
    """What data add to a block, from the gradient of the log mass in its moments."""
    if hasattr(posterior, "rate"):
        return type(posterior)(slope[..., 0], -slope[..., 1])
    if hasattr(posterior, "concentration"):
        return type(posterior)(slope)
    halves = (-(slope.p + jnp.swapaxes(slope.p, -1, -2)), slope.a)
    uu = -(slope.q + jnp.swapaxes(slope.q, -1, -2))
    return type(posterior)(*halves, uu, -2 * slope.log_det)
