# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A fitted guide with its data, as diagnostics and forecasts look at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array
from numpyro.handlers import block, seed, substitute, trace

from numpyro_svae.guide import AutoSVAE
from numpyro_svae.program.run.mutable_state import Given, check_state

__all__ = ["Fit", "check_subsample", "read_fit", "sample_messages"]


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
        priors = self.guide.structure.priors.values()
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
    if not guide.is_read:
        with block(), seed(rng_seed=0), substitute(data=params):
            guide._setup_prototype(*args, **kwargs)
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
