# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Whether a transition that is not linear is ``k(x, u) + F phi(x, u)``."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.bind.affine import View
from numpyro_svae.program.bind.gathered import gathered_members
from numpyro_svae.program.read.wiring import Wiring
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import GaussianFactor
from numpyro_svae.program.structure.features import Features, columns_of

__all__ = ["is_linear_in_weights"]

_STATES = 3  # random ones, at each step


def is_linear_in_weights(wiring: Wiring, site: Site, factor: GaussianFactor) -> bool:
    """Whether the means are those of a factor at random states and weights.

    The linear steps that a chain is shown as do not see all that a function may do.

    :param wiring: the program.
    :param site: the chain.
    :param factor: that of its steps.
    """
    prober = wiring.prober
    view = View.of(prober, site, factor)
    if not columns_of(view.holder):
        return True
    values, rng = prober.random_values(0), np.random.default_rng(0)
    *batch, length, size = site.value.shape
    states = rng.standard_normal((_STATES, *batch, length - 1, size))
    states = states.astype(site.value.dtype)
    weight = np.asarray(view.holder.pair(values)[0], states.dtype)
    if factor.source.gathered:
        weight = weight[np.asarray(gathered_members(view, factor))]

    def means(chain: Any) -> Array:
        return jax.vmap(chain.means)(states)

    @jax.jit
    def look(values: dict[str, Any]) -> tuple[Array, Array]:
        def run(chosen: dict[str, Any]) -> dict[str, dict]:
            return prober.program.trace({**values, **chosen})

        known, features = Features.of(run, view.holder, site.name).parts(means)
        expected = known + jnp.squeeze(weight @ features[..., None], -1)
        return means(run({})[site.name]["chain"]), expected

    return same(*jax.device_get(look(values)))
