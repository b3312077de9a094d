# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A weight of the divergence that changes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpyro
from numpyro.handlers import scale

__all__ = ["anneal_kl"]


def anneal_kl(
    guide: Callable, schedule: Callable[[Array], Any], name: str = "kl_annealing"
) -> Callable:
    r"""Weigh the divergences of a guide by a schedule while it is trained.

    Step s of SVI maximises :math:`E_q \log p(y \mid x, \theta) - \beta_s KL`. A weight
    that rises to one keeps a strong decoder from ignoring the latent sites before the
    encoder says anything of them (Bowman et al., *Generating sentences from a
    continuous space*, CoNLL 2016). It weighs global and local divergences alike, so
    the natural gradient of what only latent sites depend on is that of the full bound
    times :math:`\beta`. Observations count :math:`1 / \beta` times for the globals
    that they depend on directly: start at 0.1 or so rather than at zero there.

    The number of the step is mutable state of NumPyro's: it is in the state of SVI, so
    that nothing is traced again, and checkpoints and restarts have it. Whatever is not
    a step of SVI, such as :meth:`~numpyro.infer.svi.SVI.evaluate`, has the weight one.
    The loss must use divergences, as :class:`~numpyro_svae.SVAE_ELBO` does.

    :param guide: any guide; keep it for all but the training.
    :param schedule: an optax schedule, or any function from the number of the step to
        the weight.
    :param name: name of the mutable site of the number of the step.
    :return: the guide to give to SVI.

    **Example**

    .. code-block:: python

        rising = optax.linear_schedule(0.1, 1.0, 500)
        svi = SVI(model, anneal_kl(guide, rising), optimizer, ns.SVAE_ELBO())
    """

    def annealed(*args: Any, **kwargs: Any) -> Any:
        counter = numpyro.primitives.mutable(name, {"step": jnp.full((), -1)})
        step = counter["step"]
        counter["step"] = step + 1  # SVI.init ends with zero
        weight = jnp.where(step < 0, 1.0, schedule(jnp.maximum(step, 0)))
        with scale(scale=weight):
            return guide(*args, **kwargs)

    return annealed
