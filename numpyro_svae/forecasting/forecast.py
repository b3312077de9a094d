# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forecasts of a fitted guide, and how probable they found what came."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.special import logsumexp
import numpy as np

from numpyro_svae.diagnostics.fit import Fit, read_fit
from numpyro_svae.diagnostics.programs import compiled, in_batches, inferred
from numpyro_svae.forecasting.continuation import chain_of, hidden_laws
from numpyro_svae.forecasting.course import Begin, Course, Messages
from numpyro_svae.forecasting.future_indices import check_future_indices
from numpyro_svae.forecasting.own_time import own_time
from numpyro_svae.forecasting.timeline import InTime, by_leaf
from numpyro_svae.forecasting.window import Depends, checked_independent
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.run.wrappers import peel

__all__ = ["forecast", "log_score"]


def forecast(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    rng_key: Array,
    *args: Any,
    horizon: int,
    future_inputs: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    **kwargs: Any,
) -> dict[str, Array]:
    """Draw what comes after the data.

    Each path is a run of the model itself, with global sites and last states that are
    drawn from the guide: it carries the uncertainty of parameters and states, and the
    noise of the dynamics and of the observation. A sequence that is padded goes on from
    its own end.

    The model is run with its arguments for other steps, so its number of steps must
    come from its arguments: from the shapes of arrays, or from a whole number. Which
    axes these are is found by trying. Data need no future, only arguments that
    predictions depend on do.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param rng_key: random key.
    :param args: the arguments of the model, with data.
    :param horizon: number of steps to forecast, ``H``.
    :param future_inputs: by the name of an argument, its values at the ``H`` steps
        after the data, in its own shape with ``H`` in the place of time; where it is
        nested, those of the leaves that predictions depend on. Inputs of a
        :class:`LinearGaussianChain` begin with the one that leads from the last state
        of the data to the next.
    :param num_samples: number of paths.
    :param kwargs: the keyword arguments of the model.
    :return: by site (observed and latent ones in time, and deterministic ones), of the
        shape that it has in the program, ``num_samples`` leading and ``H`` in the place
        of time: inside of the event of a chain, in front of the plates in a scan.
    :raises ValueError: naming the argument, if one is missing or has a wrong shape, or
        if the model has no chain.

    **Example**

    .. code-block:: python

        paths = ns.forecast(
            model, guide, params, key, y, actions,
            horizon=20, future_inputs={"actions": planned},
        )
        low, high = jnp.quantile(paths["y"], jnp.array([0.05, 0.95]), axis=0)
    """
    fit = read_fit(model, guide, params, args, kwargs, rng_key)
    inputs = by_leaf(future_inputs or {})
    check_future_indices(fit, inputs)

    def run(own: Fit) -> Any:
        local = inferred(own)
        return compiled(_paths, own, horizon, num_samples)(rng_key, local, inputs)

    return _checked(in_batches(fit, run))


def log_score(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    rng_key: Array,
    *args: Any,
    future: Mapping[str, Any],
    future_inputs: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    **kwargs: Any,
) -> dict[str, Array]:
    """Log predictive densities of what came after the data; higher is better.

    The density at a step is the average over the forecasts of the density of the
    observation given states and parameters, ``log mean_s p(y | x_s, theta_s)``. Where
    the observations are a chain themselves (autoregressions, which may switch), it is
    given their forecast of the step before too.

    :param future: by observed site, its values at the ``H`` steps after the data, in
        its shape in the program with ``H`` in the place of time.
    :return: by observed site, a number for each entry of its batch and each step, of
        what the program does not mask there; NaN where it masks all.
    :raises ValueError: naming the site, if it is not observed or has a wrong shape.

    The other parameters are those of :func:`forecast`.
    """
    fit = read_fit(model, guide, params, args, kwargs, rng_key)
    inputs = by_leaf(future_inputs or {})
    check_future_indices(fit, inputs)
    given = inputs, by_leaf(future)

    def run(own: Fit) -> Any:
        local = inferred(own)
        return compiled(_densities, own, num_samples)(rng_key, local, *given)

    return _checked(in_batches(fit, run))


def _checked(found: tuple[dict[str, Array], Depends]) -> dict[str, Array]:
    return checked_independent(*found)


def _paths(
    fit: Fit,
    key: Array,
    local: LocalPosterior,
    inputs: dict[str, Any],
    horizon: int,
    num_samples: int,
) -> tuple[dict[str, Array], Depends]:
    """Draws of what comes after, and what they depend on that is not given."""

    def show(messages: Messages, times: dict[str, InTime]) -> dict[str, Array]:
        return {n: _after(messages[n]["value"], time) for n, time in times.items()}

    draw_key, run_key = random.split(key)
    course = Course.of(fit.knowing(local), draw_key, num_samples)
    return _run(course, run_key, horizon, inputs, show)


def _densities(
    fit: Fit,
    key: Array,
    local: LocalPosterior,
    inputs: dict[str, Any],
    future: dict[str, Any],
    num_samples: int,
) -> tuple[dict[str, Array], Depends]:
    """Log densities of what came after, and what they depend on that is not given."""
    draw_key, run_key = random.split(key)
    course = Course.of(fit.knowing(local), draw_key, num_samples)
    horizon = _check_future(course, future)
    future = {n: course.members(n, jnp.asarray(value)) for n, value in future.items()}

    def show(messages: Messages, times: dict[str, InTime]) -> dict[str, Array]:
        return {
            name: _log_density(messages[name], times[name], value)
            for name, value in future.items()
        }

    found, depends = _run(course, run_key, horizon, inputs, show, future.keys())
    mean = {n: logsumexp(v, 0) - np.log(num_samples) for n, v in found.items()}
    return mean, depends


def _run(
    course: Course,
    key: Array,
    horizon: int,
    inputs: Mapping[str, Any],
    show: Callable[[Messages, dict[str, InTime]], dict[str, Array]],
    known: Set[str] = frozenset(),
) -> tuple[dict[str, Array], Depends]:
    """What is shown of one run of the model for each draw.

    Whether that depends on what is not given is tried with the first of them.

    :param known: the sites whose values are, so that what is shown tells of their laws.
    """
    if horizon < 1:
        raise ValueError(f"horizon: found {horizon}; accepted is at least 1.")
    window, (_, times) = course.window(horizon, inputs), course.times
    later = sorted(times.keys() - known)  # in one order in each process
    keys = random.split(key, course.num_samples)
    begins = jax.vmap(course.begin)(course.draws)

    def one(key: Array, begin: Begin, leaves: tuple) -> dict[str, Array]:
        return show(course.run(key, begin, leaves), times)

    def of_first(leaves: tuple) -> Any:
        first = keys[0], jax.tree.map(lambda leaf: leaf[0], begins)
        messages = course.run(*first, leaves)
        return show(messages, times), hidden_laws(messages, later)

    depends = window.depends(of_first)
    paths = jax.vmap(one, (0, 0, None))(keys, begins, window.leaves)
    return paths, depends | own_time(course)


def _after(value: Array, time: InTime) -> Array:
    """Values after the last step of the data."""
    axis = int(time.axis or 0)
    return jax.lax.slice_in_dim(value, 1 - time.lag, None, axis=axis)


def _log_density(message: dict, time: InTime, value: Array) -> Array:
    """Log density of future values given all else, by entry of the batch and step.

    What is masked is no datum, and has none: NaN where nothing of an entry counts.
    """
    axis, rank = int(time.axis or 0), len(message["fn"].batch_shape)
    fn, mask, _ = peel(message["fn"])
    chain = chain_of(message["fn"])
    if chain is not None:  # its path begins with the last step of the data
        kind, path = chain
        drawn = jax.lax.slice_in_dim(message["value"], 0, -1, axis=axis)
        terms = kind.log_steps(path, drawn, value.astype(drawn.dtype))
        return terms if mask is None else jnp.where(mask[..., None], terms, jnp.nan)
    if not time.lag:  # the last step of the data is there too, and is not looked at
        first = jax.lax.slice_in_dim(message["value"], 0, 1, axis=axis)
        value = jnp.concatenate([first, value.astype(first.dtype)], axis)
    terms = fn.log_prob(value)
    events = tuple(range(max(axis + 1, rank), terms.ndim))
    if mask is None:
        return _after(jnp.sum(terms, events), time)
    counts = jnp.broadcast_to(mask, terms.shape)
    total = jnp.sum(jnp.where(counts, terms, 0.0), events)
    return _after(jnp.where(jnp.any(counts, events), total, jnp.nan), time)


def _check_future(course: Course, future: Mapping[str, Any]) -> int:
    """The horizon of values of observed sites."""
    horizons = set()
    _, times = course.times
    for name, value in future.items():
        if name not in course.observed or name not in times:
            accepted = sorted(set(course.observed) & set(times))
            raise ValueError(
                f"future: found '{name}'; accepted are the observed sites in time, "
                f"here {accepted}."
            )
        axis, data = int(times[name].axis or 0), course.shape(name)
        shape, found = list(data), np.shape(value)
        shape[axis] = found[axis] if len(found) > axis else 0
        if found != tuple(shape):
            raise ValueError(
                f"future: found shape {found} for site '{name}', whose data have shape "
                f"{data}. Accepted: the same but in axis {axis}."
            )
        horizons.add(found[axis])
    if len(horizons) != 1:
        raise ValueError(
            f"future: found {len(horizons)} numbers of steps; accepted is the same "
            "number for all sites, of which there is at least one."
        )
    return horizons.pop()
