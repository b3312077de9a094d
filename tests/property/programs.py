# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Small programs, one for each sentence of the grammar that the primer says is read."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns

COUNT, STEPS, CLASSES = 2, 3, 3
LATENTS = (
    "none",
    "labels",
    "states",
    "vectors",
    "mixture",
    "state vectors",
    "path",
    "switching",
)
INITIAL, ROWS = np.array([0.4, 0.6]), np.array([[0.7, 0.3], [0.2, 0.8]])


@dataclass(frozen=True)
class Spec:
    """A program.

    :param latent: one of ``LATENTS``; ``"states"`` are a chain of labels.
    :param family: of the data.
    :param rows: the prior of probabilities: ``"known"`` or ``"dirichlet"``.
    :param prior: the prior of what the vectors or paths have: ``"known"``, ``"joint"``,
        ``"pair"`` (two sites) or ``"apart"`` (independent).
    :param seen: that of what the data have.
    :param by_state: whether the weights of an observation of vectors have states.
    :param bias: whether its regressor has a constant.
    :param spelling: of a product of weights and vectors.
    :param missing: ``"nothing"``, ``"vectors"``, ``"entries"``, ``"ends"`` or
        ``"labels"`` (these are known in part).
    :param plate: whether there are several sequences or data.
    """

    latent: str
    family: str
    rows: str
    prior: str
    seen: str
    by_state: bool
    bias: bool
    spelling: str
    missing: str
    plate: bool
    states: int
    dim: int
    outputs: int

    @property
    def discrete(self) -> bool:
        return self.latent not in ("none", "vectors", "path")

    @property
    def vectors(self) -> bool:
        return self.latent not in ("none", "labels", "states")

    @property
    def timed(self) -> bool:
        return self.latent in ("states", "state vectors", "path", "switching")

    @property
    def positions(self) -> tuple[int, ...]:
        return (COUNT,) * self.plate + (STEPS,) * self.timed

    @property
    def columns(self) -> int:
        return self.dim + self.bias if self.vectors else 1

    @property
    def components(self) -> int | None:
        """How many members the block of the data has."""
        picks = self.discrete and (self.by_state or not self.vectors)
        return self.states if picks else None

    @property
    def members(self) -> int | None:
        """How many members the block of the vectors has."""
        return self.states if self.discrete else None


def fixed(name: str, *shape: int) -> np.ndarray:
    """Numbers that have nothing to do with others."""
    return np.random.default_rng(sum(map(ord, name))).standard_normal(shape)


def batch(count: int | None) -> tuple[int, ...]:
    return () if count is None else (count,)


def known_pair(name: str, rows: int, columns: int, count: int | None) -> Any:
    """A known weight and the standard deviations of known noise."""
    scale = 0.6 + 0.3 * np.abs(fixed(name + " scale", *batch(count), rows))
    return 0.7 * fixed(name, *batch(count), rows, columns), scale


def block(kind: str, name: str, rows: int, columns: int, count: int | None) -> Any:
    """A weight ``(..., rows, columns)`` and a covariance, or standard deviations."""
    if kind == "known":
        weight, scale = known_pair(name, rows, columns, count)
        return jnp.asarray(weight), jnp.asarray(scale), True
    loc = 0.5 * fixed(name, rows, columns)
    eye, df = jnp.eye(rows), rows + 3.0
    precision = jnp.eye(columns) * (1.0 + jnp.arange(columns))
    with numpyro.plate(f"{name}_members", count) if count else nullcontext():
        if kind == "apart":
            normal = dist.Normal(loc, 1.5).to_event(2)
            weight = numpyro.sample(f"{name}_weight", normal)
            gamma = dist.Gamma(2.0, 1.5).expand([rows]).to_event(1)
            return weight, numpyro.sample(f"{name}_noise", gamma) ** -0.5, True
        if kind == "joint" and columns == 1:
            prior = ns.NormalInverseWishart(loc[:, 0], precision[0, 0], df, eye)
            mean, cov = ns.sample(name, prior)
            return mean[..., None], cov, False
        if kind == "joint":
            prior = ns.MatrixNormalInverseWishart(loc, precision, df, eye)
            return *ns.sample(name, prior), False
        wishart = dist.InverseWishart(df, scale_matrix=eye)
        cov = numpyro.sample(f"{name}_cov", wishart)
        if columns == 1:
            gaussian = dist.MultivariateNormal(loc[:, 0], cov / precision[0, 0])
            return numpyro.sample(name, gaussian)[..., None], cov, False
        tril = jnp.linalg.cholesky(jnp.linalg.solve(precision, jnp.eye(columns)))
        matrix = dist.MatrixNormal(loc, jnp.linalg.cholesky(cov), tril)
        return numpyro.sample(name, matrix), cov, False


def chain_rows(spec: Spec) -> tuple[Any, Any]:
    """First probabilities, and those of the next state."""
    size = spec.states
    if spec.rows == "known":
        first, rows = known_rows(size)
        return jnp.asarray(first), jnp.asarray(rows)
    first = numpyro.sample("first", dist.Dirichlet(jnp.full(size, 1.5)))
    if not spec.timed:
        return first, None
    with numpyro.plate("row_members", size):
        return first, numpyro.sample("rows", dist.Dirichlet(jnp.full(size, 0.8)))


def known_rows(size: int) -> tuple[np.ndarray, np.ndarray]:
    first, rows = INITIAL[:size], ROWS[:size, :size]
    return first / first.sum(), rows / rows.sum(-1, keepdims=True)


def model(spec: Spec, y: Any, mask: Any = None, lengths: Any = None, **known: Any):
    """The program of a specification; ``known`` has labels, and which are given."""
    first, rows = chain_rows(spec) if spec.discrete else (None, None)
    width = spec.dim if spec.latent in ("path", "switching") else 1
    vectors = own = None
    if spec.vectors:
        vectors = block(spec.prior, "vectors", spec.dim, width, spec.members)
    if spec.family == "gaussian":
        own = block(spec.seen, "data", spec.outputs, spec.columns, spec.components)
    else:
        own = counted(spec)
    with numpyro.plate("sequences", COUNT) if spec.plate else nullcontext():
        z = labels(spec, first, rows, lengths, known) if spec.discrete else None
        x = states(spec, vectors, z, lengths, mask) if spec.vectors else None
        fn = seen_as(spec, own, x, z, mask)
        numpyro.sample("y", fn.to_event(1) if spec.timed else fn, obs=y)


def labels(spec: Spec, first: Any, rows: Any, lengths: Any, known: dict) -> Any:
    fn: Any = dist.Categorical(first)
    if spec.timed:
        fn = ns.DiscreteMarkovChain(first, rows, STEPS, lengths=lengths)
    return numpyro.sample("z", fn, **known)


def states(spec: Spec, vectors: Any, z: Any, lengths: Any, mask: Any) -> Any:
    weight, noise, independent = vectors
    if spec.latent in ("path", "switching"):
        cov = noise[..., None] ** 2 * jnp.eye(spec.dim) if independent else noise
        if spec.latent == "switching":
            weight, cov = weight[z[..., 1:]], cov[z[..., 1:]]
        start = jnp.zeros(spec.dim), jnp.eye(spec.dim)
        chain = ns.LinearGaussianChain(
            *start, weight, cov, num_steps=STEPS, lengths=lengths
        )
        return numpyro.sample("x", chain)
    if z is not None:
        weight, noise = weight[z], noise[z]
    fn = gaussian(weight[..., 0], noise, independent)
    if spec.missing == "ends":
        fn = fn.mask(mask)
    return numpyro.sample("x", fn.to_event(1) if spec.timed else fn)


def gaussian(loc: Any, noise: Any, independent: bool, entries: Any = None) -> Any:
    if not independent:
        return dist.MultivariateNormal(loc, noise)
    fn = dist.Normal(loc, noise)
    return (fn if entries is None else fn.mask(entries)).to_event(1)


def counted(spec: Spec) -> Any:
    """The parameters of data that are not Gaussian."""
    count, features = spec.components, spec.outputs
    if spec.family == "laplace":
        return jnp.asarray(fixed("laplace", *batch(count), features))
    kinds = {
        "bernoulli": dist.Beta(2.0, 3.0).expand([features]).to_event(1),
        "poisson": dist.Gamma(2.0, 1.5).expand([features]).to_event(1),
        "categorical": dist.Dirichlet(jnp.full(CLASSES, 1.3)),
    }
    with numpyro.plate("data_members", count) if count else nullcontext():
        return numpyro.sample("data", kinds[spec.family])


def seen_as(spec: Spec, own: Any, x: Any, z: Any, mask: Any) -> Any:
    """The distribution of the data, with time among its batch."""
    pick = (lambda part: part[z]) if spec.components else (lambda part: part)
    whole = None if spec.missing in ("entries", "labels") else mask
    if spec.family == "gaussian":
        weight, noise, independent = own
        loc = pick(weight)[..., 0] if x is None else product(spec, weight, x, z)
        entries = mask if spec.missing == "entries" else None
        loc = jnp.broadcast_to(loc, (*spec.positions, spec.outputs))
        fn = gaussian(loc, pick(noise), independent, entries)
    else:
        own, shape = pick(own), (*spec.positions, spec.outputs)
        if spec.family == "categorical":
            fn = dist.Categorical(jnp.broadcast_to(own, (*spec.positions, CLASSES)))
        else:
            kinds = {
                "bernoulli": dist.Bernoulli,
                "poisson": dist.Poisson,
                "laplace": lambda loc: dist.Laplace(loc, 0.8),
            }
            fn = kinds[spec.family](jnp.broadcast_to(own, shape)).to_event(1)
    return fn if whole is None else fn.mask(whole)


def product(spec: Spec, weight: Any, x: Any, z: Any) -> Any:
    if spec.bias:
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
    if spec.components:
        weight = weight[z]
        if spec.spelling == "matmul":
            return (weight @ x[..., None])[..., 0]
        return jnp.einsum("...pm,...m->...p", weight, x)
    if spec.spelling == "matmul":
        return x @ weight.T
    if spec.spelling == "column":
        return jnp.squeeze(weight @ x[..., None], -1)
    return jnp.einsum("pm,...m->...p", weight, x)
