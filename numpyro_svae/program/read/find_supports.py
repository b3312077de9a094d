# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds the directions in which the parts of a path have noise."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.run.sites import Site, is_path, is_state, response_dim
from numpyro_svae.program.structure.probing import Prober
from numpyro_svae.program.structure.supports import Support

__all__ = ["find_support", "response_dims"]

_COVARIANCES = {"initial": "initial_cov", "transition": "transition_cov"}


def find_support(prober: Prober, site: Site, role: str) -> Support | None:
    """Where a part of a site has noise; None if that is everywhere.

    :param prober: runs the program.
    :param site: the site.
    :param role: the part of its density.
    :raises ValueError: naming the site, if its parts without noise differ between
        steps, sequences, states or arguments, or if it is observed.
    """
    if not is_path(site.fn) or is_state(site.fn):
        return None
    name = _COVARIANCES[role]

    def read(own: Prober) -> list[Array]:
        return [own.read(v)[site.name][name] for v in prober.probes()]

    own = read(prober)
    basis = _range(own)
    if basis is None:
        alike = bool(np.all(np.diagonal(_flat(own), axis1=-2, axis2=-1) != 0))
    else:
        alike = _all_within(basis, [*own, *prober.read_elsewhere(read)])
    if not alike:
        raise _refused(
            site,
            f"a {name} whose directions without noise are not the same at all steps, "
            "sequences, states and arguments",
            "a covariance that is singular in the same directions everywhere, such as "
            "one that is made of zeros and numbers which are not zero. If it is zero "
            "by rounding only, as P - A @ P @ A.T is after a short time, write it "
            "without that difference, or call numpyro.enable_x64() first",
        )
    if basis is not None and site.observed:
        raise _refused(
            site,
            f"an observed path with a {name} that has no noise in some directions",
            "an observed path with noise in all of its entries. Write what is observed "
            "as a regression on its own past, numpyro.sample('y', "
            "dist.MultivariateNormal(past @ F.T, Q).to_event(1), obs=y)",
        )
    return None if basis is None else Support(basis)


def response_dims(prober: Prober, site: Site, name: str) -> frozenset[int]:
    """The dimensions of the noise of a site, or of the parts that a block is in.

    :param prober: runs the program.
    :param site: a Gaussian site or chain; others have none.
    :param name: a site that it depends on.
    """
    dim = response_dim(site)
    if not is_path(site.fn) or is_state(site.fn):
        return frozenset() if dim is None else frozenset({dim})
    bases = {r: _range([getattr(site.fn, n)]) for r, n in _COVARIANCES.items()}
    if all(basis is None for basis in bases.values()):
        return frozenset({site.fn.event_shape[-1]})
    used = prober.dependencies([name])[site.name]
    dims = set[int]()
    for role, basis in bases.items():
        own = (n for n in used if n.startswith(role))
        if any(used[n] for n in own):
            dims.add(site.fn.event_shape[-1] if basis is None else basis.shape[-1])
    return frozenset(dims)


def _refused(site: Site, found: str, accepted: str) -> ValueError:
    return ValueError(
        f"Site '{site.name}' (LinearGaussianChain): found {found}. Accepted: "
        f"{accepted}."
    )


def _flat(covariances: list[Any]) -> np.ndarray:
    """Covariances ``(count, D, D)`` of several runs."""
    parts = [np.asarray(x, float) for x in covariances]
    return np.concatenate([x.reshape(-1, *x.shape[-2:]) for x in parts])


def _range(found: list[Any]) -> np.ndarray | None:
    """A basis of the directions that some covariances have; None if that is all."""
    covariances, rounding = _flat(found), _rounding(found)
    if not covariances.size or not np.all(np.isfinite(covariances)):
        return None
    variances = np.diagonal(covariances, axis1=-2, axis2=-1)
    moving, size = np.any(variances != 0, 0), variances.shape[-1]
    roots = np.where(moving, np.sqrt(np.abs(variances).max(0)), 1.0)
    unit = np.mean(covariances / roots[:, None] / roots, 0)
    rank = int(np.sum(_pivots(unit[None], rounding) > 0))
    if rank == size:
        return None
    if rank == moving.sum():
        return np.eye(size)[:, moving]
    vectors = np.linalg.eigh(0.5 * (unit + unit.T))[1][:, size - rank :]
    basis = np.linalg.qr(roots[:, None] * vectors)[0]
    largest = basis[np.argmax(np.abs(basis), 0), np.arange(rank)]
    return basis * np.sign(largest)


def _rounding(found: list[Any]) -> float:
    """What is rounding alone in a pivot, beside its diagonal entry."""
    return 4 * max(float(jnp.finfo(jnp.asarray(x).dtype).eps) for x in found)


def _pivots(matrices: np.ndarray, rounding: float) -> np.ndarray:
    """The pivots of elimination, ``(count, D)``; zero if they are rounding."""
    rest, found = matrices.copy(), np.zeros(matrices.shape[:-1])
    for k in range(matrices.shape[-1]):
        column = rest[:, :, k].copy()
        kept = column[:, k] > rounding * np.abs(matrices[:, k, k])
        found[:, k] = np.where(kept, column[:, k], 0.0)
        row = column / np.where(kept, column[:, k], np.inf)[:, None]
        rest = rest - column[:, :, None] * row[:, None, :]
    return found


def _all_within(basis: np.ndarray, found: list[Any]) -> bool:
    """Whether covariances have noise in all directions of a basis, and in no other."""
    covariances, rounding = _flat(found), _rounding(found)
    inside = basis.T @ covariances @ basis
    size = np.abs(covariances).max((-2, -1), initial=0.0)
    outside = covariances - basis @ inside @ basis.T
    small = np.abs(outside).max((-2, -1), initial=0.0) <= 1e-4 * size
    return bool(np.all(small) and np.all(_pivots(inside, rounding) > 0))
