# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""First states of scans that are known: what a carry starts with is no latent site."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.contrib.control_flow.scan import scan_wrapper
import numpyro.distributions as dist
from numpyro.primitives import Messenger
from numpyro.util import not_jax_tracer

from numpyro_svae.program.run.scan_steps import num_states

__all__ = ["Starts", "certain", "name_before", "start_of"]


def name_before(name: str) -> str:
    """What stands for the site of the first state of a chain that has none.

    :param name: of the site in the body of the scan.
    """
    return f"before {name}"


def certain(name: str, fn: Any, value: Any) -> dist.Distribution:
    """The distribution of a first state that is known.

    :param name: of the site in the body of the scan.
    :param fn: the distribution of a step of it.
    :param value: the state, which positions may share.
    :raises ValueError: naming the site, if it has no such state.
    """
    value, count = jnp.broadcast_to(value, fn.shape()), num_states(fn)
    if count is None:
        fn = dist.Normal(value, jnp.zeros_like(value), validate_args=False)
        return fn.to_event(1)
    if not_jax_tracer(value) and not np.all((value >= 0) & (value < count)):
        raise ValueError(
            f"Site '{name}': the scan starts at states from {np.min(value)} to "
            f"{np.max(value)}, found {count} states. Accepted: states from 0 to "
            f"{count - 1}. Of a start that is none of them, write the first state as "
            "a site before the scan, with probabilities of its own."
        )
    return dist.Categorical(jax.nn.one_hot(value, count), validate_args=False)


def start_of(chain: Any) -> Array:
    """The first state of a chain that begins with :func:`certain` ones."""
    if hasattr(chain, "initial_loc"):
        return chain.initial_loc
    return jnp.argmax(chain.initial_probs, -1)


class Starts(Messenger):
    """Runs a program whose scans start at other states than the known ones.

    :param fn: the program.
    :param scans: its scans, in the order in which it runs them.
    :param states: by the name of :func:`name_before`.
    """

    def __init__(
        self, fn: Callable, scans: Iterable[Any], states: dict[str, Any]
    ) -> None:
        super().__init__(fn)
        self.left, self.states = iter(scans), states

    def process_message(self, msg: dict) -> None:
        """Change what a scan starts with."""
        if msg["type"] != "control_flow" or msg["fn"] is not scan_wrapper:
            return
        body, init, *rest = msg["args"]
        leaves, tree = jax.tree.flatten(init)
        for chain in next(self.left).chains.values():
            if chain.known:
                dtype = jnp.result_type(leaves[chain.leaf])
                leaves[chain.leaf] = jnp.asarray(self.states[chain.first], dtype)
        msg["args"] = (body, jax.tree.unflatten(tree, leaves), *rest)
