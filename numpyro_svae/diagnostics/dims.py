# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Names of the dimensions of sites, and xarray data sets of their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpyro.distributions as dist

from numpyro_svae.distributions import (
    DirichletWithZeros,
    DiscreteMarkovChain,
    LinearGaussianChain,
    MatrixNormalInverseWishart,
    NonlinearGaussianChain,
    NormalInverseWishart,
)
from numpyro_svae.program.run.scans import is_scanned
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.factors import Structure

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PACKED", "Dims", "plates_of_states"]

# Parts that ``ns.sample`` records of a packed site, with the dimensions of their event.
PACKED: dict[type, dict[str, tuple[str, ...]]] = {
    NormalInverseWishart: {"loc": ("state",), "cov": ("state", "state_bis")},
    MatrixNormalInverseWishart: {
        "weight": ("state", "regressor"),
        "cov": ("state", "state_bis"),
    },
}
_EVENTS: dict[type, tuple[str, ...]] = {
    LinearGaussianChain: ("time", "state"),
    NonlinearGaussianChain: ("time", "state"),
    DiscreteMarkovChain: ("time",),
    dist.Dirichlet: ("category",),  # as ArviZ calls something else a component
    DirichletWithZeros: ("category",),
}


def plates_of_states(structure: Structure, messages: Mapping[str, dict]) -> dict:
    """The plate of what the states of discrete sites pick.

    :param structure: of the program.
    :param messages: the trace of the model.
    :return: the name of the plate, by discrete site and by prior of its probabilities.
    """
    found: dict[str, str] = {}
    for factor in structure.factors:
        blocks = (structure.priors[name] for name in structure.blocks_of(factor))
        frames = [f for b in blocks for f in messages[b.sites[0]]["cond_indep_stack"]]
        for selector in factor.selectors:
            size = structure.locals[selector].size
            for frame in frames:
                if frame.size == size:
                    found.setdefault(selector, frame.name)
    for factor in structure.factors:
        if factor.site in found:
            plate = found[factor.site]
            found = dict.fromkeys(structure.blocks_of(factor), plate) | found
    return found


class Dims:
    """Names of dimensions: of plates, of a site's ``event_dims``, or of its kind.

    A name stands for one size: where a second size would need it, the name of the
    variable is put in front. One that is also a variable's gets ``_dim`` added.

    The entries of probabilities have the name of the plate that their states pick from.

    :param messages: the trace of the model.
    :param states: these plates, by site; see :func:`plates_of_states`.
    """

    def __init__(self, messages: Mapping[str, dict], states: Mapping[str, str]) -> None:
        self.states = states
        self.sizes: dict[str, int] = {}
        self._taken = {n for n, m in messages.items() if m["type"] != "plate"}
        self._wanted: dict[str, dict[int, str]] = {}
        for name, message in messages.items():
            if message["type"] == "sample":
                self._read(name, message)
            elif message["type"] == "deterministic":
                self._read_deterministic(name, message)

    def _read(self, name: str, message: dict) -> None:
        fn, _, extra = peel(message["fn"])
        rank = message["fn"].event_dim
        frames = {f.dim: f.name for f in message["cond_indep_stack"]}
        for part, event in PACKED.get(type(fn), {}).items():
            shown = {dim - len(event): plate for dim, plate in frames.items()}
            shown |= {i - len(event): label for i, label in enumerate(event)}
            self._wanted[f"{name}_{part}"] = shown
        event = message["infer"].get("event_dims") or _EVENTS.get(type(fn), ())
        event = tuple(self.category(name) if x == "category" else x for x in event)
        shown = {dim - rank: plate for dim, plate in frames.items()}
        if is_scanned(message):
            shown[-np.ndim(message["value"])] = "time"
        if len(event) == rank or (event and not extra):
            shown |= {i - len(event): label for i, label in enumerate(event)}
        self._wanted[name] = shown

    def _read_deterministic(self, name: str, message: dict) -> None:
        """One whose value has no more dimensions than its plates, or is a label's."""
        frames, shape = message["cond_indep_stack"], np.shape(message["value"])
        if f"{name}_observed" in self._wanted:
            self._wanted[name] = self._wanted[f"{name}_observed"]
        elif frames and len(shape) == max(-frame.dim for frame in frames):
            named = {f.dim: f.name for f in frames if shape[f.dim] == f.size}
            self._wanted[name] = named

    def category(self, name: str) -> str:
        """The name of the dimension of the states of a site."""
        return self.states.get(name, "category")

    def of(self, name: str, shape: tuple[int, ...]) -> list[str]:
        """Names of the dimensions of a variable, the sample dimensions left out.

        :param name: name of the variable.
        :param shape: its shape.
        """
        wanted, rank = self._wanted.get(name, {}), len(shape)
        found: list[str] = []
        for axis, size in enumerate(shape):
            label = wanted.get(axis - rank, f"{name}_dim_{axis}")
            label = f"{label}_dim" if label in self._taken else label
            if label in found and self.sizes[label] == size:
                label = f"{label}_bis"
            if self.sizes.get(label, size) != size or label in found:
                label = f"{name}_{label}"
            self.sizes[label] = size
            found.append(label)
        return found

    def name(self, variable: str, labels: Sequence[str]) -> None:
        """Give a variable the names of its dimensions."""
        rank = len(labels)
        self._wanted[variable] = {i - rank: label for i, label in enumerate(labels)}

    def name_batches(self, messages: Mapping[str, dict]) -> None:
        """Give variables the dimensions of the batches of sites: their plates.

        :param messages: those of the sites, by variable.
        """
        for variable, message in messages.items():
            frames = message["cond_indep_stack"]
            self._wanted[variable] = {frame.dim: frame.name for frame in frames}

    def dataset(self, values: Mapping[str, Any], sample: bool) -> xr.Dataset:
        """A data set of arrays.

        :param values: arrays by name; with a leading dimension of draws if ``sample``.
        :param sample: whether they are draws; then there is one chain of them.
        """
        import xarray as xr

        lead = ["chain", "draw"] if sample else []
        variables, sizes = {}, dict[str, int]()
        for name, value in values.items():
            array = np.asarray(value)[None] if sample else np.asarray(value)
            dims = lead + self.of(name, array.shape[len(lead) :])
            variables[name] = (dims, array)
            sizes |= dict(zip(dims, array.shape, strict=True))
        coords = {dim: np.arange(size) for dim, size in sizes.items()}
        return xr.Dataset(variables, coords)
