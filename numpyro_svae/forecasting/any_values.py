# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Values of the latent sites of a program that no inference has found."""

from __future__ import annotations

from typing import Any

from jax import Array, random
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import block

from numpyro_svae.diagnostics.fit import Fit
from numpyro_svae.inference.declare.sampling import sample_plain
from numpyro_svae.program.run.arrays import jax_array
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.probing import plain_run
from numpyro_svae.tracing import computed_now

__all__ = ["any_values"]


def any_values(fit: Fit) -> dict[str, Array]:
    """Values that latent sites may have: random ones, the same every time.

    They are for what holds at all values, as what a program does with its arguments.

    :param fit: a fit; its guide has read the model.
    :return: by site as draws are, with an axis of one draw.
    """
    structure, rng = fit.guide.structure, np.random.default_rng(0)
    given: dict[str, Any] = {}
    with computed_now():
        for prior in structure.priors.values():
            given |= prior.random_values(rng)
    spelled = fit.params, structure.scans, structure.shown
    program = Program(fit.model, fit.args, fit.kwargs, random.PRNGKey(0), *spelled)
    messages = plain_run(program, structure, given)
    for name, local in structure.locals.items():
        zero = messages[name]["value"]
        if local.discrete:
            drawn = rng.integers(0, local.size, zero.shape)
        else:
            drawn = rng.standard_normal(zero.shape)
        messages[name]["value"] = jax_array(drawn.astype(zero.dtype))
    with block():
        values = sample_plain(structure, messages)
    return {name: jnp.asarray(value)[None] for name, value in values.items()}
