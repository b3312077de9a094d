# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The scans that a run of a program makes, and what was sampled before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.ops.provenance import eval_provenance
from numpyro.primitives import Messenger

from numpyro_svae.program.run.ended import carried
from numpyro_svae.program.run.scan_calls import ScanCall, args_of, run_body

__all__ = ["Recorder", "first_step", "used_by_start", "used_in_bodies"]


class Recorder(Messenger):
    """Collects the scans of a run, what was sampled before them, and its plates."""

    def __init__(self, fn: Callable) -> None:
        super().__init__(fn)
        self.plates: dict[str, Any] = {}
        self.calls: list[tuple[tuple, frozenset[str]]] = []
        self.sampled: dict[str, dict] = {}

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            args, stack = args_of(msg), msg["kwargs"].get("substitute_stack", ())
            given = (data for _, data in stack if isinstance(data, dict))
            self.calls.append((args, frozenset().union(*given)))

    def postprocess_message(self, msg: dict) -> None:
        if msg["type"] == "plate":
            self.plates[msg["name"]] = msg["value"]
        if msg["type"] == "sample" and not msg["is_observed"]:
            self.sampled[msg["name"]] = msg


def used_by_start(
    program: Any,
    values: dict[str, Any],
    default: Callable[[dict], Any],
    index: int,
) -> list[frozenset[str]]:
    """The latent sites that what a scan starts with depends on, by leaf of the carry.

    :param program: the program.
    :param values: of the latent sites outside of scans.
    :param default: gives values of the others.
    :param index: of the scan, in the order in which the program runs them.
    """

    def start(**latent: Any) -> list[Any]:
        recorder = Recorder(program.model)
        replace(program, model=recorder).trace(latent, default)
        _, init, *_ = recorder.calls[index][0]
        return jax.tree.leaves(init)

    return list(eval_provenance(start, **values))


def first_step(
    program: Any,
    default: Callable[[dict], Any],
    index: int,
    before: set[str],
    body: set[str],
    **own: Any,
) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Distributions of the first step of a scan, the next carry and the first one.

    :param program: the program.
    :param default: gives values of other latent sites.
    :param index: of the scan, in the order in which the program runs them.
    :param before: the latent sites outside of scans.
    :param body: those of its body.
    :param own: values of these sites, and leaves of a carry.
    """
    recorder = Recorder(program.model)
    values = {name: own[name] for name in before}
    replace(program, model=recorder).trace(values, default)
    fixed = {**program.fixed, **values, **recorder.plates}
    call = ScanCall.of(recorder.calls[index][0], fixed, program.key)
    carry = [own[carried(i)] for i in range(len(call.init))]
    given = {name: own[name] for name in body}
    after, _, messages = run_body(call, carry, call.first_inputs(), given)
    return {name: messages[name]["fn"] for name in body}, after, call.init


def used_in_bodies(program: Any) -> Iterator[dict[str, Any]]:
    """Which latent sites of the body of a scan its sites depend on, for each scan.

    :param program: the program, with scans as they are written.
    :return: trees of sets of names, by site, and by ``"the next step"`` for what a step
        carries on.
    """
    recorder = Recorder(program.model)
    replace(program, model=recorder).trace({})
    fixed = {**program.fixed, **recorder.plates}
    for args, _ in recorder.calls:
        call = ScanCall.of(args, fixed, program.key)
        run = partial(run_body, call, call.init, call.first_inputs())
        samples = {n: m for n, m in run({})[2].items() if m["type"] == "sample"}
        latent = {n: m["value"] for n, m in samples.items() if not m["is_observed"]}
        yield eval_provenance(partial(_step, run, {*samples}), **latent)


def _step(run: Callable, names: set[str], **own: Any) -> dict[str, Any]:
    """The distributions of the sites of a step, and what it carries on."""
    after, _, messages = run(own)
    return {"the next step": after, **{name: messages[name]["fn"] for name in names}}
