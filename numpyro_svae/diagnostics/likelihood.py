# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The log likelihood of data, old or new, under a fitted model.

**Reference:** Y. Burda, R. Grosse and R. Salakhutdinov, *Importance weighted
autoencoders*, ICLR 2016, of the estimate and of the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jax import Array, lax, random
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from numpyro.handlers import block, seed
from numpyro.util import not_jax_tracer

from numpyro_svae.diagnostics.evidence import global_draw, integrated, log_weights
from numpyro_svae.diagnostics.fit import Fit, read_fit
from numpyro_svae.diagnostics.programs import compiled, first_batch, in_batches
from numpyro_svae.diagnostics.reliability import has_densities
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.local.engine import global_posteriors
from numpyro_svae.program.run.fixed import Fixed

__all__ = ["LogLikelihood", "log_likelihood"]

_AT_ONCE = 100  # runs of the model side by side


class LogLikelihood(NamedTuple):
    """What :func:`log_likelihood` returns, in nats.

    A datum is a member of the plates that all local and observed sites are in, whose
    shape is ``(...)``; without such plates all of the data are one datum.

    :param value: log likelihood of each datum, ``(...)``; zero where all is masked.
    :param bound: the evidence lower bound of each datum, ``(...)``, averaged over the
        draws: where the sites are at their mean it is that there.
    :param effective_sample_size: of the importance weights of the local sites,
        ``(...)``, averaged over the draws of the global sites. It is ``num_particles``
        where the posterior of the local sites is exact, and one at worst.
    :param divergence: of the global posterior from the prior, ``()``. For the data of
        the fit and draws of the global sites, ``bound.sum() - divergence`` is the bound
        on the log evidence of all data together.
    """

    value: Array
    bound: Array
    effective_sample_size: Array
    divergence: Array


def log_likelihood(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    rng_key: Array,
    *args: Any,
    global_sites: Literal["draws", "mean"] = "draws",
    num_samples: int = 100,
    num_particles: int = 20,
    **kwargs: Any,
) -> LogLikelihood:
    """Log likelihood of each datum under a fitted model, local sites integrated out.

    The data are those of the fit or others: sequences, vectors, labels, whatever the
    program observes. Each is scored by itself given what was fitted,
    ``log mean_s p(y_n | theta_s)`` over draws of the global sites. Local sites are
    integrated out given each of these: exactly where they are all conjugate and their
    guide is exact, and elsewhere by importance sampling from the guide, of which the
    effective sample size tells how far to trust it.

    Each datum counts once, whatever ``handlers.scale`` makes of it in training. What
    the program masks is no datum. So the difference of two calls with the same key,
    with more and with fewer of the entries seen, is the log predictive density of those
    entries given the others: of hidden outputs (co-smoothing), or of what comes after a
    sequence that was not fitted.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param rng_key: random key.
    :param args: the arguments of the model, with the data that are scored.
    :param global_sites: ``"draws"`` averages the likelihood over the posterior of the
        global sites, ``"mean"`` takes the mean of each block of it.
    :param num_samples: number of draws of the global sites.
    :param num_particles: number of importance samples of the local sites of each.
    :param kwargs: the keyword arguments of the model.
    :return: by datum; see :class:`LogLikelihood`.
    :raises TypeError: if the guide is not an :class:`AutoSVAE`.
    :raises ValueError: if an option is not one of these, the posterior of a global site
        has no mean, or NumPyro has no density of a path whose noise is singular.

    **Example**

    .. code-block:: python

        held_out = ns.log_likelihood(model, guide, params, key, y_test)
        print(held_out.value.mean(), held_out.effective_sample_size.min())
    """
    if global_sites not in ("draws", "mean"):
        raise ValueError(
            f"global_sites: found {global_sites!r}; accepted are 'draws' and 'mean'."
        )
    for name, count in ("num_samples", num_samples), ("num_particles", num_particles):
        if count < 1:
            raise ValueError(f"{name}: found {count}; accepted is at least 1.")
    fit = read_fit(model, guide, params, args, kwargs, rng_key)
    if not has_densities(fit):
        raise ValueError(
            "The model: found a path whose noise is singular in directions that are no "
            "entries, or that a scan spells, of which there is no density to weigh "
            "draws by. Accepted: noise that is zero in entries of the state of a "
            "LinearGaussianChain. SVAE_ELBO has the bound."
        )
    at_mean = global_sites == "mean" or not fit.global_names
    if at_mean:
        _check_mean(_at_mean(fit))
    first, count = first_batch(fit), 1 if at_mean else num_samples
    draw_key, weigh_key = random.split(rng_key)
    values = compiled(_values, first, at_mean)(random.split(draw_key, count))
    known = all(map(not_jax_tracer, jax.tree.leaves(values)))
    integrated(first, partial(_first, values) if known else None)

    def run(own: Fit) -> LogLikelihood:
        program = compiled(_likelihood, own, num_particles)
        found: LogLikelihood = program(random.split(weigh_key, count), values)
        return found

    joined: LogLikelihood = in_batches(fit, run)
    return joined


def _values(fit: Fit, keys: Array, at_mean: bool) -> dict[str, Array]:
    """Global sites: draws of them, which lead, or their means."""
    return jax.vmap(lambda key: _at_mean(fit) if at_mean else global_draw(fit, key))(
        keys
    )


def _first(values: dict[str, Array]) -> dict[str, Array]:
    return {name: value[0] for name, value in values.items()}


def _likelihood(
    fit: Fit, keys: Array, values: dict[str, Array], num_particles: int
) -> LogLikelihood:
    def one(pair: tuple[Array, dict[str, Array]]) -> tuple[Array, Array, Array]:
        return _summary(log_weights(fit, *pair, num_particles))

    most, count = max(1, _AT_ONCE // num_particles), len(keys)
    # A number of draws that is left over would be compiled by itself.
    size = max(n for n in range(1, most + 1) if count % n == 0)
    value, bound, sizes = lax.map(one, (keys, values), batch_size=size)
    return LogLikelihood(
        logsumexp(value, 0) - jnp.log(count),
        jnp.mean(bound, 0),
        jnp.mean(sizes, 0),
        _divergence(fit),
    )


def _summary(weights: Array) -> tuple[Array, Array, Array]:
    """Log of the mean weight, mean log weight and effective sample size."""
    value = logsumexp(weights, 0) - jnp.log(len(weights))
    largest = jnp.max(weights, 0)
    shares = jnp.exp(weights - jnp.where(jnp.isfinite(largest), largest, 0.0))
    squares = jnp.sum(shares**2, 0)
    size = jnp.sum(shares, 0) ** 2 / jnp.where(squares > 0, squares, 1.0)
    return value, jnp.mean(weights, 0), size


def _at_mean(fit: Fit) -> dict[str, Array]:
    """The global sites where each block of the posterior has its mean."""
    values: dict[str, Array] = {}
    for name, fn in fit.guide.get_posterior(fit.params).items():
        values |= fit.guide.structure.priors[name].unpack(fn.mean)
    return values


def _check_mean(values: dict[str, Array]) -> None:
    for name, value in values.items():
        if not jnp.all(jnp.isfinite(value)):
            raise ValueError(
                f"Site '{name}': found a posterior that has no mean, as an inverse-"
                "Wishart of few degrees of freedom. Accepted: global_sites='draws'."
            )


def _divergence(fit: Fit) -> Array:
    """Divergence of the global posteriors from their priors, all together."""
    guide = fit.guide
    with block(), seed(rng_seed=0), Fixed(data=fit.params):
        read = guide._read(fit.args, fit.kwargs)
    found = global_posteriors(guide.structure, read.naturals, read.bound)[1]
    return sum((jnp.sum(kl) for kl in found.values()), jnp.zeros(()))
