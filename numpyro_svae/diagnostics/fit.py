# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A fitted guide with its data, as diagnostics and forecasts look at it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
from jax import Array, random
from numpyro.handlers import block, seed, trace
from numpyro.primitives import Messenger

from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.declare.sampling import joint_name
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.run.ended import ends_of_run
from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.mutable_state import Given, check_state
from numpyro_svae.program.run.parts import label_of
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.run.subsample import Subsample
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.probing import plain_run
from numpyro_svae.random_keys import check_key

__all__ = ["Batch", "Fit", "check_subsample", "read_fit", "sample_messages"]


class Fit(NamedTuple):
    """A guide that has been fitted, and the data that it is looked at with.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, and members of the plates that the model subsamples.
    :param args: arguments of both.
    :param kwargs: keyword arguments of both.
    :param batch: of how many data at a time it may be looked at, if not of all.
    """

    model: Callable
    guide: AutoSVAE
    params: dict[str, Any]
    args: tuple
    kwargs: dict[str, Any]
    batch: Batch | None = None

    @property
    def global_names(self) -> set[str]:
        """The global sites, once the guide has read its model."""
        priors = self.guide.structure.priors.values()
        return {site for prior in priors for site in prior.sites}

    @property
    def known_parts(self) -> frozenset[str]:
        """What is observed of sites that ``obs_mask`` makes latent in part."""
        found = map(label_of, self.guide.structure.locals)
        return frozenset(name for name in found if name is not None)

    def knowing(self, local: LocalPosterior | None) -> Fit:
        """The fit with a guide that knows its local posteriors, if they are given."""
        return self._replace(guide=self.guide._knowing(local))

    def trace(
        self, fn: Callable, key: Array, values: dict[str, Any], *first: Any
    ) -> dict[str, dict]:
        """A run of the model or guide at some values, unseen by enclosing handlers.

        :param fn: the function.
        :param key: random key.
        :param values: values of sites.
        :param first: arguments in front of those of the model.
        """
        with block(), self.apart():
            run = Fixed(seed(fn, key), data={**self.params, **values})
            return trace(run).get_trace(*first, *self.args, **self.kwargs)

    def infer(self) -> LocalPosterior:
        """Posteriors of the local sites; said if their sweeps have not converged."""
        found: list[LocalPosterior] = []

        def run(*args: Any, **kwargs: Any) -> None:
            found.append(self.guide.strict._infer(args, kwargs)[2])

        self.trace(run, random.PRNGKey(0), {})
        return found[0]

    def ended_chains(self) -> dict[str, Any]:
        """The chains whose ends a mask in the body of a scan says, with ``lengths``."""
        wiring = self.guide.structure
        chains = (chain for scan in wiring.scans for chain in scan.chains.values())
        if not any(chain.masked for chain in chains):
            return {}
        given, key = (self.model, self.args, self.kwargs), random.PRNGKey(0)
        spelled = self.params, wiring.scans, wiring.shown
        messages = plain_run(Program(*given, key, *spelled), wiring)
        return {name: peel(messages[name]["fn"])[0] for name in ends_of_run(messages)}

    def of_members(self, members: Array) -> Fit:
        """The fit with some of the data, by their places in the plate of its batch."""
        if self.batch is None:
            return self
        params = {**self.params, self.batch.plate: members}
        return self._replace(params=params, batch=self.batch._replace(open=True))

    def apart(self) -> AbstractContextManager:
        """A context in which batches draw what is local by keys of their own."""
        if self.batch is None or not self.batch.open:
            return nullcontext()
        guide = self.guide
        joints = {joint_name(name, guide.prefix) for name in guide.structure.priors}
        first = self.params[self.batch.plate][0]
        return _Apart(self.global_names | joints, first)


class Batch(NamedTuple):
    """How the data of a fit may be taken in batches.

    :param plate: the plate that they are in, whose members are independent of each
        other given the global sites.
    :param size: of a batch.
    :param total: number of all members.
    :param open: whether the fit is of one of them.
    """

    plate: str
    size: int
    total: int
    open: bool = False


class _Apart(Messenger):
    """Draws with other keys, but of some sites.

    :param shared: the sites whose keys stay.
    :param number: tells the keys of two such runs apart.
    """

    def __init__(self, shared: set[str], number: Array) -> None:
        super().__init__(None)
        self.shared, self.number = shared, number

    def process_message(self, msg: dict) -> None:
        """Change the key of a site, of a scan, or of ``numpyro.prng_key``."""
        if msg["type"] not in ("sample", "control_flow", "prng_key"):
            return
        key = msg["kwargs"].get("rng_key")
        if key is not None and msg.get("name") not in self.shared:
            msg["kwargs"]["rng_key"] = random.fold_in(key, self.number)


def read_fit(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    args: tuple,
    kwargs: dict,
    *keys: Any,
) -> Fit:
    """A fit whose guide has read its model, with all data that the model subsamples.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters.
    :param args: arguments of both.
    :param kwargs: keyword arguments of both.
    :param keys: what is given as a random key between parameters and arguments.
    :raises TypeError: if the guide is not an :class:`AutoSVAE`, or a key is none.
    :raises ValueError: if parameters lack some, or the mutable state of networks.
    """
    if not isinstance(guide, AutoSVAE):
        raise TypeError(f"guide: found {type(guide).__name__}; accepted is AutoSVAE.")
    for key in keys:
        check_key(key, "(model, guide, params, rng_key, *args)")
    fit = Fit(model, guide, params, args, kwargs)
    found = guide._ready(params, args, kwargs)
    fit = fit._replace(params={**params, **found.members}, batch=_batch(guide, found))
    if guide.state_names - set(params):
        _check_state(fit)
    return fit


def _batch(guide: AutoSVAE, found: Subsample) -> Batch | None:
    """How data are taken in batches: those of one plate that all but globals are in."""
    priors = guide.structure.priors.values()
    shared = {site for prior in priors for site in prior.sites}
    if len(found.sizes) != 1:
        return None
    ((plate, size),) = found.batches.items()
    apart = found.outside[plate] <= shared
    return Batch(plate, size, found.sizes[plate]) if apart else None


def _check_state(fit: Fit) -> None:
    """The state of networks must be there, of the model and of recognition alike."""

    def run() -> Any:
        found = []
        for fn in (fit.guide, fit.model):
            messages = trace(seed(fn, 0)).get_trace(*fit.args, **fit.kwargs)
            sites = sample_messages(messages).values()
            found.append([(site["fn"], site["value"]) for site in sites])
        return found

    with block(), Given() as given, Fixed(data=fit.params):
        run()
    check_state(run, fit.params, given.begun)


def sample_messages(messages: dict[str, dict]) -> dict[str, dict]:
    """The messages of sample sites."""
    return {n: m for n, m in messages.items() if m["type"] == "sample"}


def check_subsample(fit: Fit) -> None:
    """All plates of the model of a fit must have all of their data.

    :raises ValueError: naming the plate.
    """

    def run() -> None:
        messages = fit.trace(fit.model, random.PRNGKey(0), {})
        for name, message in messages.items():
            if message["type"] == "plate":
                _check_plate(name, len(message["value"]), message["args"][0])

    jax.eval_shape(run)


def _check_plate(name: str, size: int, total: int) -> None:
    if size < total:
        raise ValueError(
            f"Plate '{name}': found {size} of its {total} members. Accepted: all of "
            "the data, from which the model may subsample, or a plate as large as the "
            "data that there are."
        )
