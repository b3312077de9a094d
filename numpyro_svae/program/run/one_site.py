# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Runs a program with scans as if it had one site for each chain.

The steps of a scan are independent of each other once the states are given. So its body
is run for all steps at once, and the sites are shown with time as an event dimension,
in the places that the one-site spelling has: a chain with its first state in front, and
all other sites at its steps, with a first step that does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpyro
from numpyro.contrib.control_flow.scan import scan_wrapper
import numpyro.distributions as dist
from numpyro.handlers import scale
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import Messenger

from numpyro_svae.distributions import LinearGaussianChain, NonlinearGaussianChain
from numpyro_svae.distributions.logit_chain import LogitChain
from numpyro_svae.program.run.ended import ends_of
from numpyro_svae.program.run.known_starts import certain
from numpyro_svae.program.run.plates import Plates, own_scale
from numpyro_svae.program.run.scan_calls import (
    ScanCall,
    args_of,
    constants,
    run_body,
    zero_of,
)
from numpyro_svae.program.run.scans import Scan, ScannedChain
from numpyro_svae.program.run.steps import Steps, log_probs_of
from numpyro_svae.program.run.wrappers import as_states, as_vectors

__all__ = ["OneSite"]


class OneSite(Messenger):
    """Shows the scans of a program in the one-site spelling.

    :param fn: the program.
    :param scans: its scans, in the order in which it runs them.
    :param values: values of the latent sites, in that spelling.
    :param fixed: values of parameters and plates.
    :param key: random key for what the bodies draw.
    """

    def __init__(
        self,
        fn: Callable,
        scans: tuple[Scan, ...],
        values: dict[str, Any],
        fixed: dict[str, Any],
        key: Array,
    ) -> None:
        super().__init__(fn)
        self.left = iter(scans)
        chains = [(scan, c) for scan in scans for c in scan.chains.values()]
        self.firsts = {c.first: (scan, c) for scan, c in chains if not c.known}
        self.values, self.fixed, self.key = values, fixed, key
        self.first_fn: dict[str, Any] = {}
        self.plates: dict[str, dict] = {}  # that bodies may open again
        self.seen: dict[str, Array] = {}

    def postprocess_message(self, msg: dict) -> None:
        """Remember a plate."""
        if msg["type"] == "plate":
            self.plates[msg["name"]] = msg

    def process_message(self, msg: dict) -> None:
        """Give first states their value, and run scans, both out of sight. Data that
        are shown keep theirs, whatever ``condition`` makes of it."""
        if msg["type"] == "sample" and msg["name"] in self.seen:
            msg["value"] = self.seen[msg["name"]]
        elif msg["type"] == "sample" and msg["name"] in self.firsts:
            scan, chain = self.firsts[msg["name"]]
            fn, path = as_states(msg["fn"]), self.values.get(chain.name)
            if path is None:
                value = jnp.zeros(fn.shape(), int if chain.discrete else float)
            else:
                first = jnp.take(path, 0, len(fn.batch_shape))
                value = scan.as_written(chain.name, first)
            msg["value"], msg["stop"] = value, True
            if chain.name in scan.numbers:
                fn, _ = as_vectors(fn, value)
            self.first_fn[chain.name] = fn
        elif msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            members = {name: m["value"] for name, m in self.plates.items()}
            call = ScanCall.of(args_of(msg), self.fixed | members, self.key)
            run = _Run(call, next(self.left), self.values, self.first_fn, self.plates)
            carry, ys = run.show(self.seen)
            found = (call.length, None, carry), (PytreeTrace({}), ys)
            msg["value"], msg["stop"] = found, True


class _Run:
    """One scan, with the values of its latent sites."""

    def __init__(
        self,
        call: ScanCall,
        scan: Scan,
        values: dict[str, Any],
        first_fn: dict[str, Any],
        plates: dict[str, dict],
    ) -> None:
        call = call.in_vectors(scan.numbers, scan.carried)
        self.call, self.scan, self.first_fn = call, scan, first_fn
        plain = {n: jnp.zeros_like(call.init[c.leaf]) for n, c in scan.chains.items()}
        _, _, shown = run_body(call, call.init, call.first_inputs(), plain, zero_of)
        self.shown = shown
        self.plates = plates | {n: m for n, m in shown.items() if m["type"] == "plate"}
        self.paths = {
            name: self._path(name, values.get(name))
            for name in shown
            if name in scan.chains or name in scan.latent
        }
        steps = {n: self._steps(n, v) for n, v in self.paths.items()}
        self.given = {n: v[1:] if scan.chains else v for n, v in steps.items()}
        self.first = {n: v[:1] for n, v in steps.items()}
        self.carry = self._carries()
        states = {name: shown[name]["fn"] for name in scan.chains}
        self.ends = ends_of(states, lambda read: self._each(read, self.carry))
        self.lengths = {name: ends.lengths for name, ends in self.ends.items()}

    # values over time

    def _rank(self, name: str) -> int:
        return len(self.shown[name]["fn"].batch_shape)

    def _path(self, name: str, value: Any) -> Array:
        """Values with time after the batch, the first state or step included."""
        if value is not None:
            return jnp.asarray(value)
        zero, rank = jnp.zeros_like(self.shown[name]["value"]), self._rank(name)
        return jnp.stack([zero] * (self.call.length + bool(self.scan.chains)), rank)

    def _steps(self, name: str, path: Array) -> Array:
        return jnp.moveaxis(path, self._rank(name), 0)

    def _carries(self) -> list[Any]:
        """Leaves of the carry before each step."""
        chains = {chain.leaf: chain for chain in self.scan.chains.values()}
        carries = list(self.call.init)
        if len(chains) < len(carries):
            nothing = {n: jnp.zeros_like(v[0]) for n, v in self.given.items()}
            carries = constants(self.call, chains, nothing)
        for leaf, chain in chains.items():
            carries[leaf] = self._steps(chain.name, self.paths[chain.name])[:-1]
        return carries

    # running all steps at once

    def _each(self, read: Callable, carry: list[Any], padded: bool = False) -> Any:
        """Read something of every step.

        :param read: maps the next carry, the output and the trace of a step to arrays.
        :param carry: leaves of the carry before each step.
        :param padded: whether to put a step at the first states before them.
        """

        def step(carry: list[Any], x: Any, given: dict[str, Array]) -> Any:
            return read(*run_body(self.call, carry, x, given))

        steps, given = (carry, self.call.xs), self.given
        if padded:
            steps = jax.tree.map(lambda x: jnp.concatenate([x[:1], x]), steps)
            given = {n: jnp.concatenate([self.first[n], v]) for n, v in given.items()}
        # Outside of a trace each operation would be compiled by itself.
        return jax.jit(jax.vmap(step), inline=True)(*steps, given)

    def _at_state(self, chain: ScannedChain, state: Array, read: Callable) -> Any:
        """Read something of every step with another state before it."""
        carry = list(self.carry)
        carry[chain.leaf] = jnp.zeros_like(carry[chain.leaf]) + state
        return self._each(read, carry)

    # what is shown

    def show(self, seen: dict[str, Array]) -> tuple[Any, Any]:
        """Show the sites, and return the last carry and the outputs of the scan; the
        values of observed ones are put into ``seen``."""
        samples = {n: m for n, m in self.shown.items() if m["type"] == "sample"}
        steps = {
            name: Steps.of(message["fn"])
            for name, message in samples.items()
            if name not in self.scan.chains
        }

        def read(carry: list[Any], y: Any, messages: dict) -> Any:
            found = {
                name: (step.read(messages[name]["fn"]), messages[name]["value"])
                for name, step in steps.items()
            }
            return carry, y, found

        padded = bool(self.scan.chains)
        carry, ys, found = self._each(read, self.carry, padded)
        plates = Plates(self.plates)
        for name, message in samples.items():
            value = None
            if name in self.scan.chains:
                fn = self._chain(self.scan.chains[name])
            else:
                arrays, values = found[name]
                fn = steps[name].show(arrays, padded)
                if message["is_observed"]:
                    value = seen[name] = steps[name].show_value(values)
            frames = tuple(message["cond_indep_stack"])
            own = own_scale(message["scale"], frames, self.plates)
            with plates.around(frames), scale(scale=own):
                numpyro.sample(name, fn, obs=value, infer={"ends": self.ends.get(name)})
        last = self.call.as_written([leaf[-1] for leaf in carry])
        ys = jax.tree.map(lambda y: y[int(padded) :], ys)
        return jax.tree.unflatten(self.call.tree, last), ys

    def _chain(self, chain: ScannedChain) -> dist.Distribution:
        if chain.discrete:
            return self._discrete_chain(chain)
        if not chain.linear:
            return self._nonlinear_chain(chain)
        return self._gaussian_chain(chain)

    def _first(self, chain: ScannedChain) -> Any:
        """The distribution of the first state of a chain."""
        if not chain.known:
            return self.first_fn[chain.name]
        step = self.shown[chain.name]["fn"]
        return certain(chain.name, step, self.call.init[chain.leaf])

    def _discrete_chain(self, chain: ScannedChain) -> LogitChain:
        rank = self._rank(chain.name)

        def logits(carry: Any, y: Any, messages: dict) -> Array:
            return log_probs_of(messages[chain.name]["fn"])

        initial = jnp.exp(log_probs_of(self._first(chain)))
        states = jnp.arange(initial.shape[-1])
        rows = jax.vmap(lambda state: self._at_state(chain, state, logits))(states)
        rows = jnp.moveaxis(jnp.moveaxis(rows, 0, -2), 0, rank)
        known = {"lengths": self.lengths.get(chain.name), "validate_args": False}
        return LogitChain(initial, rows, self.call.length + 1, **known)

    def _nonlinear_chain(self, chain: ScannedChain) -> NonlinearGaussianChain:
        read = Steps.of(self.shown[chain.name]["fn"]).gaussian

        def moments(carry: Any, y: Any, messages: dict) -> tuple[Array, Array]:
            return read(messages[chain.name]["fn"])

        def step(state: Array, given: Any) -> Array:
            carry = list(given[0])
            carry[chain.leaf] = state
            return moments(*run_body(self.call, carry, *given[1:]))[0]

        first = self._first(chain)
        initial = Steps.of(first).gaussian(first)
        _, cov = self._at_state(chain, jnp.zeros(()), moments)
        scanned = self.carry, self.call.xs, self.given
        known = jnp.moveaxis(cov, 0, self._rank(chain.name)), scanned
        lengths = self.lengths.get(chain.name)
        return NonlinearGaussianChain.of_steps(initial, step, *known, lengths)

    def _gaussian_chain(self, chain: ScannedChain) -> LinearGaussianChain:
        rank = self._rank(chain.name)
        step = Steps.of(self.shown[chain.name]["fn"])

        def moments(carry: Any, y: Any, messages: dict) -> tuple[Array, Array]:
            return step.gaussian(messages[chain.name]["fn"])

        def loc(state: Array) -> Array:
            return self._at_state(chain, state, moments)[0]

        first = self._first(chain)
        initial = Steps.of(first).gaussian(first)
        dim = initial[0].shape[-1]
        origin, cov = self._at_state(chain, jnp.zeros(()), moments)
        columns = jax.vmap(lambda e: loc(e) - origin)(jnp.eye(dim, dtype=origin.dtype))
        matrix = jnp.moveaxis(jnp.moveaxis(columns, 0, -1), 0, rank)
        inputs = None
        if chain.moved:
            offset = jnp.moveaxis(origin, 0, rank)
            matrix = jnp.concatenate([matrix, offset[..., None]], -1)
            inputs = jnp.ones((self.call.length, 1), matrix.dtype)
        return LinearGaussianChain(
            *initial,
            matrix,
            jnp.moveaxis(cov, 0, rank),
            inputs=inputs,
            num_steps=self.call.length + 1,
            lengths=self.lengths.get(chain.name),
            validate_args=False,
        )
