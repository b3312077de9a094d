# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sorts the latent sites of a program into global blocks and local sites."""

from __future__ import annotations

from collections.abc import Container, Iterable

from jax import Array
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.priors.priors import Prior, Reading, priors_of
from numpyro_svae.program.read.global_gaussians import Candidates
from numpyro_svae.program.read.sums import MIXTURES, OF_MIXTURES, of_scale
from numpyro_svae.program.run.arrays import jax_array
from numpyro_svae.program.run.kinds import kind_of
from numpyro_svae.program.run.moved_gaussians import as_latent
from numpyro_svae.program.run.parts import label_of
from numpyro_svae.program.run.sites import Program, Site, is_gaussian, unwrap
from numpyro_svae.program.run.stepwise import of_one_step
from numpyro_svae.program.run.wrappers import is_number
from numpyro_svae.program.structure.factors import Local
from numpyro_svae.program.structure.probing import Prober

__all__ = [
    "check_scanned",
    "easy_value",
    "random_globals",
    "read_locals",
    "read_priors",
]


def easy_value(message: dict) -> Array | None:
    """A value in the support of a latent site, found without sampling.

    :raises ValueError: naming the site, if nothing can be drawn from its prior, or it
        is drawn several times.
    """
    fn, times = as_latent(message["fn"]), message["kwargs"].get("sample_shape")
    if times:
        raise ValueError(
            f"Site '{message['name']}': found sample_shape={times}. Accepted: the "
            f"shape in the distribution, as {type(fn).__name__}(...).expand({[*times]})"
            f".to_event({len(times)}) for the entries of one site."
        )
    base, kind = unwrap(fn)[0], kind_of(unwrap(fn)[0])
    block = next(priors_of(base), None)
    if block is not None:
        value = block.easy_value(base.event_shape)
    elif kind is not None:
        value = np.zeros(base.event_shape, int if kind.discrete else float)
    elif type(base).sample is dist.Distribution.sample:
        raise _improper(message["name"], type(base).__name__)
    else:
        return None
    return jax_array(np.broadcast_to(value, fn.batch_shape + fn.event_shape))


def _improper(name: str, found: str) -> ValueError:
    return ValueError(
        f"Site '{name}': found {found} as a prior, from which nothing can be drawn. "
        "Accepted: a proper prior. Where it should say little, write Normal(0, s) of a "
        "location or of weights, with s ten times what you expect of them, "
        "HalfNormal(s) or HalfCauchy(s) of a scale, Dirichlet(jnp.ones(K)) of "
        "probabilities. For the most likely value alone, write numpyro.param."
    )


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


def check_scanned(scanned: Iterable[Site], names: Container[str]) -> None:
    """Latent sites in the bodies of scans are states or vectors of their steps.

    :param scanned: these sites.
    :param names: of all sites.
    :raises ValueError: naming a site that is neither discrete nor Gaussian.
    """
    for site in scanned:
        kind = kind_of(site.fn)
        if label_of(site.name) in names and (kind is None or is_number(site.outer)):
            raise _no_part(site)
        if kind is None or kind.chain:
            raise ValueError(
                f"Site '{site.name}': found {type(site.fn).__name__} in the body of a "
                "scan, one for each step. Accepted there: Categorical, and Gaussian "
                "numbers and vectors, as Normal and MultivariateNormal. Parameters "
                "that all steps share stand before the scan; one for each step is a "
                "site before it too, in a plate, whose rows the body takes from xs."
            )


def _no_part(site: Site) -> ValueError:
    """What ``obs_mask`` makes latent, and nothing can be said of."""
    found = type(site.fn).__name__
    return ValueError(
        f"Site '{site.name}': obs_mask makes a latent site of what is missing, and "
        f"{found} is none that AutoSVAE knows there. Accepted: a mask, as "
        "numpyro.sample(name, fn.mask(seen), obs=y), with which ns.impute draws what "
        "is missing."
    )


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
        if free and is_gaussian(site.fn):
            values[name] = rng.standard_normal(site.value.shape)
    return {name: jax_array(value) for name, value in values.items()}


def _read_blocks(
    program: Program, sites: dict[str, Site], needs: dict[str, frozenset[str]]
) -> dict[str, Prior]:
    """The global blocks but for Gaussian sites that have one of their own."""
    reading, priors = Reading(program, sites, needs), dict[str, Prior]()
    for site in sites.values():
        if not site.observed:
            found = (kind.find(reading, site) for kind in priors_of(site.fn))
            block = next((block for block in found if block is not None), None)
            if block is not None and not _is_part(block, priors.values()):
                priors[block.name] = block  # what has parts has the name of its last
    return {n: p for n, p in priors.items() if not _is_part(p, priors.values())}


def _is_part(block: Prior, blocks: Iterable[Prior]) -> bool:
    """Whether a block is a part of another one, as scales are of a covariance."""
    return any(set(block.sites) < set(other.sites) for other in blocks)


def read_locals(
    program: Program, sites: dict[str, Site], priors: dict[str, Prior]
) -> dict[str, Local]:
    """The local latent sites, in program order."""
    of_priors = {name for prior in priors.values() for name in prior.sites}
    locals = {}
    for name, site in sites.items():
        if site.observed or name in of_priors:
            continue
        kind = kind_of(site.fn)
        size = None if kind is None else kind.size(site)
        if kind is None or size is None:
            part = label_of(name) in sites
            raise _no_part(site) if part else _unknown(program, sites, site)
        locals[name] = Local(name, kind, size)
    return locals


_FACTOR = (
    " Where it multiplies another site, as in loc + scale * z, write that as "
    "Normal(loc, scale). As a rate or a shape, write a Gamma, or jnp.exp of a Normal "
    "site."
)
_PRECISION = (
    " Of a precision matrix, write the covariance as the site: Wishart(nu, V) of the "
    "first is dist.InverseWishart(nu, scale_matrix=jnp.linalg.inv(V)) of the second."
)
_CORRELATION = (
    " It has no scales: with sigma = numpyro.sample('sigma', dist.HalfNormal(1.0)"
    ".expand([D]).to_event(1)), write sigma[:, None] * root as the scale_tril, with "
    "root of a LKJCholesky site."
)
_INSTEAD: tuple[tuple[tuple[type, ...], str], ...] = (
    ((dist.Wishart, dist.WishartCholesky), _PRECISION),
    ((dist.LKJ, dist.LKJCholesky), _CORRELATION),
    (
        (dist.Normal,),
        " A number of each datum is a vector of one entry, "
        "Normal(loc[..., None], scale).to_event(1); numbers that are used together, as "
        "in jnp.stack([a, b], -1), are one site, Normal(0, 1).expand([2]).to_event(1). "
        "Effects of groups have a plate of their own, numpyro.plate('groups', G), and "
        "data have a[group].",
    ),
    ((dist.HalfCauchy, dist.HalfNormal), _FACTOR),
    (
        (dist.Delta,),
        " What is known is no latent site: numpyro.deterministic(name, value).",
    ),
    (
        (dist.LogNormal,),
        " As a rate or a shape, write it as jnp.exp of a Normal site.",
    ),
    (
        (dist.Uniform,),
        " Of a mean or a weight, as that of an autoregression, write "
        "Uniform(-1, 1) as Normal(0.0, 0.6); of a probability, Uniform(0, 1) with "
        "bounds that are numbers, or Beta.",
    ),
    (
        (
            dist.LeftTruncatedDistribution,
            dist.RightTruncatedDistribution,
            dist.TwoSidedTruncatedDistribution,
        ),
        " Of a mean or a weight, write the distribution without bounds.",
    ),
    (
        (dist.DiscreteUniform,),
        " Its states begin at zero, all alike: of n from low to high, write "
        "Categorical(jnp.ones(n) / n), and low + z where it is used.",
    ),
    (
        (dist.BinomialProbs, dist.MultinomialProbs),
        " Of one trial, write Bernoulli(p), or Categorical(p) of several categories.",
    ),
    (MIXTURES, OF_MIXTURES),
    (
        (dist.Laplace, dist.StudentT, dist.Cauchy),
        " A location or a weight with heavy tails is a Normal whose scale has a prior: "
        "Normal(0, jnp.sqrt(v)) with v ~ Exponential(0.5 / b**2) is a Laplace(0, b), "
        "and Normal(0, 1 / jnp.sqrt(w)) with w ~ Gamma(df / 2, df / 2 * s**2) is a "
        "StudentT(df, 0, s).",
    ),
    ((dist.Kumaraswamy,), " Of a probability, write Beta(a, b)."),
    (
        (dist.ZeroSumNormal,),
        " Write Normal(0, s), whose prior keeps the sum near zero, and take the mean "
        "off draws.",
    ),
    (
        (dist.TransformedDistribution,),
        " Write it by its name, as LogNormal, or its base as the site, as "
        "numpyro.infer.reparam.TransformReparam does. Of a Normal or "
        "MultivariateNormal, AffineTransform and LowerCholeskyAffine are read. Means "
        "of components need no order; cuts of ordinal data are a numpyro.param.",
    ),
)
_BY_CLASS = {fn: text for classes, text in _INSTEAD for fn in classes}


def _unknown(program: Program, sites: dict[str, Site], site: Site) -> ValueError:
    """The error for a latent site of no kind."""
    prober, found = Prober(program, sites, {}, {}), type(of_one_step(site.fn))
    if not (users := Reading(program, sites, prober.needs).users(site.name)):
        return ValueError(
            f"Site '{site.name}': no other site depends on it, so that it keeps its "
            f"prior, and {found.__name__} is none that AutoSVAE knows without "
            "what depends on it. Accepted: a program without it, or where the density "
            "of another site depends on it (numpyro.deterministic has none); what "
            "numpyro.handlers.block(seed(model, 0), hide=[...]) hides is not inferred."
        )
    mixed = any(isinstance(of_one_step(s.fn), MIXTURES) for s in users)
    advice = OF_MIXTURES if mixed else _BY_CLASS.get(found, "")
    if issubclass(found, PrecisionPrior.distributions):
        advice = of_scale(program, sites, site) or advice
    return ValueError(
        f"Site '{site.name}': latent {found.__name__} is neither conjugate nor can it "
        f"be given a potential.{advice} Accepted global sites: NormalInverseWishart, "
        "MatrixNormalInverseWishart, Dirichlet, Beta, Gamma, InverseGamma, "
        "InverseWishart; HalfNormal, HalfCauchy, LogNormal, "
        "Exponential, Weibull, Gamma, Uniform, LogUniform, Pareto or a truncated or "
        "folded distribution as the standard deviation, the variance or the precision "
        "of Gaussian sites (in the place of another scale or shape, the exponential of "
        "a Normal site); LKJCholesky or LKJ with such scales as their covariance; and "
        "Normal, MultivariateNormal or MatrixNormal outside of the plates of the data. "
        "Accepted local sites: Categorical, MultivariateNormal, Normal(...)"
        ".to_event(1) (a number as Normal(loc[..., None], scale).to_event(1)), "
        "LinearGaussianChain, NonlinearGaussianChain, DiscreteMarkovChain. "
        "A site that only likelihoods with a potential depend on may be hidden "
        "with numpyro.handlers.block and have a guide of its own in an "
        "AutoGuideList."
    )
