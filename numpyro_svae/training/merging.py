# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Merge moves: components that the bound would rather have as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax, random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from numpyro_svae.families import NaturalParameters
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.factors.global_priors import expected_prior
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.shared_programs import shared_jit

__all__ = ["Merges", "merge_components"]

_TRIED_PER_STATE = 2
_ROUNDING = 1e-6  # of a loss in single precision

Naturals = dict[str, NaturalParameters]
Axes = dict[str, tuple[int, ...]]


class Merges(NamedTuple):
    """What was merged.

    :param state: of SVI, with the merged posteriors; the same one if there are none.
    :param pairs: the merges in their order: which component got all, and which one was
        emptied.
    :param losses: before, and after each of them.
    """

    state: SVIState
    pairs: tuple[tuple[int, int], ...]
    losses: tuple[float, ...]


def merge_components(
    svi: SVI,
    state: SVIState,
    *args: Any,
    site: str | None = None,
    num_particles: int = 4,
    **kwargs: Any,
) -> Merges:
    r"""Merge states of a discrete site as long as that lowers the loss.

    Gradients move components, and leave two of them that share a cluster where they
    are. Here both become one, with all that was seen of either,
    :math:`\eta_i + \eta_j - \eta_0`, and the other one is emptied: it has its prior
    again. Whatever belongs to the states is merged: the parameters that they pick,
    their weights, rows and columns of transitions. Pairs that share data are tried
    first (Ueda et al., *SMEM algorithm for mixture models*, 2000), and a merge stays
    if the loss of ``svi`` at the merged parameters is lower. So the bound never falls,
    up to the noise of what a loss samples, which is the same in both.

    Merge early, while components still overlap, but not before the encoder says
    anything: no move splits what should have been two. Networks and the state of the
    optimiser stay as they are, so that training goes on from the state.

    :param svi: the inference; its guide is an :class:`~numpyro_svae.AutoSVAE`.
    :param state: of SVI, from :meth:`~numpyro.infer.svi.SVI.init` or the result of a
        run.
    :param args: arguments of the model and the guide; all data, or a large batch.
    :param site: the discrete site; needed if there are several.
    :param num_particles: number of samples in each loss that is compared.
    :param kwargs: keyword arguments of the model and the guide.
    :raises FloatingPointError: if the loss is NaN before any merge.
    :raises ValueError: naming the site, if there is no such discrete site, or if data
        pick its rows.

    **Example**

    .. code-block:: python

        state = svi.init(random.key(0), y)
        state = training.merge_components(svi, state, y).state
        result = svi.run(None, 2000, y, init_state=state)
    """
    guide = _guide_of(svi)
    params = {**svi.get_params(state), **(state.mutable_state or {})}

    def infer(naturals: Naturals) -> tuple[Naturals, Naturals, Array]:
        given = {**params, **_named(guide, naturals)}
        found, bound, local = guide._infer_all(given, args, kwargs, examine=False)
        structure = guide.structure
        moments = {n: p.moments(found[n]) for n, p in structure.priors.items()}
        priors = {
            name: expected_prior(structure, bound, name, moments, found[name])
            for name in structure.priors
        }
        return found, priors, local.marginals[_label(structure, site)].probs

    @shared_jit
    def loss_of(params: dict, keys: Array, args: tuple, kwargs: dict) -> Array:
        def sampled(key: Array) -> Array:
            return svi.loss.loss(key, params, svi.model, svi.guide, *args, **kwargs)

        return jnp.mean(lax.map(sampled, keys))

    def loss(naturals: Naturals) -> Array:
        keys = random.split(state.rng_key, num_particles)
        options = {**kwargs, **svi.static_kwargs}
        return loss_of({**params, **_named(guide, naturals)}, keys, args, options)

    naturals, priors, probs = infer({})
    axes = _axes_of_states(guide.structure, _label(guide.structure, site))
    pairs: list[tuple[int, int]] = []
    losses = [float(loss(naturals))]
    if np.isnan(losses[0]):
        raise FloatingPointError("merge_components: the loss is NaN before any merge.")
    for _ in range(probs.shape[-1]):
        merge = partial(_merge, priors=priors, axes=axes)
        naturals, accepted = _round(naturals, merge, loss, _overlapping(probs), losses)
        if not accepted:
            break
        pairs += accepted
        naturals, priors, probs = infer(naturals)
    if pairs:
        state = _with_params(state, _named(guide, naturals))
    return Merges(state, tuple(pairs), tuple(losses))


def _guide_of(svi: SVI) -> AutoSVAE:
    if not isinstance(svi.guide, AutoSVAE):
        raise TypeError(
            f"svi: found the guide {svi.guide!r}; accepted is an AutoSVAE. If that is "
            "within another guide, such as an annealed one, write SVI(model, guide, "
            "optim, loss) with the AutoSVAE itself; the state may be that of the other."
        )
    return svi.guide


def _label(structure: Structure, site: str | None) -> str:
    """The discrete site that is meant."""
    found = [name for name, local in structure.locals.items() if local.discrete]
    if site in found:
        return str(site)
    if site is None and len(found) == 1:
        return found[0]
    raise ValueError(
        f"site: found {site!r}; accepted is a latent discrete site, here "
        f"{' or '.join(map(repr, found)) or 'none'}."
    )


def _named(guide: AutoSVAE, naturals: Naturals) -> dict[str, NaturalParameters]:
    """Parameters of SVI, from natural parameters by block."""
    return {guide._natural_name(name): value for name, value in naturals.items()}


def _axes_of_states(structure: Structure, site: str) -> Axes:
    """By block, the axes of its leaves that are states of a site."""
    size, axes = structure.locals[site].size, dict[str, set[int]]()
    for factor in structure.factors:
        own = factor.site == site
        picked = site in factor.selectors or (own and factor.role == "transition")
        elsewhere = factor.source.placed or (picked and factor.source.gathered)
        if (own or picked) and elsewhere and factor.source.prior is not None:
            raise ValueError(
                f"site: '{site}' has parameters at '{factor.site}' that data pick, or "
                f"entries of {' and '.join(map(repr, structure.blocks_of(factor)))} "
                "one by one, whose states cannot be merged. Accepted: a site whose "
                "states are the members of a batch."
            )
        for name in structure.blocks_of(factor):
            members = picked and structure.priors[name].components == size
            found = {0} if members else set[int]()
            axes.setdefault(name, set()).update(found | ({-1} if own else set()))
    return {name: tuple(sorted(found)) for name, found in axes.items() if found}


def _overlapping(probs: Array) -> list[tuple[int, int]]:
    """Pairs of states to try: those that share most data, in proportion to what they
    have, where one datum more keeps the empty ones back."""
    flat = np.asarray(probs, np.float64).reshape(-1, probs.shape[-1])
    shared = flat.T @ flat
    size = np.sqrt(np.diag(shared) + 1)
    first, second = np.triu_indices(len(size), 1)
    overlap = (shared / size / size[:, None])[first, second]
    best = np.argsort(-overlap, kind="stable")[: _TRIED_PER_STATE * len(size)]
    return [(int(first[k]), int(second[k])) for k in best if overlap[k] > 0]


def _round(
    naturals: Naturals,
    merge: Callable[[Naturals, int, int], Naturals],
    loss: Callable[[Naturals], Array],
    candidates: list[tuple[int, int]],
    losses: list[float],
) -> tuple[Naturals, list[tuple[int, int]]]:
    """Each candidate alone, and then those that helped on top of each other.

    :param losses: to which that of each merge is added.
    """
    alone = [float(loss(merge(naturals, *pair))) for pair in candidates]
    accepted: list[tuple[int, int]] = []
    for value, pair in sorted(zip(alone, candidates)):
        goal = losses[-1] - _ROUNDING * max(1.0, abs(losses[-1]))
        if not value < goal or any({*pair} & {*other} for other in accepted):
            continue
        attempt = merge(naturals, *pair)
        value = float(loss(attempt))
        if value < goal:
            naturals, accepted = attempt, [*accepted, pair]
            losses.append(value)
    return naturals, accepted


@partial(jax.jit, static_argnames="axes")
def _merged(
    natural: NaturalParameters,
    prior: NaturalParameters,
    i: Array,
    j: Array,
    axes: tuple[int, ...],
) -> NaturalParameters:
    """State j of a block is added to state i, along each of some axes."""
    for axis in axes:
        to_front = partial(jnp.moveaxis, source=axis, destination=0)
        back = partial(jnp.moveaxis, source=0, destination=axis)
        value, empty = jax.tree.map(to_front, (natural, prior))
        one, other, base = (
            jax.tree.map(lambda leaf, k=k: leaf[k], tree)
            for tree, k in ((value, i), (value, j), (empty, j))
        )
        both = one + (other - base)
        value = jax.tree.map(
            lambda leaf, new, old: leaf.at[i].set(new).at[j].set(old), value, both, base
        )
        natural = jax.tree.map(back, value)
    return natural


def _merge(
    naturals: Naturals, i: int, j: int, priors: Naturals, axes: Axes
) -> Naturals:
    return naturals | {
        name: _merged(naturals[name], priors[name], i, j, found)
        for name, found in axes.items()
    }


def _with_params(state: SVIState, changed: dict[str, Any]) -> SVIState:
    """The state with some parameters in place of those that it has.

    NumPyro wraps an optax transformation so: ``(step, (parameters, its own state))``.
    """
    step, (params, inner) = state.optim_state
    return state._replace(optim_state=(step, ({**params, **changed}, inner)))
