# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sequences that end within a scan, as a mask of the states in its body says.

The states of a chain count up to the end of a sequence, as with the ``lengths`` of the
one-site spelling. Any other mask would break the chain in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, NoReturn

from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.ops.provenance import eval_provenance
from numpyro.util import not_jax_tracer

from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.wrappers import Layer, peel

__all__ = [
    "Ends",
    "carried",
    "check_counted",
    "check_ends",
    "check_known_ends",
    "ends_of",
    "ends_of_run",
    "has_mask",
    "refuse_ends",
]


class Ends(NamedTuple):
    """Where the sequences of a chain end.

    :param lengths: number of states of each that count, the first one among them.
    :param holes: which sequences have states that count after one that does not.
    :param others: lengths by another chain of the same scan, if there is one.
    """

    lengths: Array
    holes: Array
    others: Array | None = None

    @classmethod
    def of(cls, counted: Array, others: Array | None) -> Ends:
        """Read them off the mask of the states after the first, time leading."""
        holes = jnp.any(counted[1:] & ~counted[:-1], 0)
        return cls(1 + jnp.sum(counted, 0), holes, others)

    @property
    def wrong(self) -> dict[str, Array]:
        """Which sequences cannot be read, by what is wrong with them."""
        if self.others is None:
            return {"holes": self.holes}
        return {"holes": self.holes, "apart": self.lengths != self.others}


def has_mask(fn: Any) -> bool:
    """Whether the states of a step have a mask, which is not merely ``True``."""
    return _count_masks(fn) > 0


def _count_masks(fn: Any) -> int:
    count, layer = 0, Layer.of(fn)
    while layer is not None:
        mask: Any = layer.mask  # of NumPy, if it is a boolean of Python
        count += mask is not None and not (isinstance(mask, np.ndarray) and mask.all())
        layer = Layer.of(layer.inner)
    return count


def ends_of(
    states: Mapping[str, Any], each: Callable[[Callable], dict[str, Array]]
) -> dict[str, Ends]:
    """Where the sequences of the chains of a scan end, of those that have a mask.

    :param states: distributions of the states of one step, by chain.
    :param each: reads something of every step, by a function of the next carry, the
        output and the trace of one.
    """
    masked = [name for name, fn in states.items() if has_mask(fn)]
    if not masked:
        return {}

    def read(carry: Any, y: Any, messages: dict[str, dict]) -> dict[str, Array]:
        return {name: _mask_of(messages[name]["fn"]) for name in masked}

    found, ends = each(read), dict[str, Ends]()
    for name in masked:
        others = ends[masked[0]].lengths if ends else None
        ends[name] = Ends.of(found[name], others)
    return ends


def ends_of_run(messages: Mapping[str, dict]) -> dict[str, Ends]:
    """Where the sequences of scans end in a run in the one-site spelling, by chain."""
    found = {n: m["infer"].get("ends") for n, m in messages.items() if "infer" in m}
    return {name: ends for name, ends in found.items() if ends is not None}


def _mask_of(fn: Any) -> Array:
    """The mask of the states of one step, with the batch of their distribution."""
    mask: Any = peel(fn)[1]
    if _entries(fn):
        mask = mask[..., 0]  # which is that of whole vectors
    return jnp.broadcast_to(mask, fn.batch_shape)


def _entries(fn: Any) -> int:
    """Of how many entries of a vector the mask of a state is; zero for whole states."""
    base, mask, extra = peel(fn)
    if mask is None or spelling_of(base) != "numbers" or not extra:
        return 0
    return mask.shape[-1] if mask.ndim else 0


def check_counted(
    first: dict | None, later: dict, body: Any, beside: Mapping[str, Any]
) -> None:
    """The states of a chain count alike, up to an end that the body of the scan says.

    :param first: the message of the first state, with what handlers around a scan say;
        None if that is known.
    :param later: that of the other states.
    :param body: their distribution as the body has it.
    :param beside: the distributions of the states of the other chains of the scan.
    :raises ValueError: naming the site, if a mask cannot be one of ends, or scales
        differ.
    """
    name = later["name"]
    if first is not None and _count_masks(first["fn"]):
        raise _refused(first["name"], "on the first state of a scan")
    if _count_masks(later["fn"]) > _count_masks(body):
        raise _refused(name, "around a scan, on the states of its chain")
    if _entries(body) > 1:
        raise _refused(name, "on some entries of the states of a scan")
    for other, fn in beside.items():
        masked = has_mask(body), has_mask(fn)
        if any(masked) and not (all(masked) and fn.batch_shape == body.batch_shape):
            raise ValueError(
                f"Sites '{other}', '{name}': found states of one scan with masks that "
                "differ. Accepted: one mask around the states of all chains of a scan, "
                "as numpyro.handlers.mask(mask=t < lengths), or a scan for each chain."
            )
    _check_scales(first or later, later)


def _check_scales(*states: dict) -> None:
    first, later = (1.0 if m["scale"] is None else m["scale"] for m in states)
    known = all(map(not_jax_tracer, (first, later)))
    if known and not np.allclose(first, later):
        name, other = (message["name"] for message in states)
        raise ValueError(
            f"Sites '{name}', '{other}': found scales {first} and {later} of the "
            "states of one chain, by numpyro.handlers.scale or subsampling. Accepted: "
            "the same scale, as by a handler around the first state and the scan."
        )


def _refused(name: str, what: str) -> ValueError:
    return ValueError(
        f"Site '{name}': found a mask {what}, by numpyro.handlers.mask or .mask(...). "
        "Accepted: in the body of the scan, a mask of whole states that is true up to "
        "an end of each sequence and false after it, as numpyro.handlers.mask(mask=t < "
        "lengths) around the states and what is seen of them; other masks on observed "
        "sites and on potentials; masks of whole paths, on ns.DiscreteMarkovChain and "
        "the like."
    )


def check_ends(ends: Mapping[str, Ends]) -> None:
    """Masks of states must leave no holes, as far as their values are known.

    :param ends: by chain.
    :raises ValueError: naming the site and the first sequence with one.
    """
    for name, found in ends.items():
        for what, where in found.wrong.items():
            if not_jax_tracer(where) and np.any(where):
                refuse_ends(name, what, np.asarray(where))


def check_known_ends(
    masked: Collection[str],
    step: Callable[..., tuple[dict[str, Any], list[Any], list[Any]]],
    values: Mapping[str, Any],
    carry: list[Any],
) -> None:
    """Nothing latent says where sequences end, be it by what the scan carries.

    :param masked: the sites of the states that have a mask.
    :param step: gives the distributions of a step, the carry after it and the one that
        the scan starts with, of latent sites and of a carry, by :func:`carried`.
    :param values: of the latent sites.
    :param carry: leaves of the carry that the scan starts with.
    :raises ValueError: naming the site, and what its mask depends on.
    """

    def read(**own: Any) -> tuple[dict[str, Array], list[Any], list[Any]]:
        fns, after, start = step(**own)
        return {name: _mask_of(fns[name]) for name in masked}, after, start

    leaves = {carried(i): jnp.asarray(leaf) for i, leaf in enumerate(carry)}
    masks, after, start = eval_provenance(read, **values, **leaves)
    for name in masked:
        used, new = frozenset[str](), frozenset(masks[name])
        while new - used:
            used = used | new
            own = [i for i in range(len(carry)) if carried(i) in used]
            new = used.union(*(after[i] | start[i] for i in own))
        latent = sorted(used - leaves.keys(), key=lambda n: (n not in masked, n))
        if latent:
            raise ValueError(
                f"Site '{name}': found a mask on the states of a scan that depends on "
                f"the latent site '{latent[0]}'. Accepted: ends of the sequences that "
                "arguments say, as numpyro.handlers.mask(mask=t < lengths). Of a state "
                "after which nothing comes, write a transition that stays there."
            )


def carried(leaf: int) -> str:
    """What stands for a leaf of a carry among the names of latent sites."""
    return f"carried {leaf}"


def refuse_ends(name: str, what: str, where: np.ndarray) -> NoReturn:
    """Say which sequences have states that are not masked from an end on.

    :param name: of the chain.
    :param what: what is wrong with them, as :attr:`Ends.wrong` has it.
    :param where: with which of them.
    :raises ValueError: always.
    """
    at = np.argwhere(where)
    first = tuple(at[0].tolist())
    place = f" of sequence {first}, the first of {len(at)} such" if first else ""
    found = {
        "holes": "that count again after one that does not",
        "apart": "that end elsewhere than those of another chain of the same scan",
    }
    raise ValueError(
        f"Site '{name}': found a mask on the states of a scan with states"
        f"{place}, {found[what]}. Accepted: a mask that is true up to an end of each "
        "sequence and false after it, as numpyro.handlers.mask(mask=t < lengths), for "
        "all states of a scan. Steps that were not observed, but are there, have a "
        "mask on the observed sites alone."
    )
