# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The arguments of a scan, and single steps of it."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
from numpyro.handlers import block, condition, seed, substitute, trace

from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.names import Names
from numpyro_svae.program.run.operations import without_rest
from numpyro_svae.program.run.wrappers import as_states, as_vectors

__all__ = ["ScanCall", "args_of", "constants", "num_steps", "run_body", "zero_of"]


@dataclass(frozen=True)
class ScanCall:
    """The arguments of a scan in one run of the program.

    :param body: the function that is scanned.
    :param init: leaves of the carry that it starts with.
    :param tree: the structure of the carry.
    :param xs: what is scanned over, time leading.
    :param length: number of steps.
    :param fixed: values of parameters.
    :param key: random key for what the body draws.
    :param names: what names stand for already, which the body does not say itself.
    :param numbers: the latent sites of the body that are Gaussian numbers. They are
        read as vectors of dimension one.
    :param carried: the leaves of the carry that are such numbers.
    """

    body: Callable
    init: list[Any]
    tree: Any
    xs: Any
    length: int
    fixed: dict[str, Any]
    key: Array
    names: Names | None = None
    numbers: frozenset[str] = frozenset()
    carried: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        args: tuple,
        fixed: dict[str, Any],
        key: Array,
        names: Names | None = None,
    ) -> ScanCall:
        """Read the arguments of the message of a scan."""
        body, init, xs, _, reverse = args
        if reverse:
            raise ValueError(
                "A scan that runs in reverse cannot be read as a chain. Accepted: "
                "numpyro.contrib.control_flow.scan with reverse=False."
            )
        leaves, tree = jax.tree.flatten(init)
        return cls(body, leaves, tree, xs, num_steps(args), fixed, key, names)

    def in_vectors(self, numbers: frozenset[str], carried: frozenset[int]) -> ScanCall:
        """The scan with some numbers as vectors, in its carry too.

        :param numbers: the latent sites of the body that are Gaussian numbers.
        :param carried: the leaves of the carry that are values of these.
        """
        own = replace(self, numbers=numbers, carried=carried)
        return replace(own, init=own.as_read(self.init))

    def as_read(self, carry: list[Any]) -> list[Any]:
        """The leaves of a carry of the program, as they are read."""
        return [
            jnp.asarray(leaf)[..., None] if i in self.carried else leaf
            for i, leaf in enumerate(carry)
        ]

    def as_written(self, carry: list[Any]) -> list[Any]:
        """The leaves of a carry as the program has them."""
        return [
            leaf[..., 0] if i in self.carried else leaf for i, leaf in enumerate(carry)
        ]

    def first_inputs(self) -> Any:
        """What the first step scans over."""
        return jax.tree.map(lambda x: jnp.asarray(x)[0], self.xs)


def num_steps(args: tuple) -> int:
    """The number of steps of a scan, by the arguments of its message.

    :raises ValueError: if there is none, so that its body cannot be read.
    """
    _, _, xs, length, _ = args
    if length is None:
        length = jnp.shape(jax.tree.leaves(xs)[0])[0]
    if length == 0:
        raise ValueError(
            "A scan: found no steps, as of sequences with nothing but a first state. "
            "Accepted: one step or more. Where one step is seen, write "
            "ns.filter(...).begin(...), with two steps of any data in the filter."
        )
    return int(length)


def args_of(msg: dict) -> tuple:
    """The arguments of a scan, whose body says what ``handlers.condition`` gives.

    NumPyro hands the scan what that gives sites of the body, beside it. It is as if it
    were among what is scanned over, and ``obs=`` in the body.

    :param msg: the message of the scan, which has these arguments then.
    """
    stack = msg["kwargs"].get("substitute_stack", ())
    given = tuple(data for kind, data in stack if kind == "condition")
    if given:
        msg["kwargs"]["substitute_stack"] = [e for e in stack if e[0] != "condition"]
        body, init, xs, length, reverse = msg["args"]
        count = num_steps(msg["args"])
        body = partial(_conditioned, body, given, count)
        msg["args"] = body, init, (xs, jnp.arange(count)), length, reverse
    return msg["args"]


def _conditioned(body: Callable, given: tuple, count: int, carry: Any, x: Any) -> Any:
    """A step with sites that are observed.

    :param body: the step.
    :param given: values of all steps by site, or functions of messages that give them.
    :param count: number of steps.
    :param carry: what is carried.
    :param x: what it scans over, and the number of the step.
    """
    x, step = x
    for data in given:
        body = condition(body, condition_fn=partial(_at_step, data, count, step))
    return body(carry, x)


def _at_step(given: Any, count: int, step: Array, site: dict) -> Any:
    """The value of a site at a step, which all steps may share.

    :raises ValueError: naming the site, if there are fewer or more than steps.
    """
    value = given(site) if callable(given) else given.get(site["name"])
    shape = site["fn"].shape()
    if value is None or jnp.ndim(value) == len(shape):
        return value
    if jnp.ndim(value) != len(shape) + 1 or jnp.shape(value)[0] != count:
        raise ValueError(
            f"Site '{site['name']}': found values of shape {jnp.shape(value)} by "
            f"numpyro.handlers.condition around a scan of {count} steps. Accepted: "
            f"shape {(count, *shape)}, with time leading. Of steps that were not "
            "observed, write obs= in the body, and a mask; of those after the data, "
            "ns.forecast."
        )
    return jnp.asarray(value)[step]


def run_body(
    call: ScanCall,
    carry: list[Any],
    x: Any,
    given: dict[str, Any],
    default: Callable[[dict], Any] = lambda message: None,
) -> tuple[list[Any], Any, dict[str, dict]]:
    """Run one step.

    :param call: the scan.
    :param carry: leaves of the carry.
    :param x: what the step scans over.
    :param given: values of its sites.
    :param default: gives the value of a latent site without one.
    :return: leaves of the next carry, the output, and the trace of the step.
    """
    given = {n: x[..., 0] if n in call.numbers else x for n, x in given.items()}

    def fill(message: dict) -> Any:
        latent = message["type"] == "sample" and message["value"] is None
        return default(message) if latent else None

    with (
        block(),
        trace() as messages,
        seed(rng_seed=call.key),
        substitute(substitute_fn=fill),
        Fixed(data={**call.fixed, **given}, names=call.names),
    ):
        carry, y = call.body(jax.tree.unflatten(call.tree, call.as_written(carry)), x)
    shown = {name: _as_read(m, call.numbers) for name, m in messages.items()}
    return call.as_read(jax.tree.leaves(carry)), y, shown


def constants(
    call: ScanCall, states: Container[int], given: dict[str, Any]
) -> list[Array]:
    """What is carried before each step where all states are zero.

    It is of use for what depends on no state, as a number of the step.

    :param call: the scan.
    :param states: the leaves of the carry that are states.
    :param given: values of the sites of each step.
    :return: the leaves, with an axis of steps in front.
    """

    def step(carry: list[Any], x: Any) -> tuple[list[Any], list[Any]]:
        new, _, _ = run_body(call, carry, x, given)
        same = [jnp.asarray(n, jnp.result_type(c)) for n, c in zip(new, carry)]
        return same, carry

    init = [
        jnp.zeros_like(leaf) if i in states else jnp.asarray(leaf)
        for i, leaf in enumerate(call.init)
    ]
    step = without_rest(step, init, call.first_inputs())
    return jax.lax.scan(step, init, call.xs, call.length)[1]


def _as_read(message: dict, numbers: Container[str]) -> dict:
    """The message of a latent site with its distribution as it is read."""
    if message["type"] != "sample" or message["is_observed"]:
        return message
    fn, value = as_states(message["fn"]), message["value"]
    if message["name"] in numbers:
        fn, value = as_vectors(fn, value)
    return {**message, "fn": fn, "value": value}


def zero_of(message: dict) -> Array:
    """Zeros in the place of a draw of a latent site."""
    dtype = int if message["fn"].support.is_discrete else float
    return jnp.zeros(message["fn"].shape(), dtype)
