# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The likelihood of each datum given the global sites, local sites integrated out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from numpyro.handlers import block, replay, seed
from numpyro.util import not_jax_tracer

from numpyro_svae.diagnostics.fit import Fit, sample_messages
from numpyro_svae.diagnostics.masks import seen_members, with_priors
from numpyro_svae.diagnostics.programs import compiled, kept
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.declare.sampling import joint_name
from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.log_probs import log_prob_of
from numpyro_svae.program.run.parts import label_of
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.groups import is_exact

__all__ = [
    "Integrated",
    "conditional_likelihood",
    "global_draw",
    "guide_draw",
    "integrated",
    "log_joint",
    "log_prob",
    "log_weights",
    "total_log_prob",
]


def global_draw(fit: Fit, key: Array) -> dict[str, Array]:
    """A draw of the global sites from the guide.

    :param fit: a guide that has read its model.
    :param key: random key.
    """
    return fit.guide._sample_globals(key, fit.params)


def guide_draw(fit: Fit, key: Array) -> tuple[dict[str, dict], Array]:
    """The messages of the sample sites of a guide, and the density of the global ones.

    :param fit: a guide that has read its model.
    :param key: random key.
    """
    guide = fit.guide
    joints = {joint_name(name, guide.prefix) for name in guide.structure.priors}
    ours = fit.global_names | joints
    sites = sample_messages(fit.trace(guide, key, {}))
    return sites, total_log_prob(m for n, m in sites.items() if n in ours)


class Integrated(NamedTuple):
    """A model whose global sites are given, and a guide for the rest.

    :param model: of their values and then the arguments of the model.
    :param guide: its guide, which has read it.
    :param exact: whether that is the posterior.
    :param plates: those that all local and observed sites are in, by dimension.
    """

    model: Callable
    guide: AutoSVAE
    exact: bool
    plates: dict[int, str]


def integrated(
    fit: Fit, draw: Callable[[], dict[str, Array]] | None = None
) -> Integrated:
    """The model of a fit given its global sites, read once for all fits of it.

    :param fit: a guide that has read its model. The first one has known values, with
        which it is read.
    :param draw: draws the global sites, where a program that does is at hand.
    """
    return kept(fit, integrated, partial(_integrated, fit, draw))


def _integrated(fit: Fit, draw: Callable[[], dict[str, Array]] | None) -> Integrated:
    guide, names = fit.guide, fit.global_names

    def given(fn: Callable) -> Callable:
        """A function of the values of the global sites, which nobody else sees."""

        def run(values: dict[str, Array], /, *args: Any, **kwargs: Any) -> Any:
            fixed = Fixed(fn, data=values)
            hidden = block(fixed, hide_fn=lambda m: m.get("name") in names)
            return hidden(*args, **kwargs)

        return run

    local_model = given(fit.model)
    local_guide = AutoSVAE(
        local_model,
        None if guide.recognition is None else given(guide.recognition),
        prefix=guide.prefix,
        mean_field=guide.mean_field,
        fixed_point=guide.fixed_point,
        cubature=guide.cubature,
        refine=guide.refine,
    )
    values = draw() if draw else compiled(global_draw, fit)(random.PRNGKey(0))
    exact = guide.recognition is None
    if guide.structure.locals:
        _read_local(local_guide, fit, values)
        exact &= is_exact(local_guide.structure, guide.mean_field)
    plates: dict[int, str] = {}
    once: list[bool] = []

    def read() -> None:
        sites = sample_messages(fit.trace(local_model, random.PRNGKey(0), {}, values))
        plates.update(_shared_plates(sites))
        ended = {n for s in guide.structure.scans for n in s.chains}
        once.append(_count_alike(sites, ended))

    jax.eval_shape(read)
    return Integrated(local_model, local_guide, exact and all(once), plates)


def _count_alike(sites: dict[str, dict], ended: Collection[str]) -> bool:
    """Whether inference counts the density of each site as often as any other.

    Where ``handlers.scale`` or a mask changes some of them, the guide has the posterior
    of other densities than those of the weights. Numbers are known while a program is
    read; of arrays it is known only that they are the same one.

    :param sites: the messages of the sites.
    :param ended: the chains whose masks are but the ends of sequences, which the guide
        has too.
    """
    scales = [1.0 if m["scale"] is None else m["scale"] for m in sites.values()]
    first = next(iter(scales), 1.0)
    same = (s is first or (_is_number(s, first) and s == first) for s in scales)
    masked = (n for n, m in sites.items() if peel(m["fn"])[1] is not None)
    latent = (n for n in masked if not (sites[n]["is_observed"] or label_of(n)))
    return all(same) and all(name in ended for name in latent)


def _is_number(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _read_local(guide: AutoSVAE, fit: Fit, values: dict[str, Array]) -> None:
    """Have a guide read its model at values of the global sites.

    :raises ValueError: if it cannot be read under a trace of the caller's.
    """
    try:
        with block(), seed(rng_seed=0), Fixed(data=fit.params):
            guide._setup_prototype(values, *fit.args, **fit.kwargs)
    except ValueError as error:
        if all(map(not_jax_tracer, jax.tree.leaves((values, fit.args, fit.kwargs)))):
            raise
        raise ValueError(
            "The model is read a second time, with its global sites given, and its "
            "arguments or parameters are those of a jax.jit, jax.vmap or jax.grad. "
            "Accepted: a first call outside of these, with arrays of the same kind; "
            "what it finds is kept, and it is compiled anyway."
        ) from error


def log_weights(
    fit: Fit, key: Array, values: dict[str, Array], num_particles: int
) -> Array:
    """Importance weights of draws of the local sites given the globals.

    They are drawn from their posterior *given the globals*, which a guide of the model
    with these globals finds. In conjugate models that posterior is exact, and all
    weights are equal: there is one draw for all. A weight is the density of the datum
    and of its local sites over that of the guide. A local site that is masked has its
    prior there, and a datum of which all is masked has probability one.

    :param fit: a guide that has read its model.
    :param key: random key.
    :param values: of the global sites.
    :param num_particles: number of draws.
    :return: ``(num_particles, ...)``, with a dimension for each shared plate.
    """
    model, guide, exact, plates = integrated(fit)

    def log_weight(key: Array) -> Array:
        ours, theirs = random.split(key)
        drawn: dict[str, dict] = {}
        if fit.guide.structure.locals:
            drawn = sample_messages(fit.trace(guide, ours, {}, values))
        replayed = replay(model, drawn)
        sites = sample_messages(fit.trace(replayed, theirs, {}, values))
        seen = seen_members([m for m in sites.values() if m["is_observed"]], plates)
        sites, drawn = with_priors(sites, drawn)
        log_p = [log_prob(message, plates) for message in sites.values()]
        log_q = [log_prob(message, plates) for message in drawn.values()]
        zero = jnp.zeros(())
        weight = sum(log_p, zero) - sum(log_q, zero)
        return weight if seen is None else jnp.where(seen, weight, 0.0)

    keys = random.split(key, 1 if exact else num_particles)
    weights = jax.vmap(log_weight)(keys)
    return jnp.broadcast_to(weights, (num_particles, *weights.shape[1:]))


def conditional_likelihood(
    fit: Fit, key: Array, values: dict[str, Array], num_particles: int
) -> Array:
    """Estimates of ``log p(y_n | globals)``, with a dimension for each shared plate.

    It is that of the mean of the weights of :func:`log_weights`, whose parameters these
    are: exact from one draw on where these are equal.
    """
    weights = log_weights(fit, key, values, num_particles)
    return logsumexp(weights, 0) - jnp.log(num_particles)


def log_joint(
    fit: Fit, key: Array, values: dict[str, Array], num_particles: int
) -> tuple[Array, dict[str, Array]]:
    """The log likelihood, and the log prior of each site, at values of global sites.

    The parameters are those of :func:`log_weights`. A prior has the batch of its site.
    """
    sites = fit.trace(fit.model, key, values)
    log_prior = {n: log_prob(sites[n], _batch_of(sites[n])) for n in sorted(values)}
    likelihood = conditional_likelihood(fit, key, values, num_particles)
    return likelihood, log_prior


def _batch_of(message: dict) -> range:
    """The dimensions of the batch of a site."""
    return range(-len(message["fn"].batch_shape), 0)


def _shared_plates(sites: dict[str, dict]) -> dict[int, str]:
    """The plates that all sites are in: their names by dimension."""
    frames = [
        {(frame.dim, frame.name) for frame in message["cond_indep_stack"]}
        for message in sites.values()
    ]
    return dict(set.intersection(*frames)) if frames else {}


def log_prob(message: dict, plates: Collection[int] = ()) -> Array:
    """Log probability of a site, summed over all dimensions but those of plates."""
    value = log_prob_of(message)
    axes = tuple(axis for axis in range(-value.ndim, 0) if axis not in plates)
    return jnp.sum(value, axis=axes)


def total_log_prob(messages: Iterable[dict]) -> Array:
    """Log probability of some sites."""
    return sum((log_prob(message) for message in messages), jnp.zeros(()))
