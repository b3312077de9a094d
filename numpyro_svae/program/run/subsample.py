# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The data that a program subsamples, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import random
from jax.errors import JAXTypeError
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.distribution import Unit
from numpyro.handlers import block, seed, trace

from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.indices import check_indices
from numpyro_svae.program.run.plates import check_shape
from numpyro_svae.program.run.scans import is_scanned
from numpyro_svae.tracing import computed_now

__all__ = ["Subsample", "find_subsample", "plate_axis"]


class Subsample(NamedTuple):
    """What a program subsamples of data that it is given in full.

    :param sizes: of the plates, by name.
    :param batches: how many members of each it draws.
    :param inside: by plate, the sample sites in it.
    :param outside: by plate, the other sample sites.
    """

    sizes: dict[str, int]
    batches: dict[str, int]
    inside: dict[str, set[str]]
    outside: dict[str, set[str]]

    @property
    def members(self) -> dict[str, Any]:
        """All members of the plates, known under a trace too."""
        with computed_now():
            return {name: jnp.arange(size) for name, size in self.sizes.items()}


def find_subsample(
    model: Callable, given: dict[str, Any], args: tuple, kwargs: dict[str, Any]
) -> Subsample:
    """Find the plates that a model subsamples, whose data it is given in full.

    Where it is given a batch, whose plate is larger, there is no more to look at. Which
    is the case is tried: the model is traced with all members of the plates.

    :param model: the model.
    :param given: parameters, and members of plates that are chosen.
    :param args: the arguments of the model.
    :param kwargs: its keyword arguments.
    :raises ValueError: if data have not the shape of their site and its plates, or pick
        what a latent site has not.
    """

    def run(members: dict[str, Any]) -> dict[str, dict]:
        known, messages = {**given, **members}, dict[str, dict]()

        def traced() -> None:
            with block():
                fixed = Fixed(seed(model, random.PRNGKey(0)), data=known)
                messages.update(trace(fixed).get_trace(*args, **kwargs))

        try:
            jax.eval_shape(traced)
        except JAXTypeError:  # the model has to know values of its arguments
            messages.clear()
            traced()
        return messages

    first = run({})
    for name, message in first.items():
        own = message["type"] == "sample" and message["is_observed"]
        if own and not is_scanned(message):
            frames = tuple(message["cond_indep_stack"])
            check_shape(name, message["fn"], message["value"], frames)
    check_indices(model, given, args, kwargs, first)
    drawn = {
        name: message
        for name, message in first.items()
        if message["type"] == "plate"
        and name not in given
        and len(message["value"]) < message["args"][0]
    }
    found = Subsample(
        {name: message["args"][0] for name, message in drawn.items()},
        {name: len(message["value"]) for name, message in drawn.items()},
        {},
        {},
    )
    if not drawn:
        return found
    try:
        messages = run(found.members)
    except (TypeError, ValueError, IndexError):
        return Subsample({}, {}, {}, {})
    sites = {n: m for n, m in messages.items() if m["type"] == "sample"}
    for plate in drawn:
        inside = {n for n, m in sites.items() if _is_in(m, plate)}
        found.inside[plate], found.outside[plate] = inside, set(sites) - inside
    whole = all(_has_all(sites[n], p) for p in drawn for n in found.inside[p])
    return found if whole else Subsample({}, {}, {}, {})


def _is_in(message: dict, plate: str) -> bool:
    return any(frame.name == plate for frame in message["cond_indep_stack"])


def _has_all(message: dict, plate: str) -> bool:
    """Whether the value of a site has an entry for each member of a plate."""
    axis, size = plate_axis(message, plate)
    shape = np.shape(message["value"])
    return isinstance(message["fn"], Unit) or shape[axis:][:1] == (size,)


def plate_axis(message: dict, plate: str) -> tuple[int, int]:
    """The axis, from the right, of a plate in the value of a site, and its size."""
    frames = {frame.name: frame for frame in message["cond_indep_stack"]}
    frame = frames[plate]
    return frame.dim - message["fn"].event_dim, frame.size
