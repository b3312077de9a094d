# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which Gaussian sites are global blocks.

A Gaussian vector of a known prior is inferred exactly, jointly with the states around
it, wherever the program is linear in all of them. It is a global block, with a
posterior that is stored, where that cannot be, and where its observations alone depend
on it through noise that is learnt or data that are subsampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.program.priors.gaussian_prior import (
    GaussianPrior,
    rows_and_columns,
)
from numpyro_svae.program.priors.joint_prior import JointPrior
from numpyro_svae.program.priors.noise_priors import NoisePrior
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.read.find_supports import response_dims
from numpyro_svae.program.read.sums import of_shape
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.sites import (
    Site,
    is_gaussian,
    is_gaussian_vector,
    is_path,
    is_state,
)
from numpyro_svae.program.structure.probing import Prober

__all__ = ["Candidates"]


def _is_vector(fn: dist.Distribution) -> bool:
    return is_gaussian(fn) and not is_path(fn)


def _is_apart(site: Site, member: Site) -> bool:
    """Whether latent members of a population are subsampled, and it is not."""
    return not member.observed and not np.all(np.equal(member.scale, site.scale))


@dataclass(frozen=True)
class Candidates:
    """The Gaussian sites of a program that no other block holds.

    :param prober: runs the program; it knows of no blocks.
    :param needs: the latent sites that each site depends on.
    :param blocks: the blocks that were found, by site.
    """

    prober: Prober
    needs: dict[str, frozenset[str]]
    blocks: dict[str, Prior]

    def _site(self, name: str) -> Site:
        return self.prober.sites[name]

    def _dependents(self, name: str) -> list[Site]:
        return [self._site(n) for n, used in self.needs.items() if name in used]

    def _is_gaussian(self, name: str) -> bool:
        site = self._site(name)
        free = not site.observed and name not in self.blocks
        return free and _is_vector(site.fn)

    def _is_open(self, name: str) -> bool:
        """Whether a site is no state of data: its dependents have other plates, or it
        is a number, of which there are no states."""
        found = self._dependents(name)
        apart = found and not self._shares_plates(name, found)
        if not self._is_gaussian(name) or not (apart or self._is_number(name, found)):
            return False
        return not any(self._is_of_data(n, name) for n in self.needs[name])

    def _is_above(self, name: str, chosen: set[str]) -> bool:
        """Whether the prior of a site that is chosen depends on a site."""
        found = self._dependents(name)
        if not self._is_gaussian(name) or not any(s.name in chosen for s in found):
            return False
        others = [s for s in found if s.name not in chosen]
        return not self._shares_plates(name, others)

    def _shares_plates(self, name: str, others: list[Site]) -> bool:
        own = {frame.name for frame in self._site(name).frames}
        return bool(own & {frame.name for s in others for frame in s.frames})

    def _is_number(self, name: str, found: list[Site]) -> bool:
        """Whether a site is a number for each member of a whole plate, which only
        Gaussian sites and data depend on."""
        site, shown = self._site(name), self.prober.program.shown
        number = np.prod(site.outer.event_shape) == 1 and name in shown.together
        number = number or not site.outer.event_shape
        whole = number and bool(np.all(np.equal(site.scale, 1.0)))
        return whole and all(_is_vector(s.fn) or s.observed for s in found)

    def _is_of_data(self, name: str, of: str) -> bool:
        """Whether a site that depends on another is a state of data, as it is of a
        label, of a path, or of a mean and a covariance without a plate of its own."""
        fn = self._site(name).fn
        joint = isinstance(self.blocks.get(name), JointPrior)
        joint = joint and not self._site(of).frames
        return joint or is_state(fn) or is_path(fn)

    def read(self) -> dict[str, GaussianPrior]:
        """The Gaussian sites that are global blocks."""
        names = [n for n in self.prober.sites if self._is_open(n)]
        chosen = {name for name in names if self._cannot_be_local(name)}
        chosen |= {name for name in names if self._is_learnt_apart(name, chosen)}
        grown = True
        while grown:
            beside = {
                n
                for n in names
                if any(self.needs[s.name] & chosen for s in self._dependents(n))
            }
            above = {n for n in self.prober.sites if self._is_above(n, chosen)}
            more = beside | above
            grown, chosen = not more <= chosen, chosen | more
        names = [n for n in self.prober.sites if n in chosen]
        return {name: self._prior(name, chosen) for name in names}

    # the rule

    def _cannot_be_local(self, name: str) -> bool:
        """Whether no jointly Gaussian vector can have the site in it."""
        site, found = self._site(name), self._dependents(name)
        if not site.outer.event_shape or spelling_of(site.fn) == "matrix":
            return True
        if site.batch_shape and (site.frames or self._picks(found)):
            return True
        if self._is_crossed(site, found) or any(_is_apart(site, s) for s in found):
            return True
        paths = [s for s in found if is_path(s.fn) and not is_state(s.fn)]
        if any(not self._maps_to_start(name, s) for s in paths):
            return True
        if any(self._is_regressed(name, s) for s in found):
            return True
        if any(s.extra < site.extra for s in found):  # rows that are no positions
            return True
        return any(self._multiplies(name, s) for s in found)

    def _is_regressed(self, name: str, site: Site) -> bool:
        """Whether a site has the weights of a regression that is not conjugate: it has
        positions that they have not, and depends on nothing local; or it is a discrete
        site, and depends on a vector beside them."""
        own = self._site(name).batch_shape
        others = [n for n in self.needs[site.name] if n not in self.blocks]
        local = [self._site(n).fn for n in others if not self._is_open(n)]
        if site.observed:
            apart, positions = not is_gaussian(site.fn), site.batch_shape != own
            return apart and positions and all(map(is_state, local))
        apart, positions = is_state(site.fn), np.shape(site.value) != own
        return apart and positions and (not local or any(map(is_gaussian, local)))

    def _maps_to_start(self, name: str, path: Site) -> bool:
        """Whether a path depends on a vector by the mean of its first state alone, and
        that is another one than the vector times a number, which a block would be."""
        used = self.prober.dependencies([name])[path.name]
        value = self._site(name).value
        if {key for key, names in used.items() if names} != {"initial_loc"}:
            return False
        sites = self.prober.sites
        zero = {n: np.zeros_like(s.value) for n, s in sites.items() if not s.observed}
        drawn = np.random.default_rng(0).standard_normal(np.shape(value))
        origin, shown = (
            np.asarray(self.prober.read({**zero, name: x})[path.name]["initial_loc"])
            for x in (np.zeros_like(drawn), drawn)
        )
        moved = shown - origin
        if moved.shape[-1:] != drawn.shape[-1:]:
            return True
        ratio = moved / drawn
        return not same(ratio, ratio[..., :1])

    def _picks(self, found: list[Site]) -> list[Site]:
        """The discrete sites that some sites depend on."""
        used = frozenset().union(*(self.needs[s.name] for s in found))
        return [self._site(n) for n in used if is_state(self._site(n).fn)]

    def _is_crossed(self, site: Site, found: list[Site]) -> bool:
        """Whether Gaussian sites depend on a site and on labels in plates that it is
        not in, as ``Normal(mu[z], 1)`` with one ``mu`` of all data."""
        own = {frame.name for frame in site.frames}
        labels = self._picks([s for s in found if is_gaussian_vector(s)])
        inside = (s for s in labels if not is_path(s.fn))
        return any({frame.name for frame in s.frames} - own for s in inside)

    def _is_learnt_apart(self, name: str, chosen: set[str]) -> bool:
        """Whether only observations depend on it, with a noise or weights to learn."""
        site, found = self._site(name), self._dependents(name)
        if not all(s.observed and is_gaussian_vector(s) for s in found):
            return False
        used = frozenset().union(*(self.needs[s.name] for s in found))
        states = {n for n in used - chosen if self._is_gaussian(n)}
        if not all(self._is_open(n) for n in states):
            return False
        noise = any(isinstance(self.blocks.get(n), NoisePrior) for n in used)
        noise = noise or any(
            isinstance(self._site(n).fn, dist.InverseWishart) for n in used
        )
        subsampled = any(not np.all(np.equal(s.scale, site.scale)) for s in found)
        scaled = any(n in self.blocks for n in self.needs[name])
        return noise or scaled or subsampled

    def _multiplies(self, name: str, site: Site) -> bool:
        """Whether a site's location has a product with another Gaussian site in it."""
        others = [
            n
            for n in self.needs[site.name] - {name, *self.blocks}
            if is_gaussian(self._site(n).fn)
        ]
        rank = len(self._site(name).outer.event_shape)
        for other in others:
            beside = self._is_open(other)
            if beside and len(self._site(other).outer.event_shape) > rank:
                continue  # a matrix and a vector: the matrix is the weight
            if is_gaussian_vector(site) and self._bilinear(name, other, site):
                return True
        return False

    def _bilinear(self, first: str, second: str, site: Site) -> bool:
        latent = {n: s.value for n, s in self.prober.sites.items() if not s.observed}
        rng = np.random.default_rng(0)
        drawn = {
            n: rng.standard_normal(np.shape(latent[n])).astype(latent[n].dtype)
            for n in (first, second)
        }

        def loc(*names: str) -> np.ndarray:
            zero = {n: np.zeros_like(v) for n, v in drawn.items()}
            values = {**latent, **zero, **{n: drawn[n] for n in names}}
            return np.asarray(self.prober.read(values)[site.name]["loc"])

        both = loc(first, second) + loc()
        return not same(both, loc(first) + loc(second))

    def _beside(self, users: list[Site]) -> list[Site]:
        """The Gaussian sites that some sites depend on, in program order."""
        names = frozenset().union(*(self.needs[user.name] for user in users))
        sites = self.prober.sites
        return [sites[n] for n in sites if n in names and self._is_gaussian(n)]

    # the block

    def _prior(self, name: str, chosen: set[str]) -> GaussianPrior:
        site, found = self._site(name), self._dependents(name)
        event = tuple(site.outer.event_shape)
        seen = [s for s in found if s.name not in chosen]
        dims = frozenset().union(*(response_dims(self.prober, s, name) for s in seen))
        transposed = len(event) == 2 and self._is_transposed(name, dims)
        shape = rows_and_columns(event[::-1] if transposed else event, dims)
        if len(site.batch_shape) > 1 or shape is None:
            raise of_shape(site, dims, self._beside(seen))
        dim, columns = shape
        rows = (len(event) == 2 and not transposed) or dim == 1
        spelling = spelling_of(site.fn)
        apart = spelling == "numbers" or (spelling == "vector" and rows)
        diagonal = all(spelling_of(s.fn) == "numbers" for s in found)
        diagonal = diagonal and len(seen) == len(found)  # a population may mix rows
        by_row = apart and (diagonal or dim == 1)
        sizes = event, dim, columns
        return GaussianPrior(
            name, (name,), site.batch_shape, *sizes, by_row, transposed
        )

    def _is_transposed(self, name: str, dims: frozenset[int]) -> bool:
        """Whether a matrix W stands in a program as ``u @ W``."""
        rows, columns = self._site(name).outer.event_shape
        if rows != columns or not dims <= {rows}:
            return dims <= {columns} and not dims <= {rows}
        return any(self._row_moves_all(name, site) for site in self._dependents(name))

    def _row_moves_all(self, name: str, site: Site) -> bool:
        """Whether the first row of a matrix moves more than the first entry."""
        if not is_gaussian_vector(site):
            return False
        rng = np.random.default_rng(0)
        values = {n: s.value for n, s in self.prober.sites.items() if not s.observed}
        for n in self.needs[site.name]:
            if jnp.issubdtype(values[n].dtype, jnp.floating) and self._is_gaussian(n):
                values[n] = jnp.asarray(rng.standard_normal(np.shape(values[n])))
        zero = np.zeros(np.shape(values[name]))
        row = zero.copy()
        row[..., 0, :] = rng.standard_normal(row.shape[-1:])
        found = [
            np.asarray(self.prober.read({**values, name: value})[site.name]["loc"])
            for value in (zero, row)
        ]
        return not same(found[0][..., 1:], found[1][..., 1:])
