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
from numpyro_svae.program.diagonal import find_scaled
from numpyro_svae.program.factors import Local
from numpyro_svae.program.global_gaussians import Candidates
from numpyro_svae.program.labels import label_of
from numpyro_svae.program.noise_priors import CovariancePrior, PrecisionPrior
from numpyro_svae.program.observations import CATEGORICAL
from numpyro_svae.program.priors import DirichletPrior, Prior, RegressionPrior
from numpyro_svae.program.probing import Prober, same
from numpyro_svae.program.rate_priors import BetaPrior, GammaPrior
from numpyro_svae.program.sites import Program, Site, gaussian_view, unwrap

__all__ = ["easy_value", "random_globals", "read_locals", "read_priors"]

Needs = dict[str, frozenset[str]]
_GAUSSIAN = (
    dist.Normal | dist.MultivariateNormal | dist.MatrixNormal | LinearGaussianChain
)


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
    elif isinstance(base, _GAUSSIAN):
        value = np.zeros(())
    else:
        return None
    return jnp.asarray(np.broadcast_to(value, shape))


def read_priors(program: Program, sites: dict[str, Site]) -> dict[str, Prior]:
    """The global blocks, in program order.

    :param program: the program.
    :param sites: the sites of one run.
    """
    prober = Prober(program, sites, {}, {})
    needs = prober.needs
    priors = _read_blocks(program, sites, needs)
    held = {name: prior for prior in priors.values() for name in prior.sites}
    priors.update(Candidates(prober, needs, held).read())
    order = list(sites)
    return dict(sorted(priors.items(), key=lambda item: order.index(item[0])))


def random_globals(
    program: Program, sites: dict[str, Site], scanned: frozenset[str]
) -> dict[str, Array]:
    """Random values of the global sites of a program whose scans are not yet read.

    What depends on what is not known inside of a scan, so any Gaussian site before it
    counts as global.

    :param program: the program.
    :param sites: the sites of one run.
    :param scanned: the sites in the bodies of scans.
    """
    needs = Prober(program, sites, {}, {}).needs
    rng, values = np.random.default_rng(0), {}
    for prior in _read_blocks(program, sites, needs).values():
        values.update(prior.random_values(rng))
    for name, site in sites.items():
        free = not site.observed and name not in scanned and name not in values
        if free and isinstance(site.fn, _GAUSSIAN):
            values[name] = rng.standard_normal(site.value.shape)
    return {name: jnp.asarray(value) for name, value in values.items()}


def _read_blocks(
    program: Program, sites: dict[str, Site], needs: Needs
) -> dict[str, Prior]:
    """The global blocks but for Gaussian sites that have one of their own."""
    latent = [site for site in sites.values() if not site.observed]
    priors: dict[str, Prior] = {}
    for site in latent:
        own = _own_block(site)
        if own is not None:
            priors[site.name] = own
    for site in latent:
        half: Prior | None = None
        if isinstance(site.fn, dist.InverseWishart):
            half = _covariance(program, site, latent, needs)
        elif isinstance(site.fn, dist.Gamma | dist.InverseGamma):
            half = _scale(program, site, sites, needs)
        if half is not None:
            priors[half.name] = half
    return priors


def _own_block(site: Site) -> Prior | None:
    """The block of a site that is one by itself, whatever depends on it."""
    name, fn = site.name, site.fn
    if isinstance(fn, NormalInverseWishart | MatrixNormalInverseWishart):
        dim, width = fn.event_shape
        vector = isinstance(fn, NormalInverseWishart)
        shape = dim, width - dim
        return RegressionPrior(name, (name,), _batch(site), *shape, vector)
    if isinstance(fn, dist.Dirichlet):
        size, kind = fn.event_shape[-1], type(fn)
        return DirichletPrior(name, (name,), site.batch_shape, size, kind)
    if isinstance(fn, dist.Beta):
        return BetaPrior(name, (name,), site.batch_shape, site.outer.event_shape)
    return None


def _scale(
    program: Program, half: Site, sites: dict[str, Site], needs: Needs
) -> Prior | None:
    """The block of a Gamma or inverse-Gamma site: a scale, alone or not, or rates."""
    name, features = half.name, half.outer.event_shape
    users = [n for n, used in needs.items() if name in used]
    alone = [sites[n] for n in users if needs[n] == {name} and not sites[n].observed]
    partners = [site for site in alone if _shares(name, site, needs)]
    joint = find_scaled(program, half, partners)
    if joint is not None:
        return joint
    inverse = isinstance(half.fn, dist.InverseGamma)
    if inverse or any(isinstance(sites[n].fn, _GAUSSIAN) for n in users):
        return PrecisionPrior(name, (name,), _batch(half), features, inverse)
    return GammaPrior(name, (name,), half.batch_shape, features)


def _shares(half: str, partner: Site, needs: Needs) -> bool:
    """Whether what depends on a site has its scale too, so that both are one block."""
    found = [used for used in needs.values() if partner.name in used]
    return not found or any(half in used for used in found)


def _batch(site: Site) -> tuple[int, ...]:
    if len(site.batch_shape) > 1:
        raise ValueError(
            f"Site '{site.name}': a global site may have a batch of components, found "
            f"batch shape {site.batch_shape}. Open its plate by itself, outside of all "
            "other plates, so that the batch shape is (K,)."
        )
    return site.batch_shape


def _covariance(
    program: Program, half: Site, latent: list[Site], needs: Needs
) -> Prior:
    """The block of an inverse-Wishart site, with the site that it scales if any."""
    beside = [s for s in latent if half.name in needs[s.name]]
    for site in beside:
        gaussian = isinstance(site.fn, dist.MultivariateNormal) and not site.extra
        if needs[site.name] != {half.name} or not (
            gaussian or isinstance(site.fn, dist.MatrixNormal)
        ):
            continue
        if site.batch_shape != half.batch_shape or not _shares(half.name, site, needs):
            continue
        if not _is_scaled_by(program, site.name, half):
            continue
        rows, columns = (
            site.fn.event_shape if not gaussian else (*site.fn.event_shape, 1)
        )
        pair = (half.name, site.name)
        return RegressionPrior(site.name, pair, _batch(site), rows, columns, gaussian)
    return CovariancePrior(
        half.name, (half.name,), _batch(half), half.fn.event_shape[-1]
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
            if label_of(name) in sites:
                raise ValueError(
                    f"Site '{name}': obs_mask makes a latent site of what is missing, "
                    f"and {type(site.fn).__name__} is none that AutoSVAE knows. "
                    "Accepted: a mask, as numpyro.sample(name, fn.mask(seen), obs=y), "
                    "with which ns.impute draws what is missing."
                )
            raise ValueError(
                f"Site '{name}': latent {type(site.fn).__name__} is neither conjugate "
                "nor can it be given a potential. Accepted global sites: "
                "NormalInverseWishart, MatrixNormalInverseWishart, Dirichlet, Beta, "
                "Gamma, InverseGamma, InverseWishart, and Normal, MultivariateNormal "
                "or MatrixNormal outside of the plates of the data. Accepted local "
                "sites: Categorical, MultivariateNormal, Normal(...).to_event(1) (a "
                "number as Normal(loc[..., None], scale).to_event(1)), "
                "LinearGaussianChain, DiscreteMarkovChain. "
                "A site that only likelihoods with a potential depend on may be hidden "
                "with numpyro.handlers.block and have a guide of its own in an "
                "AutoGuideList."
            )
        locals[name] = Local(name, kind, size)
    return locals
