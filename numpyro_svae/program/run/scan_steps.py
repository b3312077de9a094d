# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the steps of a scan carry on, and how they move a Gaussian state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.ops.provenance import eval_provenance

from numpyro_svae.program.run.classes import spelling_of, tril_of
from numpyro_svae.program.run.kinds import kind_of
from numpyro_svae.program.run.parts import REST, known_as_data, label_of
from numpyro_svae.program.run.scan_calls import ScanCall, constants, run_body
from numpyro_svae.program.run.steps import log_probs_of
from numpyro_svae.program.run.wrappers import as_states, peel

if TYPE_CHECKING:
    from numpyro_svae.program.run.scans import ScannedChain

__all__ = ["check_carry", "num_states", "steps_of"]


def steps_of(
    calls: list[ScanCall],
    name: str,
    states: Mapping[int, str],
    body: dict[str, dict],
) -> dict[str, Any]:
    """Whether Gaussian steps of a chain are linear, and whether they have an offset.

    It is looked at in each state of the discrete sites, as only some may have a drift.
    Chains side by side, of discrete states too, go on by themselves.

    :param calls: the scan, and the same where arguments, parameters or labels are
        others, as inputs may be zero at first.
    :param name: of the site of the chain in the body.
    :param states: the leaves of the carry that are states, with their sites.
    :param body: messages of the latent sites of a step.
    :return: ``linear`` and ``moved``; empty of discrete states.
    :raises ValueError: naming the site, if its covariance depends on the state before
        it, or has no Cholesky factor; or if chains side by side depend on each other.
    """
    fn, like = body[name]["fn"], body[name]["value"]
    _check_events(name, fn)
    counts = {n: num_states(message["fn"]) for n, message in body.items()}
    count, most = counts[name], max(count or 1 for count in counts.values())
    if count and prod(fn.batch_shape) == 1:
        return {}
    moved, linear = False, True
    for i, call in enumerate(calls[:2] if count else calls):
        at = jax.jit(partial(_moments, call, name, states, body, counts))
        for k in range(most):
            zero, state, other = _values(np.random.default_rng(k), like, count)
            _check_apart(name, fn, partial(at, k), state, other, i + k)
            if count:
                continue
            (origin, spread), (ahead, wider) = at(k, zero), at(k, state)
            (behind, _), (between, _) = at(k, other), at(k, state / 4)
            if call is calls[0]:
                _check_spread(name, spread, wider)
            elif not jnp.all(jnp.isfinite(origin + ahead)):
                continue  # the others need not make sense
            moved = moved or bool(jnp.any(origin != 0))
            # A rectifier is linear on either side of zero.
            found = ahead + behind - 2 * origin
            linear = linear and _alike(found, 2 * (between - origin))
    return {} if count else {"moved": moved, "linear": linear}


def _check_events(name: str, fn: Any) -> None:
    """States are numbers or vectors, side by side in a batch.

    :raises ValueError: naming the site, if ``to_event`` has made events of more.
    """
    extra = peel(fn)[2] - (spelling_of(peel(fn)[0]) == "numbers")
    if extra:
        raise ValueError(
            f"Site '{name}': found events of shape {fn.event_shape} as the states of a "
            "scan, of which .to_event has added dimensions. Accepted: states side by "
            f"side in a batch, as those of .to_event({peel(fn)[2] - extra}), in plates "
            "or not; of the first state too."
        )


def _values(
    rng: np.random.Generator, like: Array, count: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Zero, random values of states, and others that differ in all of them."""
    zero = np.zeros(like.shape, like.dtype)
    if count:
        states = np.asarray(rng.integers(0, count, zero.shape), zero.dtype)
        return zero, states, (states + 1) % count
    states = np.asarray(rng.standard_normal(zero.shape), zero.dtype)
    return zero, states, -states / 2


def _check_apart(
    name: str,
    fn: Any,
    at: Callable,
    state: np.ndarray,
    other: np.ndarray,
    turn: int,
) -> None:
    """Chains side by side, in the batch of a site, do not depend on each other.

    Two of them differ in a binary digit of their numbers: the law of those that have it
    does not change with the states of those that do not.

    :param name: of the site.
    :param fn: its distribution.
    :param at: gives the law of its steps, of the states before.
    :param state: states before the steps.
    :param other: other states.
    :param turn: how often this was called before. All digits are looked at once, and
        then one at a time.
    :raises ValueError: naming the site, if they do.
    """
    shape, count = fn.batch_shape, prod(fn.batch_shape)
    numbers, event = np.arange(count), (1,) * (state.ndim - len(shape))

    def law(states: np.ndarray) -> np.ndarray:
        found = np.asarray(at(states)[0])
        return found.reshape(-1, count, found.shape[-1])

    before, digits = law(state), range((count - 1).bit_length())
    for digit in digits[turn % max(len(digits), 1) :][:1] if turn else digits:
        for have in (numbers >> digit & 1 == 1, numbers >> digit & 1 == 0):
            changed = np.where(have.reshape(shape + event), state, other)
            if not _same(law(changed)[:, have], before[:, have]):
                raise ValueError(
                    f"Site '{name}': in the scan it is a batch of shape {shape}, "
                    "whose steps depend on the states of other members. Accepted: "
                    f"{_of_whole(fn)}, of the first state too; or steps of "
                    "each member by itself."
                )


def _of_whole(fn: Any) -> str:
    """One site of what depends on each other, for a message."""
    if _gaussian(fn) is None:
        return "one Categorical, whose states are those of all members together"
    return "one vector of all members, as Normal(A @ x, s).to_event(1)"


def _same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether numbers are the same to rounding, where they make sense."""
    with np.errstate(invalid="ignore"):
        off = np.where(found == expected, 0.0, np.abs(found - expected))
    size = np.max(np.abs(expected), where=np.isfinite(expected), initial=1e-6)
    return not np.any(off > 1e-5 * size)


def num_states(fn: Any) -> int | None:
    """The number of states of a discrete distribution, if it has some."""
    base = peel(as_states(fn))[0]
    if isinstance(base, dist.CategoricalProbs | dist.CategoricalLogits):
        return log_probs_of(base).shape[-1]
    return getattr(base, "num_states", None)  # of a chain


def _moments(
    call: ScanCall,
    name: str,
    states: Mapping[int, str],
    body: dict[str, dict],
    counts: dict[str, int | None],
    k: Array,
    state: Array,
) -> tuple[Array, Array]:
    """Location and scale of a state at each step, where discrete sites have state k.

    Of a discrete one, its log probabilities, and the states before.
    """

    def chosen(site: str | None, like: Any) -> Any:
        if site == name:
            return state
        count = counts.get(str(site))
        return jnp.full_like(like, jnp.minimum(k, count - 1)) if count else like

    def one(carry: list[Any], x: Any) -> tuple[Array, Array]:
        carry = [chosen(states.get(i), part) for i, part in enumerate(carry)]
        _, _, messages = run_body(call, carry, x, given)
        fn = messages[name]["fn"]
        if counts[name]:
            return log_probs_of(fn), state
        loc, spread = _gaussian(fn) or (state, state)
        return jnp.broadcast_to(loc, jnp.shape(state)), spread

    given = {n: chosen(n, jnp.zeros_like(m["value"])) for n, m in body.items()}
    if len(states) < len(call.init):
        return jax.vmap(one)(constants(call, states, given), call.xs)
    each = partial(one, call.init)
    return jax.vmap(each)(call.xs) if jax.tree.leaves(call.xs) else each(call.xs)


def _check_spread(name: str, spread: Array, other: Array) -> None:
    if not jnp.all(jnp.isfinite(spread)):
        raise ValueError(
            f"Site '{name}': in the scan it has no Cholesky factor of its "
            "covariance, which is singular or not finite. Accepted of parts of a state "
            "that move without noise: Normal(loc, scale, validate_args=False).to_event("
            "1) with zeros in scale, MultivariateNormal(loc, scale_tril=L, "
            "validate_args=False) with zeros on the diagonal of L, or "
            "ns.LinearGaussianChain, which takes a singular transition_cov as it is."
        )
    if not _alike(spread, other):
        raise ValueError(
            f"Site '{name}': in the scan its covariance depends on the state "
            "before it. Accepted: MultivariateNormal(f(x, u), Q) with any function f "
            "of that state and of inputs, and a Q that depends on inputs at most."
        )


def _gaussian(fn: Any) -> tuple[Array, Array] | None:
    """Location and scale of a Gaussian."""
    fn, _, _ = peel(fn)
    vectors = spelling_of(fn) in ("numbers", "vector")
    return (fn.loc, tril_of(fn)) if vectors else None


def _alike(found: Array, expected: Array) -> bool:
    size = max(float(jnp.max(jnp.abs(expected))), 1e-6)
    return bool(jnp.max(jnp.abs(found - expected)) < 1e-3 * size)


def check_carry(
    call: ScanCall, carry: list[Any], body: dict, chains: Mapping[str, ScannedChain]
) -> None:
    """What is carried besides the states must not depend on anything latent.

    :param call: the scan.
    :param carry: leaves of the carry after its first step.
    :param body: messages of the latent sites of that.
    :param chains: by the name of the site in its body.
    :raises ValueError: naming a site that it depends on.
    """
    own = {chain.leaf for chain in chains.values()}
    others = [leaf for leaf in range(len(carry)) if leaf not in own]
    values = {name: message["value"] for name, message in body.items()}
    before = {f"before {c.name}": call.init[c.leaf] for c in chains.values()}

    def rest(**latent: Any) -> list[Any]:
        state = list(call.init)
        for chain in chains.values():
            state[chain.leaf] = latent[f"before {chain.name}"]
        given = {name: latent[name] for name in values}
        carried, _, _ = run_body(call, state, call.first_inputs(), given)
        return [carried[leaf] for leaf in others]

    used = frozenset[str]().union(*eval_provenance(rest, **values, **before))
    if used:
        name, advice = sorted(used & set(values) or body)[0], ""
        if label_of(name):
            kind = kind_of(peel(body[name]["fn"])[0])
            discrete = kind is not None and kind.discrete
            name = name.removesuffix(REST)
            raise ValueError(
                f"Site '{name}': found obs_mask on the states of a scan. Accepted: "
                f"{known_as_data(name, discrete)}."
            )
        if name in values and spelling_of(peel(body[name]["fn"])[0]):
            advice = (
                f" Of a state that '{name}' moves, as x = x + s * {name}, write the "
                "state itself: x = numpyro.sample('x', dist.Normal(x, s))."
            )
        earlier = [c for c in chains.values() if f"before {c.name}" in used]
        if used.isdisjoint(values) and earlier:
            name, advice = earlier[0].name, _of_earlier(earlier[0])
        raise ValueError(
            f"Site '{name}': the scan carries something that is computed from it. "
            "Accepted: a carry whose parts are the values of latent sites, as they "
            f"are, or do not depend on any latent site.{advice}"
        )


def _of_earlier(chain: ScannedChain) -> str:
    """What to write where states depend on those of two steps before, for a message."""
    if chain.discrete:
        return (
            " Of the state two steps before, write one site of pairs: "
            f"z = numpyro.sample('{chain.name}', dist.Categorical(rows[z])), with "
            "K * K states, zeros for pairs that do not go on, and z % K the newer one."
        )
    return (
        " Of the value two steps before, write one site of both: x = numpyro.sample("
        f"'{chain.name}', dist.Normal(A @ x, s).to_event(1)), with x[:D] the newer, "
        "rows of A that take the others from it, and a small s there, as 1e-3."
    )
