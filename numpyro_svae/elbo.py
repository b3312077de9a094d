# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The ELBO with every term in closed form that the guide knows in closed form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
import warnings

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import scale_and_mask
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.elbo import ELBO
from numpyro.util import _validate_model, check_model_guide_match

from numpyro_svae.enclosing import check_step
from numpyro_svae.inference.declare.declared import check_declared, sums_of_terms
from numpyro_svae.inference.local.weights import Weight, weighted
from numpyro_svae.notices import Said, notice
from numpyro_svae.program.run.log_probs import log_prob_of
from numpyro_svae.program.run.wrappers import at_positions
from numpyro_svae.shared_inference import SharedInference
from numpyro_svae.tracing import without_scanned
from numpyro_svae.whole_steps import spoilt

__all__ = ["SVAE_ELBO"]


class SVAE_ELBO(ELBO):
    """Evidence lower bound that uses the closed forms a guide declares.

    A guide declares what it knows in the ``infer`` dictionary of its sample sites:

    - ``"kl"``: the divergence of this site (and of those inferred jointly with it) from
      its prior, averaged over everything else in the guide, per entry of the batch;
    - ``"expected_log_prob"``: a dictionary from observed sites to their expected log
      probability, which are then not sampled;
    - ``"total"``: the sum of such terms in a form of its own, which takes their place
      where only the sum over all sites is wanted and no handler has changed a scale;
    - ``"average"``: the probabilities ``(..., K)`` of a discrete site that the
      remaining terms are averaged over exactly instead of sampled. For a chain they are
      ``(..., T, K)``, and the remaining terms must be independent over time.

    A latent site that only the model has is drawn from its prior and has no term;
    NumPyro warns of it. Everything else is treated as in
    :class:`~numpyro.infer.elbo.TraceMeanField_ELBO`, so other guides, and
    :class:`~numpyro.infer.autoguide.AutoGuideList` with parts that declare nothing,
    work as they are. :class:`~numpyro_svae.AutoSVAE` declares all terms but a
    non-conjugate likelihood (Johnson et al., NIPS 2016, section 4).

    :param num_particles: number of samples that estimate the sampled terms.
    :param vectorize_particles: whether to use :func:`jax.vmap` over particles (default)
        or :func:`jax.lax.map`; a callable is used in their place.
    :param sum_sites: whether to return the sum, or a dictionary keyed by site.
    """

    can_infer_discrete = True

    def __init__(
        self,
        num_particles: int = 1,
        vectorize_particles: bool | Callable = True,
        sum_sites: bool = True,
    ) -> None:
        self.sum_sites = sum_sites
        self._said = Said()
        super().__init__(num_particles, vectorize_particles)

    def loss_with_mutable_state(
        self,
        rng_key: Array,
        param_map: dict[str, Any],
        model: Callable,
        guide: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The negative ELBO; see :meth:`numpyro.infer.elbo.ELBO.loss`.

        :param rng_key: random key.
        :param param_map: values of the parameters by site name.
        :param model: the model.
        :param guide: the guide.
        :param args: positional arguments of both.
        :param kwargs: keyword arguments of both.
        :return: a dictionary with the ``loss`` and the ``mutable_state``.
        """

        check_step(param_map, self.sum_sites)

        def particle(key: Array) -> tuple[dict[str, Array], dict[str, Any]]:
            options = args, kwargs, self.sum_sites
            return _particle(key, param_map, model, guide, *options)

        if self.num_particles == 1:
            terms, mutable = particle(rng_key)
        else:
            keys = random.split(rng_key, self.num_particles)
            terms, mutable = self.vectorize_particles_fn(particle, keys)
            terms = jax.tree.map(lambda term: jnp.mean(term, 0), terms)
            mutable = _mean_state(mutable, jnp.full(len(keys), 1 / len(keys)))
        losses = jax.tree.map(jnp.negative, terms)
        loss = sum(losses.values(), start=jnp.zeros(()))
        good = jnp.isfinite(loss)
        mutable = _unless_spoilt(good, mutable, param_map)
        if not self.sum_sites:
            return {"loss": losses, "mutable_state": mutable or None}
        loss = loss + notice(~good, terms, _report, self._said)
        return {"loss": loss, "mutable_state": mutable or None}


def _particle(
    key: Array,
    params: dict,
    model: Callable,
    guide: Callable,
    args: Any,
    kwargs: Any,
    summed: bool,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """ELBO terms by site, and mutable state, of one sample of the guide.

    :param summed: whether only the sum of the terms counts.
    """
    model_key, guide_key = random.split(key)
    shared = SharedInference()

    def run(assigned: dict[str, Array], mutable: dict) -> tuple[dict, dict, dict]:
        guide_run = substitute(seed(guide, guide_key), data={**params, **assigned})
        with shared:
            guide_trace = trace(guide_run).get_trace(*args, **kwargs)
        mutable = {**mutable, **_mutable(guide_trace)}
        known = {**params, **mutable}
        replayed = replay(seed(model, model_key), _drawn(guide_trace))
        model_run = substitute(replayed, data=known)
        model_trace = trace(model_run).get_trace(*args, **kwargs)
        return guide_trace, model_trace, {**mutable, **_mutable(model_trace)}

    guide_trace, model_trace, mutable = run({}, {})
    check_model_guide_match(model_trace, without_scanned(guide_trace, model_trace))
    _validate_model(model_trace, plate_warning="loose")
    averaged = [
        site
        for site in guide_trace.values()
        if site["type"] == "sample" and "average" in site["infer"]
    ]
    if not averaged:
        return _terms(guide_trace, model_trace, [], summed), mutable
    own = _mutable(guide_trace)  # of networks that it does not run again

    def assignment(states: list[Array]) -> tuple[dict, dict]:
        assigned = {
            site["name"]: jnp.broadcast_to(state, jnp.shape(site["value"]))
            for site, state in zip(averaged, states)
        }
        guide_trace, model_trace, mutable = run(assigned, own)
        weights = [
            Weight.of(site, table, state)
            for site, table, state in zip(averaged, tables, states)
        ]
        return _terms(guide_trace, model_trace, weights, summed), mutable

    tables = [site["infer"]["average"] for site in averaged]
    states = [jnp.ravel(g) for g in jnp.indices([table.shape[-1] for table in tables])]
    terms, mutable = jax.vmap(assignment)(states)
    declared = _declared(guide_trace)
    total = {
        name: term[0] if name in declared else jnp.sum(term, 0)
        for name, term in terms.items()
    }
    shares = [jnp.mean(table, tuple(range(table.ndim - 1))) for table in tables]
    share = jnp.prod(jnp.stack([s[state] for s, state in zip(shares, states)]), 0)
    return total, _mean_state(mutable, share)


def _report(said: Said, terms: dict[str, np.ndarray]) -> None:
    """Say once which terms are not finite."""
    bad = tuple(sorted(n for n, term in terms.items() if not np.isfinite(term)))
    if bad in said:
        return
    said.add(bad)
    found = ", ".join(f"{terms[name]:.3g} at '{name}'" for name in bad)
    warnings.warn(
        f"SVAE_ELBO: found terms that are not finite: {found or 'none by itself'}. "
        "A site stands for all that is inferred together with it, and for what is "
        "observed of these; `sum_sites=False` shows each term.",
        RuntimeWarning,
        stacklevel=2,
    )


def _mean_state(states: dict[str, Any], share: Array) -> dict[str, Any]:
    """The mean of mutable states of several runs; of what is no real number, the first.

    A network behind a mixture runs for each state of the label. Its running statistics
    are to be those of what it sees, so each counts as often as its state occurs.

    :param states: the mutable states, with the runs leading.
    :param share: of each run, ``(R,)``; they add up to one.
    """

    def mean(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf[0]
        return jnp.tensordot(share.astype(leaf.dtype), leaf, 1)

    return jax.tree.map(mean, states)


def _unless_spoilt(good: Array, state: dict, before: dict) -> dict[str, Any]:
    """The mutable state, or that before where it is not fit to go on with."""

    def keep(name: str, new: Any) -> Any:
        old = before.get(name, new)
        fine = good & ~spoilt(old, new)
        return jax.tree.map(partial(jnp.where, fine), new, old)

    return {name: keep(name, new) for name, new in state.items()}


def _drawn(site_trace: dict) -> dict[str, Any]:
    """What is replayed: a scan takes the shape of everything that it is given."""
    return {n: m for n, m in site_trace.items() if m["type"] in ("sample", "plate")}


def _mutable(site_trace: dict) -> dict[str, Any]:
    return {
        name: site["value"]
        for name, site in site_trace.items()
        if site["type"] == "mutable"
    }


def _declared(guide_trace: dict) -> set[str]:
    """Names of the sites whose terms the guide declares in closed form."""
    names: set[str] = set()
    for name, site in guide_trace.items():
        if site["type"] == "sample":
            names.update(site["infer"].get("expected_log_prob", {}))
            names.update([name] if "kl" in site["infer"] else [])
    return names


def _terms(
    guide_trace: dict, model_trace: dict, weights: list, summed: bool
) -> dict[str, Array]:
    """ELBO terms by site; those that are not declared are weighted."""
    guide_sites = {n: s for n, s in guide_trace.items() if s["type"] == "sample"}
    model_sites = {n: s for n, s in model_trace.items() if s["type"] == "sample"}
    check_declared(guide_sites, model_sites)
    terms = sums_of_terms(guide_sites, model_sites) if summed else {}
    for name, site in guide_sites.items():
        for target, value in site["infer"].get("expected_log_prob", {}).items():
            if target not in terms:
                scale = model_sites[target]["scale"]
                terms[target] = jnp.sum(scale_and_mask(value, scale=scale))
        if name in terms:
            continue
        if "kl" in site["infer"]:
            kl = scale_and_mask(site["infer"]["kl"], scale=site["scale"])
            terms[name] = -jnp.sum(kl)
        elif name not in model_sites:
            terms[name] = -weighted(site, weights, partial(_log_prob, site))
    for name, site in model_sites.items():
        if name not in terms and (site["is_observed"] or name in guide_sites):
            term = partial(_sampled_term, site, guide_sites.get(name))
            terms[name] = weighted(site, weights, term)
    return terms


def _sampled_term(site: dict, guide_site: dict | None, extra: int) -> Array:
    """``log p`` of an observed site, minus the divergence of a latent one."""
    if site["is_observed"] or guide_site is None:
        return _log_prob(site, extra)
    scale = guide_site["scale"]  # of the divergence, however it is computed
    try:
        kl = kl_divergence(guide_site["fn"], site["fn"])
        return -scale_and_mask(kl, scale=scale)
    except NotImplementedError:
        return _log_prob({**site, "scale": scale}) - _log_prob(guide_site)


def _log_prob(site: dict, extra: int = 0) -> Array:
    """Log probability, with the first ``extra`` event dimensions not summed over."""
    fn = at_positions(site["fn"], extra)
    if fn is None:
        raise ValueError(
            f"Site '{site['name']}': its likelihood has to be averaged over the states "
            f"of a chain, step by step, and {type(site['fn']).__name__} is not "
            "independent over its first event dimension. Accepted: a distribution made "
            "of independent steps by to_event; or AutoSVAE(..., mean_field=True)."
        )
    return scale_and_mask(log_prob_of({**site, "fn": fn}), site["scale"])
