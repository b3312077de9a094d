# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What ArviZ works with, from a fitted guide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
import inspect
from typing import TYPE_CHECKING, Any

import jax
from jax import Array, random
import numpy as np
import numpyro

from numpyro_svae.diagnostics.dims import PACKED, Dims, plates_of_states
from numpyro_svae.diagnostics.draws import Drawn, draws_of, integrated_at_draw
from numpyro_svae.diagnostics.entries import by_entry
from numpyro_svae.diagnostics.fit import (
    check_subsample,
    read_fit,
    sample_messages,
)
from numpyro_svae.diagnostics.masks import blanked, counted_entries, in_plates
from numpyro_svae.diagnostics.programs import in_batches
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.tracing import check_known
from numpyro_svae.version import __version__

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["to_arviz"]

_INSTEAD = "guide.sample_posterior(key, params, *args), ns.log_likelihood(...)"


def to_arviz(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    *args: Any,
    num_samples: int = 1000,
    num_particles: int = 20,
    local_sites: Iterable[str] = (),
    losses: Any = None,
    loo_pit: bool = False,
    rng_key: Array | None = None,
    **kwargs: Any,
) -> Any:
    """Samples and likelihoods of a fitted guide, as ArviZ wants them.

    The groups are ``posterior`` (global sites, deterministic sites and the local sites
    that are asked for), ``prior``, ``posterior_predictive`` (new data at the inferred
    local sites) and ``prior_predictive``, ``observed_data``, ``constant_data`` (other
    array arguments of the model), ``log_likelihood``, ``log_prior`` (of each global
    site, for ``psense``) and ``sample_stats``.

    The log likelihood is that of each datum or sequence, **integrated over its local
    sites**, which is what cross-validation needs: that given the local sites says how
    well a datum explains itself. It is exact in conjugate models; elsewhere local sites
    are importance-sampled from their posterior given each draw of the global sites.

    What the model masks, or pads by the lengths of chains, is no datum: it is NaN, and
    a member of a plate that has no datum is left out of the log likelihood.

    A prediction that is compared with a datum must not know it. With ``loo_pit`` the
    groups are those of ``loo_pit`` and ``plot_loo_pit``: predictions have local sites
    of their own, from their prior, and the log likelihood of a datum is repeated for
    each of its entries, so that an entry is predicted from the *other data*, without
    the rest of its own vector or sequence. What is masked is left out, and an
    observed site of which a part is has one dimension, of what is left. Do not ask
    ``loo`` or ``compare`` of this: entries would count as data.

    ``sample_stats`` has ``lp``, the log joint density of global sites and data,
    ``log_q``, the density of the guide, and ``log_weight``, their difference, for
    ``loo_approximate_posterior`` and Pareto smoothing.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param args: the arguments of the model, with data.
    :param num_samples: number of draws of each group.
    :param num_particles: number of importance samples of local sites for each draw.
    :param local_sites: local sites to have in the posterior.
    :param losses: losses of a run of SVI; their negatives are kept as ``elbo``, over
        ``svi_step``, among the constant data.
    :param loo_pit: whether the data are for ``loo_pit``, and nothing else.
    :param rng_key: random key; by default a fixed one.
    :param kwargs: the keyword arguments of the model.
    :return: an ``InferenceData`` with ArviZ before 1.0, a ``DataTree`` from then on.
    :raises TypeError: if the guide is not an :class:`AutoSVAE`, or within ``jit``,
        ``vmap`` or ``grad``.
    :raises ValueError: if a site is not one of the local sites, or there are data for
        a part of a plate alone.

    **Example**

    .. code-block:: python

        idata = ns.to_arviz(model, guide, result.params, y, losses=result.losses)
        az.summary(idata, var_names=["weights", "components_loc"])
        az.loo(idata)
        pit = ns.to_arviz(model, guide, result.params, y, loo_pit=True)
        az.plot_loo_pit(pit)  # before ArviZ 1: plot_loo_pit(pit, y="y")
    """
    check_known("to_arviz", (params, args, kwargs, rng_key), _INSTEAD)
    fit = read_fit(model, guide, params, args, kwargs)
    key = random.PRNGKey(0) if rng_key is None else rng_key
    *keys, run_key = random.split(key, 5)
    check_subsample(fit)
    read = integrated_at_draw(fit, keys[0], num_samples)
    plates = tuple(name for _, name in sorted(read.plates.items()))

    how = keys, num_samples, num_particles, loo_pit
    drawn: Drawn = in_batches(fit, lambda own: draws_of(own, *how))
    draws, predicted, simulated = drawn.draws, drawn.predicted, drawn.simulated
    messages = fit.trace(model, run_key, {n: value[0] for n, value in draws.items()})
    shown = _shown(fit.global_names, messages, set(local_sites), set(draws))

    sites = sample_messages(messages)
    dims = Dims(messages, plates_of_states(guide.structure, messages))
    observed = {n: m["value"] for n, m in sites.items() if m["is_observed"]}
    constants = _constants(model, args, kwargs, observed, losses)
    dims.name("elbo", ["svi_step"])
    counts = {name: counted_entries(message) for name, message in sites.items()}

    def some(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """Values by name, NaN where a site is masked."""
        chosen = (name for name in sorted(names) if name in values)
        return {name: blanked(values[name], counts.get(name)) for name in chosen}

    groups = {
        "posterior": dims.dataset(some({**predicted, **draws}, shown), True),
        "prior": dims.dataset(some(simulated, shown), True),
        "posterior_predictive": dims.dataset(some(predicted, observed), True),
        "prior_predictive": dims.dataset(some(simulated, observed), True),
        "sample_stats": dims.dataset(drawn.densities, True),
        "observed_data": dims.dataset(some(observed, observed), False),
        "constant_data": dims.dataset(constants, False),
    }
    if loo_pit:
        values = {name: (observed[name], drawn.anew[name]) for name in observed}
        found = by_entry(dims, plates, drawn.likelihood, values, counts)
        return _container({"posterior": groups["posterior"], **found})
    joint = "+".join(sorted(observed))
    dims.name(joint, plates)
    dims.name_batches({name: sites[name] for name in drawn.log_prior})
    groups["log_prior"] = dims.dataset(drawn.log_prior, True)
    seen = in_plates([sites[name] for name in observed], plates)
    of_data = dims.dataset({joint: blanked(drawn.likelihood, seen)}, True)
    groups["log_likelihood"] = _without_blanks(of_data, seen)
    return _container({n: group for n, group in groups.items() if group.data_vars})


def _container(groups: dict[str, xr.Dataset]) -> Any:
    """What the installed ArviZ keeps groups in."""
    import arviz
    import xarray as xr

    for group in groups.values():
        group.attrs |= _attributes()
    container: Any = vars(arviz).get("InferenceData")  # hasattr would warn in 1.x
    return container(**groups) if container else xr.DataTree.from_dict(groups)


def _attributes() -> dict[str, str]:
    """What ArviZ's schema wants to know of a group."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "numpyro_svae",
        "creation_library_version": __version__,
        "creation_library_language": "Python",
        "inference_library": "numpyro",
        "inference_library_version": numpyro.__version__,
    }


def _shown(
    names: set[str], messages: dict[str, dict], chosen: set[str], drawn: set[str]
) -> set[str]:
    """The variables of the posterior: the parts stand for a packed site."""
    other = {n for n, m in messages.items() if m["type"] == "deterministic"}
    unknown = sorted(chosen - other - (drawn - names))
    if unknown:
        accepted = sorted(drawn - names)
        raise ValueError(f"local_sites: found {unknown}. Accepted: some of {accepted}.")
    sites = sample_messages(messages)
    packed = {n for n, m in sites.items() if type(peel(m["fn"])[0]) in PACKED}
    return ((names | chosen) - packed) | other


def _without_blanks(data: xr.Dataset, seen: np.ndarray | None) -> xr.Dataset:
    """Leave out the members of plates that have no datum at all."""
    if seen is None:
        return data
    names = [str(name) for name in next(iter(data.values())).dims][-seen.ndim :]
    for axis, name in enumerate(names):
        others = tuple(a for a in range(seen.ndim) if a != axis)
        data = data.isel({name: np.flatnonzero(seen.any(others))})
    return data


def _constants(
    model: Callable, args: tuple, kwargs: dict, observed: dict[str, Any], losses: Any
) -> dict[str, Any]:
    """The array arguments of the model that are not observed values, and the ELBO."""
    elbo = {} if losses is None else {"elbo": -np.asarray(losses)}
    given = inspect.signature(model).bind(*args, **kwargs).arguments
    found = {n: v for n, v in given.items() if isinstance(v, jax.Array | np.ndarray)}
    return {
        name: value
        for name, value in found.items()
        if name not in observed
        and not any(_equal(value, own) for own in observed.values())
    } | elbo


def _equal(value: Any, other: Any) -> bool:
    return np.shape(value) == np.shape(other) and bool(np.all(value == other))
