# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sites that are shown to the reader in another shape than the program has them in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from numpyro_svae.program.run.grids import Grid
from numpyro_svae.program.run.mixtures import component_name
from numpyro_svae.program.run.moved_gaussians import as_gaussian, as_latent
from numpyro_svae.program.run.steps import TimePlate, with_time_in_event
from numpyro_svae.program.run.wrappers import as_vectors, at_positions

__all__ = ["Shown"]


@dataclass(frozen=True)
class Shown:
    """Which sites are shown in another shape, and in which.

    :param numbers: the observed sites of numbers that have event dimensions; they are
        shown as vectors of dimension one.
    :param time_plates: the plate over steps of a chain, by observed site that has one;
        it is shown as an event dimension.
    :param together: how many batch dimensions of a latent site are those of one vector
        or matrix, by site; they are shown as event dimensions. If it is negative, as
        many event dimensions are those of components, and are shown as a batch.
    :param mixtures: the observed mixtures; they are shown with their labels.
    :param grids: the shapes and plates of latent numbers in the plates of their data,
        by site; they are shown as one batch of all of their entries.
    """

    numbers: frozenset[str] = frozenset()
    time_plates: dict[str, TimePlate] = field(default_factory=dict)
    together: dict[str, int] = field(default_factory=dict)
    mixtures: frozenset[str] = frozenset()
    grids: dict[str, Grid] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of mixtures, which the program itself has not, with these."""
        return {component_name(name): name for name in self.mixtures}

    def given(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values of sites as the program has them."""
        grids = self.grids
        return {n: grids[n].given(x) if n in grids else x for n, x in values.items()}

    def starts(self, given: dict[str, Any]) -> dict[str, Any]:
        """Starts of posteriors as they are read, from the shapes of the program."""
        grids = self.grids
        return {n: grids[n].start(x) if n in grids else x for n, x in given.items()}

    def posteriors(self, found: dict[str, Any]) -> dict[str, Any]:
        """Posteriors in the shapes that sites have in the program."""
        grids = self.grids
        return {n: grids[n].posterior(q) if n in grids else q for n, q in found.items()}

    def placed(self, site: Any) -> tuple[Any, int]:
        """A latent site in the plates of the program, and how many dimensions to the
        right of these are read as event."""
        if site.name in self.grids:
            return replace(site, frames=self.grids[site.name].frames), 0
        return site, self.together.get(site.name, 0)

    def plates(self, site: Any) -> tuple[tuple, int]:
        """These plates, and how many dimensions they are."""
        placed, entries = self.placed(site)
        return placed.frames, entries

    def message(self, message: dict) -> dict:
        """A message of a sample site as it is shown."""
        name = message["name"]
        if not message["is_observed"]:
            message = {**message, "fn": as_latent(message["fn"])}
            if name in self.grids:
                message = self.grids[name].message(message)
            if name in self.together:
                return _with_entries(message, self.together[name])
            return message
        message = {**message, "fn": as_gaussian(message["fn"])}
        if name in self.time_plates:
            return with_time_in_event(message, self.time_plates[name])
        if name in self.numbers:
            fn, value = as_vectors(message["fn"], message["value"])
            return {**message, "fn": fn, "value": value}
        return message


def _with_entries(message: dict, count: int) -> dict:
    """A message whose last batch dimensions are entries, which have no plates; or whose
    first event dimensions are components."""
    frames = [
        frame._replace(dim=frame.dim + count)
        for frame in message["cond_indep_stack"]
        if frame.dim < -count
    ]
    fn = message["fn"]
    fn = fn.to_event(count) if count > 0 else at_positions(fn, -count)
    return {**message, "fn": fn, "cond_indep_stack": frames}
