# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sites that are shown to the reader in another shape than the program has them in."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """

    numbers: frozenset[str] = frozenset()
    time_plates: dict[str, TimePlate] = field(default_factory=dict)
    together: dict[str, int] = field(default_factory=dict)
    mixtures: frozenset[str] = frozenset()

    @property
    def labels(self) -> dict[str, str]:
        """The labels of mixtures, which the program itself has not, with these."""
        return {component_name(name): name for name in self.mixtures}

    def message(self, message: dict) -> dict:
        """A message of a sample site as it is shown."""
        name = message["name"]
        if not message["is_observed"]:
            message = {**message, "fn": as_latent(message["fn"])}
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
