# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads and checks a program and its recognition function, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
import operator
from typing import Any

import jax
from jax import Array, random
from numpyro import validation_enabled
from numpyro.handlers import block, seed, trace

from numpyro_svae.families import NaturalParameters
from numpyro_svae.program.read.draws import check_draws
from numpyro_svae.program.read.latents import (
    check_scanned,
    easy_value,
    random_globals,
)
from numpyro_svae.program.read.padding import check_padding
from numpyro_svae.program.read.reader import read_structure
from numpyro_svae.program.read.time_plates import find_time_plates
from numpyro_svae.program.run.checked_run import ChecksRun
from numpyro_svae.program.run.ended import check_ends, ends_of_run
from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.indices import check_indices
from numpyro_svae.program.run.mutable_state import Given
from numpyro_svae.program.run.names import Names
from numpyro_svae.program.run.origins import at_others
from numpyro_svae.program.run.plates import Plates, shared_values
from numpyro_svae.program.run.scans import find_scans, is_scanned
from numpyro_svae.program.run.shown import Shown
from numpyro_svae.program.run.sites import Program, sample_sites
from numpyro_svae.program.structure.checks import (
    Potential,
    check_data,
    check_hyperparameters,
    check_labels,
    check_plates,
    check_potentials,
    check_shapes,
    stand_ins,
)
from numpyro_svae.program.structure.components import find_components, find_mixtures
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.grids import find_grids
from numpyro_svae.program.structure.masks import check_masks
from numpyro_svae.program.structure.numbers import find_numbers
from numpyro_svae.program.structure.probing import Prober, plain_run
from numpyro_svae.program.structure.scales import check_scales
from numpyro_svae.program.structure.together import find_together
from numpyro_svae.program.structure.zeros import check_zeros, with_zeros
from numpyro_svae.tracing import computed_now

__all__ = ["read_program", "recognise"]


def read_program(
    model: Callable,
    recognition: Callable | None,
    args: tuple,
    kwargs: dict[str, Any],
    refined: bool = False,
) -> tuple[Structure, dict[str, dict], frozenset[str], frozenset[str]]:
    """Read the wiring of a model, and check all that can be checked before inference.

    :param model: the NumPyro program.
    :param recognition: the recognition function.
    :param args: arguments of both, which may be traced.
    :param kwargs: keyword arguments of both.
    :param refined: whether what the recognition function says of vectors is refined.
    :return: the wiring, the trace of a run of the model, and the names of the mutable
        states and of the parameters of both.
    :raises ValueError: naming the site or the plate that is at fault.
    """
    # a distribution cannot say which site it is at
    with block(), Given() as given, validation_enabled(False):
        with computed_now():
            known_args, known_kwargs = stand_ins((args, kwargs))
            known = jax.tree.leaves((known_args, known_kwargs))
            concrete = all(map(operator.is_, jax.tree.leaves((args, kwargs)), known))
            program = Program(model, known_args, known_kwargs, random.PRNGKey(0))
            program, structure, messages, zeros = _read_program(
                program, recognition, refined, concrete
            )
            check_padding(program, structure, concrete)
        check_draws(program, structure)
    with block(), Given(), jax.ensure_compile_time_eval():
        check_zeros(partial(program.trace, {}, easy_value), zeros)
    kinds = "mutable", "param"
    own = {n: m["type"] for n, m in messages.items() if m["type"] in kinds}
    states = frozenset((*given.begun, *(n for n in own if own[n] == "mutable")))
    parameters = frozenset((*given.parameters, *(n for n in own if own[n] == "param")))
    return structure, messages, states, parameters


def _read_program(
    program: Program, recognition: Callable | None, refined: bool, concrete: bool
) -> tuple[Program, Structure, dict[str, dict], list[str]]:
    checked = replace(program, model=ChecksRun(program.model))
    messages = checked.trace({}, easy_value)
    program = replace(program, fixed=shared_values(messages))
    given = recognition, refined, concrete
    mixtures = find_mixtures(program, messages)
    if not mixtures:
        return _read_shown(program, messages, *given)
    labelled = replace(program, shown=Shown(mixtures=mixtures))
    try:
        return _read_shown(labelled, labelled.trace({}, easy_value), *given)
    except ValueError as error:  # it may be read as one density
        try:
            return _read_shown(program, messages, *given)
        except ValueError as plain:
            plain.add_note(f"With labels of mixtures as latent sites: {error}")
            raise plain from None


def _read_shown(
    program: Program,
    messages: dict[str, dict],
    recognition: Callable | None,
    refined: bool,
    concrete: bool,
) -> tuple[Program, Structure, dict[str, dict], list[str]]:
    args, kwargs = program.args, program.kwargs
    plainly = program.model, program.fixed, args, kwargs, messages
    program, messages = _show_scans(program, messages, concrete)
    program, messages = _show_steps(program, messages)
    potentials, plates = recognise(recognition, messages, args, kwargs, program.key)
    sites = sample_sites(messages)
    if not any(site.observed for site in sites.values()):
        raise ValueError(
            "AutoSVAE reads its model once, and found no observed site. Accepted: a "
            "first call (or SVI.init) with data; later calls may be without."
        )
    check_shapes(sites)
    check_data(sites)
    check_labels(sites)
    if concrete:
        check_indices(*plainly)
    structure = read_structure(program, sites, potentials, refined)
    check_masks(program, structure, sites)
    check_potentials(structure, sites, potentials)
    check_plates(messages, plates)
    check_scales(structure, sites, messages)
    naturals = _read_priors(program, structure)
    check_hyperparameters(structure.priors, naturals)
    return program, structure, messages, with_zeros(naturals)


def _show_scans(
    program: Program, messages: dict[str, dict], concrete: bool
) -> tuple[Program, dict[str, dict]]:
    """The program and a run of it with scans in the one-site spelling."""
    samples = [m for m in messages.values() if m["type"] == "sample"]
    scanned = frozenset(m["name"] for m in samples if is_scanned(m))
    if not scanned:
        return program, messages
    sites = sample_sites(messages)
    latent = (sites[name] for name in scanned if not sites[name].observed)
    check_scanned(latent, sites)
    values = random_globals(program, sites, scanned)
    given = program, at_others(program), values, easy_value
    program = replace(program, scans=find_scans(*given))
    messages = program.trace({}, easy_value)
    if concrete:
        check_ends(ends_of_run(messages))
    return program, messages


def _show_steps(
    program: Program, messages: dict[str, dict]
) -> tuple[Program, dict[str, dict]]:
    """The program and a run of it with steps of chains as event dimensions, and numbers
    at them as vectors of dimension one; and with entries of vectors in their place."""
    together = dict[str, int]()
    prober = Prober(program, sample_sites(messages), {}, {})
    shown = replace(program.shown, grids=find_grids(prober))
    if shown.grids:
        program = replace(program, shown=shown)
        messages = program.trace({}, easy_value)
        prober = Prober(program, sample_sites(messages), {}, {})
    while True:
        found = find_numbers(prober), find_time_plates(prober)
        if any(found):
            own = replace(shown, numbers=found[0], time_plates=found[1])
            program = replace(program, shown=replace(own, together=together))
            messages = program.trace({}, easy_value)
            prober = Prober(program, sample_sites(messages), {}, {})
        more = find_components(prober) or find_together(prober)
        more = {name: count for name, count in more.items() if name not in together}
        if not more:
            return program, messages
        together = together | more
        program = replace(program, shown=replace(shown, together=together))
        messages = program.trace({}, easy_value)
        prober = Prober(program, sample_sites(messages), {}, {})


def recognise(
    recognition: Callable | None,
    messages: dict[str, dict],
    args: tuple,
    kwargs: dict[str, Any],
    key: Array,
    names: Names | None = None,
) -> tuple[dict[str, Potential], dict[str, dict]]:
    """Run the recognition function in the plates of a run of the model.

    :param recognition: the function; without one, or without data, it returns none.
    :param messages: the trace of the run of the model.
    :param args: arguments of the function.
    :param kwargs: keyword arguments of the function.
    :param key: random key for what it draws.
    :param names: what names stand for already; those of the run, if not given.
    :return: potentials by site, and the messages of the plates that it opened.
    :raises ValueError: naming a latent site, if the function samples one.
    """
    seen = any(m["type"] == "sample" and m["is_observed"] for m in messages.values())
    if recognition is None or not seen:
        return {}, {}
    indices, names = Plates(messages).indices, names or Names(messages.values())
    with trace() as own, seed(rng_seed=key), Fixed(data=indices, names=names):
        potentials = recognition(*args, **kwargs)
    if not isinstance(potentials, Mapping):
        raise TypeError(
            f"The recognition function returned {type(potentials).__name__}. Accepted: "
            "a dictionary from latent sites to their GaussianPotential or "
            "CategoricalPotential."
        )
    _check_samples(own)
    rest = {n: f"{n}_unobserved" for n in potentials if f"{n}_observed" in messages}
    potentials = {rest.get(name, name): x for name, x in potentials.items()}
    return potentials, Plates(own).messages


def _check_samples(own: dict[str, dict]) -> None:
    """A recognition function draws nothing at sites.

    :param own: the messages of its run.
    """
    sites = (m for m in own.values() if m["type"] == "sample" and not m["is_observed"])
    for site in sites:
        raise ValueError(
            f"The recognition function samples '{site['name']}': its density would "
            "count in the bound, and there is none of it in the model. Accepted: "
            "parameters, modules, plates, and numpyro.prng_key() for what is random, "
            "as dropout; for a site that is hidden from AutoSVAE, a guide of its own "
            "in AutoGuideList."
        )


def _read_priors(
    program: Program, structure: Structure
) -> dict[str, NaturalParameters]:
    def read() -> dict[str, NaturalParameters]:
        sites = sample_sites(plain_run(program, structure))
        return {name: p.natural(sites) for name, p in structure.priors.items()}

    return jax.jit(read)()
