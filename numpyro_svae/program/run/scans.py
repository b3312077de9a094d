# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds the chains that a program writes with ``numpyro.contrib.control_flow.scan``.

The state of such a chain is a latent site of the body of the scan whose value the body
carries to the next step, and its first state is a latent site from before the scan
whose value the carry starts with, or is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.run.ended import (
    check_counted,
    check_known_ends,
    has_mask,
)
from numpyro_svae.program.run.known_starts import certain, name_before
from numpyro_svae.program.run.names import Names
from numpyro_svae.program.run.recorder import Recorder, first_step, used_by_start
from numpyro_svae.program.run.scan_calls import ScanCall, run_body
from numpyro_svae.program.run.scan_steps import check_carry, num_states, steps_of
from numpyro_svae.program.run.wrappers import is_number

__all__ = ["Scan", "ScannedChain", "find_scans", "is_scanned"]


@dataclass(frozen=True)
class ScannedChain:
    """A chain that is spelled as a first site and the site of a scan.

    :param name: the site in the body, which names the chain.
    :param first: the site of the first state; what stands for it, if it is known.
    :param leaf: which leaf of the carry is the state before.
    :param discrete: whether the states are discrete.
    :param moved: whether a Gaussian state has another mean than a matrix times the
        state before, from inputs or an offset.
    :param linear: whether its mean is affine in the state before.
    :param known: whether the first state is no latent site.
    :param masked: whether a mask in the body says where sequences end.
    """

    name: str
    first: str
    leaf: int
    discrete: bool
    moved: bool = False
    linear: bool = True
    known: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Scan:
    """One scan of a program.

    :param chains: by the name of the site in its body.
    :param latent: the other latent sites of its body.
    :param numbers: those of all of these that are Gaussian numbers in the program, and
        are read as vectors of dimension one.
    """

    chains: dict[str, ScannedChain] = field(default_factory=dict)
    latent: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.chains or name in self.latent

    @property
    def carried(self) -> frozenset[int]:
        """The leaves of the carry that are numbers in the program."""
        return frozenset(c.leaf for c in self.chains.values() if c.name in self.numbers)

    def as_written(self, name: str, value: Array) -> Array:
        """Values of a latent site of the body as the program has them."""
        return value[..., 0] if name in self.numbers else value

    def split(self, name: str, path: Array, rank: int) -> dict[str, Array]:
        """The values of the program's own sites, time leading.

        :param name: a latent site of the body.
        :param path: its values in the one-site spelling, with time after the batch.
        :param rank: of the batch.
        """
        path = jnp.moveaxis(self.as_written(name, path), rank, 0)
        if name in self.chains and not self.chains[name].known:
            return {self.chains[name].first: path[0], name: path[1:]}
        return {name: path[1:] if self.chains else path}


def is_scanned(message: dict) -> bool:
    """Whether the message of a site is from the body of a scan."""
    return "_scan_current_index" in message["infer"]


def find_scans(
    program: Any,
    elsewhere: Any,
    values: dict[str, Any],
    default: Callable[[dict], Any],
) -> tuple[Scan, ...]:
    """The scans of a program, in the order in which it runs them.

    :param program: the program, with concrete arguments and its parameters fixed.
    :param elsewhere: the program at other arguments and parameters.
    :param values: random values of the global sites.
    :param default: gives values of the other latent sites.
    :raises ValueError: naming the site, if a latent site of a scan depends on the
        steps before it but not as a chain does.
    """

    def recorded(
        program: Any, default: Callable[[dict], Any] = default
    ) -> tuple[list[ScanCall], Recorder, dict[str, dict]]:
        recorder, names = Recorder(program.model), Names()
        messages = replace(program, model=recorder).trace(values, default)
        for message in messages.values():  # which NumPyro does not tell the body
            names.add(message)
        known = {**program.fixed, **values, **recorder.plates}
        given = known, program.key, names
        calls = [ScanCall.of(args, *given) for args, _ in recorder.calls]
        return calls, recorder, messages

    def at_state(k: int, message: dict) -> Any:
        value, count = default(message), num_states(message["fn"])
        return jnp.full_like(value, min(k, count - 1)) if count else value

    calls, recorder, messages = recorded(program)
    # Inputs may be zero here, and labels outside may pick what moves a path.
    labels = (m for m in recorder.sampled.values() if not is_scanned(m))
    most = max((num_states(m["fn"]) or 1 for m in labels), default=1)
    others = [recorded(elsewhere)[0]]
    others += [recorded(program, partial(at_state, k))[0] for k in range(1, most)]
    # Where a program branches, others may have other scans, which say nothing of these.
    others = [other for other in others if len(other) == len(calls)]
    sampled = recorder.sampled
    before = {n: m["value"] for n, m in sampled.items() if not is_scanned(m)}

    scans = []
    zipped = zip(recorder.calls, calls, *others, strict=True)
    for i, ((_, given), *own) in enumerate(zipped):
        scan, body = _read_scan(
            own,
            sampled,
            default,
            given,
            partial(used_by_start, program, before, default, i),
        )
        fns = {name: body[name]["fn"] for name in scan.chains}
        for name, chain in scan.chains.items():
            first = None if chain.known else messages[chain.first]
            check_counted(first, messages[name], fns[name], fns)
        masked = [name for name, chain in scan.chains.items() if chain.masked]
        if masked:
            latent = before | {name: m["value"] for name, m in body.items()}
            step = partial(first_step, program, default, i, {*before}, {*body})
            check_known_ends(masked, step, latent, own[0].init)
        scans.append(scan)
    return tuple(scans)


def _read_scan(
    calls: list[ScanCall],
    sampled: dict[str, dict],
    default: Callable[[dict], Any],
    given: frozenset[str],
    used: Callable[[], list[frozenset[str]]],
) -> tuple[Scan, dict[str, dict]]:
    """The chains of a scan, and the messages of latent sites of its first step.

    :param calls: the scan, and the same where arguments, parameters or labels are
        others.
    :param given: the names that handlers around it give values of.
    :param used: finds the latent sites that what it starts with depends on, by leaf.
    """
    call = calls[0]
    carry, _, messages = run_body(call, call.init, call.first_inputs(), {}, default)
    given &= frozenset(messages)
    if given:
        raise ValueError(
            f"Site '{min(given)}': found a handler that gives it values, as "
            "numpyro.handlers.substitute does, around the scan of its body. Accepted: "
            "of data, numpyro.handlers.condition, or data among what is scanned over, "
            "and obs= in the body."
        )
    body = {
        name: message
        for name, message in messages.items()
        if message["type"] == "sample" and not message["is_observed"]
    }
    chains: dict[str, ScannedChain] = {}
    for leaf, (start, end) in enumerate(zip(call.init, carry)):
        name = _named(body, end)
        if name is None:
            continue
        discrete = bool(jnp.issubdtype(jnp.result_type(end), jnp.integer))
        first = _named(sampled, start)
        if first is None and not used()[leaf]:
            first = name_before(name)
            chains[name] = ScannedChain(name, first, leaf, discrete, known=True)
            continue
        if first is None:
            raise ValueError(
                f"Site '{name}': the scan carries it from step to step, but does not "
                "start from a latent site, but from what is computed of some. "
                "Accepted: scan(step, first_state, ...) with first_state the value of "
                "a latent site of the same kind, or known."
            )
        _check_first(sampled[first], body[name])
        chains[name] = ScannedChain(name, first, leaf, discrete)
    check_carry(call, carry, body, chains)
    numbers = frozenset(name for name, m in body.items() if is_number(m["fn"]))
    scan = Scan(chains, frozenset(body) - frozenset(chains), numbers)
    return replace(scan, chains=_steps(calls, scan, default)), body


def _steps(
    calls: list[ScanCall], scan: Scan, default: Callable[[dict], Any]
) -> dict[str, ScannedChain]:
    """The chains of a scan, with what is to be known of their steps."""
    calls = [call.in_vectors(scan.numbers, scan.carried) for call in calls]
    call, states = calls[0], {c.leaf: name for name, c in scan.chains.items()}
    _, _, messages = run_body(call, call.init, call.first_inputs(), {}, default)
    body = {name: messages[name] for name in (*scan.chains, *scan.latent)}
    found = {}
    for name, chain in scan.chains.items():
        fn = body[name]["fn"]
        if chain.known:
            certain(name, fn, call.init[chain.leaf])
        own = steps_of(calls, name, states, body)
        found[name] = replace(chain, masked=has_mask(fn), **own)
    return found


def _check_first(first: dict, later: dict) -> None:
    """The first state is of numbers where the others are, and else of vectors.

    :raises ValueError: naming both sites.
    """
    if len(first["fn"].event_shape) == len(later["fn"].event_shape):
        return
    shapes = {m["name"]: m["fn"].event_shape for m in (first, later)}
    number = min(shapes, key=lambda name: len(shapes[name]))
    raise ValueError(
        f"Sites '{first['name']}', '{later['name']}': found events of shapes "
        f"{[*shapes.values()]}, of the first state of a scan and of the others. "
        f"Accepted: the same for both: .to_event(1) of the Normal of '{number}' makes "
        "vectors of its numbers."
    )


def _named(messages: dict[str, dict], value: Any) -> str | None:
    """The site whose value an object is."""
    return next((n for n, m in messages.items() if m["value"] is value), None)
