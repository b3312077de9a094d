# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""States of a sequence given all of it, with names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
from jax import Array, random
from jax.errors import JAXTypeError
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.diagnostics.dims import Dims, plates_of_states
from numpyro_svae.diagnostics.fit import Fit, read_fit, sample_messages
from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.program.run.kinds import lengths_of
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.tracing import check_known

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["covariance_of", "smooth"]

_EVENTS = {
    "mean": ("state",),
    "covariance": ("state", "state_bis"),
}


def smooth(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> xr.Dataset:
    """Local sites given all the data, at the expectations of the global ones.

    These are the moments of :meth:`AutoSVAE.posterior_local`, which is for use within
    compiled functions, as a data set with named dimensions. Missing steps have their
    states too; those after the end of a padded sequence are NaN.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param args: the arguments of the model, with data.
    :param kwargs: the keyword arguments of the model.
    :return: ``<site>_mean`` and ``<site>_covariance`` of Gaussian sites and chains,
        ``<site>_probs`` of discrete ones. Dimensions are those of plates, then
        ``time``, then ``state`` and ``state_bis``, or for probabilities the plate that
        the states pick from, else ``category``.
    :raises TypeError: within ``jit``, ``vmap`` or ``grad``.
    """
    instead = "guide.posterior_local(params, *args), of which this shows the moments"
    check_known("smooth", (params, args, kwargs), instead)
    fit = read_fit(model, guide, params, args, kwargs)
    marginals = guide.posterior_local(params, *args, **kwargs)
    messages, dims, existing = _read(fit, guide.structure)
    values = dict[str, Array]()
    labels = guide.structure.shown.labels
    for name, marginal in marginals.items():
        own = labels.get(name, name)
        message = messages.get(f"{own}_unobserved", messages.get(own))
        exists = existing.get(message["name"]) if message else None
        for part, value in _moments(marginal):
            plates = _plates(message, len(marginal.batch_shape))
            event = _EVENTS.get(
                part,
                (dims.category(message["name"] if own == name and message else name),),
            )
            times = ("time",) * (value.ndim - len(plates) - len(event))
            if exists is not None:
                shape = exists.shape + (1,) * len(event)
                value = jnp.where(exists.reshape(shape), value, jnp.nan)
            dims.name(f"{name}_{part}", [*plates, *times, *event])
            values[f"{name}_{part}"] = value
    return dims.dataset(values, False)


def covariance_of(marginal: Any) -> Array:
    """Covariances of a Gaussian, a chain, or a mixture of Gaussians."""
    if isinstance(marginal, LinearGaussianChain):
        return marginal.covariance
    base = peel(marginal)[0]
    if not isinstance(base, dist.MixtureSameFamily):
        return base.covariance_matrix
    parts, weights = base.component_distribution, base.mixing_distribution.probs
    away = parts.loc - base.mean[..., None, :]
    second = parts.covariance_matrix + away[..., :, None] * away[..., None, :]
    return jnp.sum(weights[..., None, None] * second, -3)


def _moments(marginal: Any) -> Iterator[tuple[str, Array]]:
    base = peel(marginal)[0]
    if base.is_discrete:
        yield "probs", base.probs
    else:
        yield "mean", marginal.mean
        yield "covariance", covariance_of(marginal)


def _read(
    fit: Fit, structure: Structure
) -> tuple[dict[str, dict], Dims, dict[str, Array]]:
    """Messages of the model, names of dimensions, and by site what is no padding.

    Nothing else of the model is computed: values in the messages are shapes, and so
    may be all that distributions hold, so that these are looked at in the trace.
    """
    messages: dict[str, dict] = {}
    dims: list[Dims] = []

    def existing() -> dict[str, Array]:
        messages.update(fit.trace(fit.model, random.PRNGKey(0), {}))
        dims.append(Dims(messages, plates_of_states(structure, messages)))
        fns = {n: m["fn"] for n, m in sample_messages(messages).items()}
        found = {n: _exists(fn) for n, fn in {**fns, **fit.ended_chains()}.items()}
        return {name: exists for name, exists in found.items() if exists is not None}

    try:
        exists = jax.jit(existing)()
    except JAXTypeError:  # the model has to know values of its arguments
        exists = existing()
    return messages, dims[-1], exists


def _exists(fn: Any) -> Array | None:
    """The states of a chain that are no padding."""
    base = peel(fn)[0]
    lengths = lengths_of(base)
    if lengths is None:
        return None
    return jnp.arange(base.event_shape[0]) < lengths[..., None]


def _plates(message: dict | None, rank: int) -> list[str]:
    """Names of the dimensions of the batch of a site."""
    frames = () if message is None else message["cond_indep_stack"]
    names = {frame.dim: frame.name for frame in frames}
    return [names.get(dim, f"batch_{rank + dim}") for dim in range(-rank, 0)]
