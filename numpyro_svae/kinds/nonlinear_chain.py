# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A path whose steps are any function of the state before: state-space models."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
from jax import Array, random
import numpyro.distributions as dist

from numpyro_svae.distributions import NonlinearGaussianChain
from numpyro_svae.kinds.gaussian_chain import GaussianChainKind
from numpyro_svae.program.read.gaussians import read_chain
from numpyro_svae.program.read.transitions import is_linear_in_weights
from numpyro_svae.program.read.wiring import Wiring, listed, not_conjugate
from numpyro_svae.program.run.linearised import LinearisedChain
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Factor

__all__ = ["NonlinearChainKind"]

_ACCEPTED = (
    "a mean k(x, u) + F @ phi(x, u), with functions k and phi (networks too) of the "
    "state, of inputs, and of values that are known or numpyro.param, and a weight F "
    "and a noise Q of one global block or of independent ones; weights inside of k or "
    "phi, as those of the layers of a network, are numpyro.param"
)


class NonlinearChainKind(GaussianChainKind):
    """``NonlinearGaussianChain``, as one site or spelled by a ``scan``.

    Where it is latent it is shown as a linear chain, and inferred as one: the steps are
    linearised where the posterior is, and what is left over of them is a potential.
    """

    name = "nonlinear chain"
    distributions = (LinearisedChain, NonlinearGaussianChain)
    linearised = True

    def parameters(self, site: Site) -> dict[str, Any]:
        if isinstance(site.fn, LinearisedChain):
            return super().parameters(site)
        fn: Any = site.fn
        names = "initial_loc", "initial_cov", "transition_cov", "inputs"
        others = {"transition": jax.tree.leaves((fn.transition, fn.scanned))}
        return {name: getattr(fn, name) for name in names} | others

    def read(self, wiring: Wiring, site: Site) -> list[Factor]:
        found: list[Any] = read_chain(wiring, site, _ACCEPTED)
        step = next(factor for factor in found if factor.role == "transition")
        self._check(wiring, site, step)
        return found

    def read_observed(
        self, wiring: Wiring, site: Site, blocks: Collection[str]
    ) -> list[Factor]:
        if blocks:
            raise ValueError(
                f"Site '{site.name}' (NonlinearGaussianChain): observed, and it "
                f"depends on latent {listed(blocks)}. Accepted: parameters that are "
                "known or numpyro.param; a latent path that is seen through noise; or "
                "weights F of features of what is observed as a regression, "
                "numpyro.sample('y', MultivariateNormal(phi(y[:, :-1]) @ F.T, "
                "Q).to_event(1), obs=y[:, 1:])."
            )
        return []

    def _check(self, wiring: Wiring, site: Site, step: Any) -> None:
        """The transition is linear in what is learnt, and all of its noise is there."""
        if not is_linear_in_weights(wiring, site, step):
            used = wiring.needs[site.name]["transition_matrix"]
            raise not_conjugate(site, "its steps", used, _ACCEPTED)
        if step.selectors:
            raise ValueError(
                f"Site '{site.name}' (NonlinearGaussianChain): its steps depend on "
                f"latent {listed(step.selectors)}. Accepted: a transition and a "
                "transition_cov that no discrete site picks; linear steps may switch."
            )
        if step.support is not None:
            raise ValueError(
                f"Site '{site.name}' (NonlinearGaussianChain): found a singular "
                "transition_cov. Accepted: one that is positive definite, such as with "
                "1e-4 times the variance of a state where it moves without noise."
            )

    def draw_on(self, fn: Any, state: Array, key: Array) -> Array:
        shape = (*state.shape[:-1], fn.num_steps - 1, state.shape[-1])
        return fn.drive(state, random.normal(key, shape, state.dtype), whole=True)

    def log_steps(self, fn: Any, before: Array, after: Array) -> Array:
        steps = dist.MultivariateNormal(fn.means(before), fn.transition_cov)
        return steps.log_prob(after)

    def begin_with(self, fn: Any, belief: Any) -> dist.Distribution:
        if isinstance(fn, LinearisedChain):
            return super().begin_with(fn, belief)
        raise self._no_path("begin with a belief where its path is observed")
