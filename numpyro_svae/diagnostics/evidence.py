# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The likelihood of each datum given the global sites, local sites integrated out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from numpyro.handlers import block, replay, seed, substitute, trace

from numpyro_svae.guide import AutoSVAE
from numpyro_svae.program.mutable_state import Given, check_state

__all__ = [
    "Fit",
    "check_subsample",
    "global_log_joint",
    "guide_draw",
    "integrated_log_likelihood",
    "log_prob",
    "read_fit",
    "sample_messages",
    "total_log_prob",
]


class Fit(NamedTuple):
    """A guide that has been fitted, and the data that it is looked at with.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters.
    :param args: arguments of both.
    :param kwargs: keyword arguments of both.
    """

    model: Callable
    guide: AutoSVAE
    params: dict[str, Any]
    args: tuple
    kwargs: dict[str, Any]

    @property
    def global_names(self) -> set[str]:
        """The global sites, once the guide has read its model."""
        priors = self.guide._wiring.priors.values()
        return {site for prior in priors for site in prior.sites}

    def trace(
        self, fn: Callable, key: Array, values: dict[str, Any], *first: Any
    ) -> dict[str, dict]:
        """A run of the model or guide at some values, unseen by enclosing handlers.

        :param fn: the function.
        :param key: random key.
        :param values: values of sites.
        :param first: arguments in front of those of the model.
        """
        with block():
            run = substitute(seed(fn, key), data={**self.params, **values})
            return trace(run).get_trace(*first, *self.args, **self.kwargs)


def read_fit(
    model: Callable, guide: AutoSVAE, params: dict[str, Any], args: tuple, kwargs: dict
) -> Fit:
    """A fit whose guide has read its model.

    :raises TypeError: if the guide is not an :class:`AutoSVAE`.
    :raises ValueError: if parameters lack the mutable state of networks.
    """
    if not isinstance(guide, AutoSVAE):
        raise TypeError(f"guide: found {type(guide).__name__}; accepted is AutoSVAE.")
    fit = Fit(model, guide, params, args, kwargs)
    if guide.structure is None:
        fit.trace(guide, random.PRNGKey(0), {})  # with concrete arguments
    if guide.state_names - set(params):
        _check_state(fit)
    return fit


def _check_state(fit: Fit) -> None:
    """The state of networks must be there, of the model and of recognition alike."""

    def run() -> Any:
        found = []
        for fn in (fit.guide, fit.model):
            messages = trace(seed(fn, 0)).get_trace(*fit.args, **fit.kwargs)
            sites = sample_messages(messages).values()
            found.append([(site["fn"], site["value"]) for site in sites])
        return found

    with block(), Given() as given, substitute(data=fit.params):
        run()
    check_state(run, fit.params, given.begun)


def sample_messages(messages: dict[str, dict]) -> dict[str, dict]:
    """The messages of sample sites."""
    return {n: m for n, m in messages.items() if m["type"] == "sample"}


def check_subsample(messages: dict[str, dict]) -> None:
    """All plates of a run must have all of their data.

    :raises ValueError: naming the plate.
    """
    for name, message in messages.items():
        if message["type"] == "plate" and len(message["value"]) < message["args"][0]:
            raise ValueError(
                f"Plate '{name}': found a subsample of {len(message['value'])} of "
                f"{message['args'][0]}. Accepted: a model that runs on all of its data."
            )


def guide_draw(fit: Fit) -> Callable[[Array], tuple[dict[str, dict], Array]]:
    """A function that draws the sites of a guide, and the density of the global ones.

    :param fit: a guide that has read its model.
    :return: a function from a random key to the messages of the sample sites, and the
        log density of the global sites.
    """
    guide = fit.guide
    joints = {f"{name}_{guide.prefix}_joint" for name in guide._wiring.priors}
    ours = fit.global_names | joints

    def draw(key: Array) -> tuple[dict[str, dict], Array]:
        sites = sample_messages(fit.trace(guide, key, {}))
        return sites, total_log_prob(m for n, m in sites.items() if n in ours)

    return draw


def global_log_joint(
    fit: Fit, num_particles: int
) -> tuple[Callable[[Array, dict[str, Array]], tuple[Array, Array]], tuple[str, ...]]:
    """A function for the log likelihood and the log prior at values of global sites.

    :param fit: a guide that has read its model.
    :param num_particles: number of importance samples of local sites.
    :return: a function of a random key and the values, and the plates of its first
        result; see :func:`integrated_log_likelihood`.
    """
    estimate, plates = integrated_log_likelihood(fit, num_particles)

    def log_joint(key: Array, values: dict[str, Array]) -> tuple[Array, Array]:
        sites = fit.trace(fit.model, key, values)
        return estimate(key, values), total_log_prob(sites[n] for n in sorted(values))

    return log_joint, plates


def integrated_log_likelihood(
    fit: Fit, num_particles: int
) -> tuple[Callable[[Array, dict[str, Array]], Array], tuple[str, ...]]:
    """A function that estimates ``log p(y_n | globals)``, and the plates of its data.

    Local sites are importance-sampled from their posterior *given the globals*, which
    a guide of the model with these globals finds. In conjugate models that posterior is
    exact, all weights are equal, and the estimate is exact from one sample on.

    :param fit: a guide that has read its model.
    :param num_particles: number of importance samples.
    :return: a function of a random key and values of the global sites, whose result has
        a dimension for each plate that all local and observed sites are in; and the
        names of these plates.
    """
    guide, names = fit.guide, fit.global_names

    def given(fn: Callable) -> Callable:
        """A function of the values of the global sites, which nobody else sees."""

        def run(values: dict[str, Array], /, *args: Any, **kwargs: Any) -> Any:
            fixed = substitute(fn, data=values)
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
    )
    latent = bool(guide._wiring.locals)
    plates: dict[int, str] = {}

    def log_weight(key: Array, values: dict[str, Array]) -> Array:
        ours, theirs = random.split(key)
        drawn: dict[str, dict] = {}
        if latent:
            drawn = sample_messages(fit.trace(local_guide, ours, {}, values))
        replayed = replay(local_model, drawn)
        sites = sample_messages(fit.trace(replayed, theirs, {}, values))
        plates.update(_shared_plates(sites))
        log_p = [log_prob(message, plates) for message in sites.values()]
        log_q = [log_prob(message, plates) for message in drawn.values()]
        zero = jnp.zeros(())
        return sum(log_p, zero) - sum(log_q, zero)

    def estimate(key: Array, values: dict[str, Array]) -> Array:
        keys = random.split(key, num_particles)
        weights = jax.vmap(lambda key: log_weight(key, values))(keys)
        return logsumexp(weights, 0) - jnp.log(num_particles)

    start = guide._sample_globals(random.PRNGKey(0), fit.params)
    log_weight(random.PRNGKey(0), start)  # reads the model, with concrete values
    return estimate, tuple(plates[dim] for dim in sorted(plates))


def _shared_plates(sites: dict[str, dict]) -> dict[int, str]:
    """The plates that all sites are in: their names by dimension."""
    frames = [
        {(frame.dim, frame.name) for frame in message["cond_indep_stack"]}
        for message in sites.values()
    ]
    return dict(set.intersection(*frames)) if frames else {}


def log_prob(message: dict, plates: Collection[int] = ()) -> Array:
    """Log probability of a site, summed over all dimensions but those of plates."""
    intermediates = message["intermediates"]
    arguments = (intermediates,) if intermediates else ()
    value = message["fn"].log_prob(message["value"], *arguments)
    axes = [axis for axis in range(-value.ndim, 0) if axis not in plates]
    return jnp.sum(value, axis=axes)


def total_log_prob(messages: Iterable[dict]) -> Array:
    """Log probability of some sites."""
    return sum((log_prob(message) for message in messages), jnp.zeros(()))
