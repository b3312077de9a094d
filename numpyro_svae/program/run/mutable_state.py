# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Mutable state of networks, such as running statistics, which is no parameter.

``SVI`` keeps it beside the parameters, and it is easy to give parameters alone. A
network would then begin with its first state, and nobody would know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from numpyro.handlers import block
from numpyro.ops.provenance import eval_provenance
from numpyro.primitives import Messenger

from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.origins import union_of

__all__ = ["Given", "check_state"]


class Given(Messenger):
    """Notes which parameters and mutable states are given from outside.

    :param values: of those that are, by name.
    :param begun: first values of the mutable states that are not, by name.
    :param parameters: the names of all parameters, given or not.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.values: dict[str, Any] = {}
        self.begun: dict[str, Any] = {}
        self.parameters: set[str] = set()
        self._drawn: set[str] = set()

    def __enter__(self) -> Given:
        super().__enter__()
        return self

    def process_message(self, msg: dict) -> None:
        """Note when a parameter is initialised by a function."""
        if msg["type"] == "param" and not msg["args"]:
            first, name = msg["fn"], msg["name"]

            def initialise(*args: Any, **kwargs: Any) -> Any:
                self._drawn.add(name)
                return first(*args, **kwargs)

            msg["fn"] = initialise

    def postprocess_message(self, msg: dict) -> None:
        """Note what was given."""
        kind, name = msg["type"], str(msg.get("name"))
        if kind == "param":
            self.parameters.add(name)
        if kind not in ("param", "mutable") or name in self._drawn:
            return
        given = not msg["args"] or msg["value"] is not msg["args"][0]
        if given:
            self.values[name] = msg["value"]
        elif kind == "mutable":  # a copy, as networks write into it
            self.begun[name] = jax.tree.map(lambda leaf: leaf, msg["value"])


def check_state(
    run: Callable[[], Any], values: dict[str, Any], begun: dict[str, Any]
) -> None:
    """Mutable state must be given with the parameters, if results depend on it.

    :param run: a function whose results matter, a pytree.
    :param values: parameters and state that it is given.
    :param begun: first values of the state that it is not given.
    :raises ValueError: naming the states that the results depend on.
    """

    def results(**state: Any) -> Any:
        with block(), Fixed(data={**values, **state}):
            return run()

    if not (values and begun):
        return
    found = eval_provenance(results, **begun)
    names = sorted(union_of(found))
    if names:
        raise ValueError(
            f"Mutable state {names}: found parameters without it, which results need; "
            "they would be those of its first value. Accepted: parameters with it, "
            "{**result.params, **result.state.mutable_state} for a result of SVI.run."
        )
