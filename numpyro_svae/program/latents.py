# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sorts the latent sites of a program into global blocks and local sites."""

from __future__ import annotations

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.distributions import (
    DiscreteMarkovChain,
    LinearGaussianChain,
    MatrixNormalInverseWishart,
    NormalInverseWishart,
)
from numpyro_svae.program.axes import axes_of
from numpyro_svae.program.diagonal import find_scaled
from numpyro_svae.program.factors import Local
from numpyro_svae.program.observations import CATEGORICAL
from numpyro_svae.program.priors import DirichletPrior, Prior, RegressionPrior
from numpyro_svae.program.probing import Prober, same
from numpyro_svae.program.rate_priors import BetaPrior, GammaPrior
from numpyro_svae.program.sites import Program, Site, gaussian_view, unwrap

__all__ = ["easy_value", "read_locals", "read_priors"]


def easy_value(message: dict) -> Array | None:
    """A value in the support of a latent site, found without sampling."""
    fn = message["fn"]
    base = unwrap(fn)[0]
    shape = fn.batch_shape + fn.event_shape
    if isinstance(base, NormalInverseWishart | MatrixNormalInverseWishart):
        dim, width = fn.event_shape
        value = np.eye(dim, width, width - dim)
    elif isinstance(base, dist.InverseWishart):
        value = np.eye(shape[-1])
    elif isinstance(base, dist.Dirichlet):
        value = np.full(shape[-1:], 1.0 / shape[-1])
    elif isinstance(base, dist.Beta | dist.Gamma | dist.InverseGamma):
        value = np.full((), 0.5)
    elif isinstance(base, CATEGORICAL | DiscreteMarkovChain):
        value = np.zeros((), int)
    elif _is_gaussian(base):
        value = np.zeros(())
    else:
        return None
    return jnp.asarray(np.broadcast_to(value, shape))


def _is_gaussian(fn: dist.Distribution) -> bool:
    kinds = dist.Normal | dist.MultivariateNormal | dist.MatrixNormal
    return isinstance(fn, kinds | LinearGaussianChain)


def read_priors(program: Program, sites: dict[str, Site]) -> dict[str, Prior]:
    """The global blocks, in program order."""
    latent = [site for site in sites.values() if not site.observed]
    priors: dict[str, Prior] = {}
    halves = [s for s in latent if isinstance(s.fn, dist.InverseWishart)]
    for site in latent:
        if isinstance(site.fn, NormalInverseWishart | MatrixNormalInverseWishart):
            dim, width = site.fn.event_shape
            vector = isinstance(site.fn, NormalInverseWishart)
            priors[site.name] = RegressionPrior(
                site.name, (site.name,), _batch(site), dim, width - dim, vector
            )
        elif isinstance(site.fn, dist.Dirichlet):
            size = site.fn.event_shape[-1]
            priors[site.name] = DirichletPrior(
                site.name, (site.name,), _batch(site), size
            )
    for half in halves:
        prior = _join_two_sites(program, half, latent)
        priors[prior.name] = prior
    for site in latent:
        if isinstance(site.fn, dist.Beta):
            features = site.outer.event_shape
            priors[site.name] = BetaPrior(
                site.name, (site.name,), _batch(site), features
            )
        elif isinstance(site.fn, dist.Gamma | dist.InverseGamma):
            scale = find_scaled(program, site, latent)
            if scale is not None:
                priors[scale.name] = scale
            elif isinstance(site.fn, dist.Gamma):
                features = site.outer.event_shape
                priors[site.name] = GammaPrior(
                    site.name, (site.name,), _batch(site), features
                )
    order = list(sites)
    return dict(sorted(priors.items(), key=lambda item: order.index(item[0])))


def _batch(site: Site) -> tuple[int, ...]:
    if len(site.batch_shape) > 1:
        raise ValueError(
            f"Site '{site.name}': a global site may have a batch of components, found "
            f"batch shape {site.batch_shape}. Open its plate by itself, outside of all "
            "other plates, so that the batch shape is (K,)."
        )
    return site.batch_shape


def _join_two_sites(program: Program, half: Site, latent: list[Site]) -> Prior:
    """Find the location site whose covariance is the given inverse-Wishart site."""
    names = [site.name for site in latent]
    prober = Prober(program, {s.name: s for s in latent}, {}, {})
    needs = prober.dependencies(names)
    for site in latent:
        used = frozenset().union(*needs[site.name].values())
        gaussian = isinstance(site.fn, dist.MultivariateNormal) and not site.extra
        if used != {half.name} or not (
            gaussian or isinstance(site.fn, dist.MatrixNormal)
        ):
            continue
        if not _is_scaled_by(program, site.name, half):
            continue
        rows, columns = (
            site.fn.event_shape if not gaussian else (*site.fn.event_shape, 1)
        )
        pair = (half.name, site.name)
        return RegressionPrior(site.name, pair, _batch(site), rows, columns, gaussian)
    raise ValueError(
        f"Site '{half.name}': an InverseWishart needs a partner, found none. Accepted: "
        f"MultivariateNormal(loc, {half.name} / kappa) or MatrixNormal(loc, "
        f"cholesky({half.name}), scale_tril_column), with a loc that depends on no "
        "latent site; or one joint site from numpyro_svae.sample."
    )


def _is_scaled_by(program: Program, name: str, half: Site) -> bool:
    """Whether the row covariance of a site is a multiple of an inverse-Wishart site."""
    root = np.random.default_rng(0).standard_normal(half.value.shape)
    cov = root @ np.swapaxes(root, -1, -2) + np.eye(root.shape[-1])
    fn = program.sites({half.name: cov})[name].fn
    tril = fn.scale_tril_row if isinstance(fn, dist.MatrixNormal) else fn.scale_tril
    found = np.asarray(tril @ jnp.swapaxes(tril, -1, -2))
    if isinstance(fn, dist.MatrixNormal):
        return same(found, cov)
    return same(found / found[..., :1, :1], cov / cov[..., :1, :1])


def read_locals(sites: dict[str, Site], priors: dict[str, Prior]) -> dict[str, Local]:
    """The local latent sites, in program order."""
    of_priors = {name for prior in priors.values() for name in prior.sites}
    locals = {}
    for name, site in sites.items():
        if site.observed or name in of_priors:
            continue
        if isinstance(site.fn, CATEGORICAL):
            kind, size = "categorical", site.fn.probs.shape[-1]
        elif isinstance(site.fn, DiscreteMarkovChain):
            kind, size = "discrete_chain", site.fn.initial_probs.shape[-1]
        elif isinstance(site.fn, LinearGaussianChain):
            kind, size = "chain", site.fn.event_shape[-1]
        elif gaussian_view(site) is not None:
            kind, size = "gaussian", site.outer.event_shape[-1]
        else:
            raise ValueError(
                f"Site '{name}': latent {type(site.fn).__name__} is neither conjugate "
                "nor can it be given a potential. Accepted global sites: "
                "NormalInverseWishart, MatrixNormalInverseWishart, Dirichlet, Beta, "
                "Gamma, InverseWishart with a MultivariateNormal or MatrixNormal, "
                "Gamma or InverseGamma with a Normal of that scale. Accepted "
                "local sites: Categorical, MultivariateNormal, "
                "Normal(...).to_event(1), LinearGaussianChain, DiscreteMarkovChain. "
                "Hide other sites with numpyro.handlers.block and give them a guide of "
                "their own in an AutoGuideList."
            )
        locals[name] = Local(name, kind, size, axes_of(site).plates)
    return locals
