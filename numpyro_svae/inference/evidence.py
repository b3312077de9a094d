# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The factors of a bound program at the current expectations of the globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.families import ExpectedRegression
from numpyro_svae.inference import messages
from numpyro_svae.inference.positions import (
    clean,
    lift,
    per_entry,
    reduce_to,
    sum_to,
    weigh,
)
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.binding import Bound
from numpyro_svae.program.factors import (
    CategoricalFactor,
    ChainFactor,
    Factor,
    GaussianFactor,
    Structure,
    TableFactor,
)
from numpyro_svae.program.sites import Site

__all__ = ["ChainPrior", "Evidence"]


@dataclass(frozen=True)
class ChainPrior:
    """Expected log density of a chain: a chain, a left-over potential, a constant."""

    chain: LinearGaussianChain
    leftover: GaussianPotential | None
    offset: Array


@dataclass(frozen=True)
class Evidence:
    """Messages of the factors of a program.

    :param structure: the wiring.
    :param bound: the data.
    :param moments: moments of the globals by block, as
        :func:`numpyro_svae.families.expected` reads them.
    """

    structure: Structure
    bound: Bound
    moments: dict[str, Any]

    @property
    def factors(self) -> list[Factor]:
        """The factors that count: those of latent sites and of data."""
        return [
            f
            for f in self.structure.factors
            if self.bound.active(f.site, self.structure)
        ]

    def site(self, name: str) -> Site:
        """The site with a given name."""
        return self.bound.sites[name]

    def observed(self, kind: type, **where: Any) -> list[Any]:
        """Observed factors of a kind, with attributes as given."""
        return [
            f
            for f in self.factors
            if isinstance(f, kind)
            and f.site not in self.structure.locals
            and all(getattr(f, key) == value for key, value in where.items())
        ]

    def own(self, name: str) -> Any:
        """The factor that is the prior of a local site."""
        return next(f for f in self.structure.factors if f.site == name)

    def regression(self, factor: GaussianFactor) -> ExpectedRegression:
        """Moments of (F, Sigma); states of a selector are the last batch axis."""
        bound = self.bound.regressions[factor.site]
        if bound.known is not None:
            return bound.known
        moments = self.moments[str(factor.prior)]
        if bound.members is None:
            return moments
        return jax.tree.map(lambda leaf: leaf[bound.members], moments)

    # messages from priors

    def log_prior(self, name: str) -> Array:
        """Expected log probabilities of a categorical site, ``(..., K)``."""
        factor: CategoricalFactor = self.own(name)
        if factor.prior is not None:
            return self.moments[factor.prior]
        return jnp.log(self.site(name).fn.probs)

    def gaussian_prior(self, name: str) -> messages.GaussianMessage:
        """Message from the prior of a Gaussian site; a selector's states come last."""
        factor: GaussianFactor = self.own(name)
        c = self.bound.regressions[name].regressor
        if factor.selector is not None:
            c = c[..., None, :]
        return messages.to_child(self.regression(factor), c)

    def chain_prior(self, name: str) -> ChainPrior:
        """Expected log density of a chain, as a proper chain and what is left."""
        factor: ChainFactor = self.own(name)
        fn: LinearGaussianChain = self.site(name).fn
        start = self.moments.get(str(factor.initial))
        step = self.moments.get(str(factor.transition))
        steps = fn.num_steps - 1
        offset = jnp.zeros(())
        leftover = None
        if start is not None:
            gap = messages.normalizer_gap(start) - 0.5 * start.excess[..., 0, 0]
            offset = offset + gap
        if step is not None:
            offset = offset + steps * messages.normalizer_gap(step)
            leftover, constant = _leftover(step, fn)
            offset = offset + constant
        if start is None and step is None:
            return ChainPrior(fn, None, offset)
        initial = (fn.initial_loc, fn.initial_cov)
        dynamics = (fn.transition_matrix, fn.transition_cov)
        chain = LinearGaussianChain(
            *(initial if start is None else (start.weight[..., 0], start.covariance)),
            *(dynamics if step is None else (step.weight, step.covariance)),
            inputs=fn.inputs,
            num_steps=fn.num_steps,
            validate_args=False,
        )
        return ChainPrior(chain, leftover, offset)

    # messages from observations

    def parent_message(
        self, factor: GaussianFactor, parent: str
    ) -> messages.ParentMessage:
        """Message of an observed factor to its parent, at the parent's positions."""
        site, local = self.site(factor.site), self.site(parent)
        v, c, parent_map = self._regression_data(factor)
        message = messages.to_parent(self.regression(factor), v, c, parent_map)
        states = 0 if factor.selector is None else 1

        def send(value: Array, event_dim: int) -> Array:
            value = weigh(value, site, local, states + event_dim)
            return reduce_to(value, site, local, states + event_dim)

        potential = message.potential
        return messages.ParentMessage(
            GaussianPotential(
                send(potential.info_vector, 1), send(potential.precision, 2)
            ),
            send(message.constant, 0),
        )

    def expected_log_prob(
        self, factor: GaussianFactor, parent: str, mean: Array, covariance: Array
    ) -> Array:
        """An observed factor averaged over its parent, at the positions of its site.

        :param mean: of the parent, ``(*positions, [K], D)``.
        :param covariance: of the parent, ``(*positions, [K], D, D)``.
        """
        site, local = self.site(factor.site), self.site(parent)
        v, c, parent_map = self._regression_data(factor)
        states = mean.ndim - len(local.positions) - 1
        if states and factor.selector is None:
            v, c = v[..., None, :], c[..., None, :]
        elif factor.selector is not None and not states:
            mean, covariance = mean[..., None, :], covariance[..., None, :, :]
            states = 1
        return messages.expected_log_density(
            self.regression(factor),
            v,
            c,
            parent_map,
            lift(mean, site, local, states + 1),
            lift(covariance, site, local, states + 2),
        )

    def _regression_data(self, factor: GaussianFactor) -> tuple[Array, Array, Any]:
        bound = self.bound.regressions[factor.site]
        v, c = clean(self.site(factor.site), bound.value), bound.regressor
        if factor.selector is not None:
            v, c = v[..., None, :], c[..., None, :]
        parent_map: Any = factor.parent_map
        if parent_map is None and factor.parent is not None:
            parent_map = jnp.eye(c.shape[-1], dtype=c.dtype)
        return v, c, parent_map

    def table(self, factor: GaussianFactor | TableFactor) -> Array:
        """Log density of an observed site by state of its selector, ``(..., K)``."""
        if isinstance(factor, TableFactor):
            return self.bound.tables[factor.site]
        v, c, _ = self._regression_data(factor)
        return messages.log_density(self.regression(factor), v, c)

    def table_message(self, factor: GaussianFactor | TableFactor, name: str) -> Array:
        """The same, summed to the positions of the selector."""
        site, local = self.site(factor.site), self.site(name)
        table = self.table(factor)
        if isinstance(factor, TableFactor):  # of the batch: summed and masked already
            return sum_to(table * (site.scale / local.scale), local.positions, 1)
        return reduce_to(weigh(table, site, local, 1), site, local, 1)

    # factors of globals and data alone

    def data_log_probs(self) -> dict[str, Array]:
        """Expected log probabilities of the sites with no latent local parent."""
        found: dict[str, Array] = {}
        for factor in self.factors:
            if factor.site in self.structure.locals:
                continue
            site = self.site(factor.site)
            if isinstance(factor, CategoricalFactor) and factor.prior is not None:
                found[site.name] = per_entry(self._observed_category(factor), site)
            elif isinstance(factor, ChainFactor):
                if factor.initial is not None or factor.transition is not None:
                    found[site.name] = self._observed_chain(factor)
            elif (
                isinstance(factor, GaussianFactor)
                and factor.parent is None
                and factor.selector is None
            ):
                v, c, _ = self._regression_data(factor)
                density = messages.log_density(self.regression(factor), v, c)
                found[site.name] = per_entry(density, site)
        return found

    def _observed_category(self, factor: CategoricalFactor) -> Array:
        value = self.site(factor.site).value
        return self.moments[str(factor.prior)][value]

    def _observed_chain(self, factor: ChainFactor) -> Array:
        site = self.site(factor.site)
        prior = self.chain_prior(factor.site)
        total = prior.chain.log_prob(site.value) + prior.offset
        if prior.leftover is not None:
            total = total + jnp.sum(prior.leftover(site.value), -1)
        return total


def _leftover(
    step: ExpectedRegression, fn: LinearGaussianChain
) -> tuple[GaussianPotential, Array]:
    """``-1/2 u' excess u`` of every step, as a potential on the states."""
    dim, steps = fn.event_shape[-1], fn.num_steps - 1
    last = jnp.arange(fn.num_steps) < steps
    excess = step.excess
    precision = jnp.where(last[:, None, None], excess[:dim, :dim], 0.0)
    if fn.inputs is None:
        info = jnp.zeros((fn.num_steps, dim), excess.dtype)
        return GaussianPotential(info, precision), jnp.zeros(())
    inputs = fn.inputs
    info = -inputs @ excess[dim:, :dim]
    info = jnp.concatenate([info, jnp.zeros_like(info[..., :1, :])], -2)
    if steps == 0:
        info = jnp.zeros((*inputs.shape[:-2], 1, dim), excess.dtype)
    constant = -0.5 * jnp.einsum(
        "...ti,ij,...tj->...", inputs, excess[dim:, dim:], inputs
    )
    precision = jnp.broadcast_to(precision, (*info.shape, dim))
    return GaussianPotential(info, precision), constant
