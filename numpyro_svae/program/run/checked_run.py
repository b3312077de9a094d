# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The first run of a program, in which what handlers do to it is looked at."""

from __future__ import annotations

from collections.abc import Callable

from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.handlers import collapse
from numpyro.primitives import Messenger

from numpyro_svae.program.run.scan_calls import num_steps
from numpyro_svae.program.run.scans import is_scanned

__all__ = ["ChecksRun"]


class ChecksRun(Messenger):
    """Refuses scans without steps and branches, and latent sites that have values.

    A guide replays its own value of such a site, so that of the program would be lost.

    :param fn: the program.
    :raises ValueError: if ``numpyro.handlers.collapse`` is around the program: it puts
        names in the place of values, and lets no other handler see the sites.
    """

    def __init__(self, fn: Callable | None = None) -> None:
        inner = fn
        while isinstance(inner, Messenger):
            if isinstance(inner, collapse):
                raise ValueError(
                    "AutoSVAE: found numpyro.handlers.collapse around the model, which "
                    "hides its latent sites. Accepted: the model without it; what is "
                    "conjugate is inferred in closed form."
                )
            inner = inner.fn
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            num_steps(msg["args"])
        if msg["type"] == "control_flow" and msg["fn"] is cond_wrapper:
            raise ValueError(
                "The model: found numpyro.contrib.control_flow.cond, in which AutoSVAE "
                "sees no site. Accepted: for what an argument decides, `if` of Python, "
                "or the parameters of one site, as jnp.where(flag, a, b); for what a "
                "label z decides, mu[z] or jnp.where(z == 1, a, b)."
            )
        latent = msg["type"] == "sample" and not msg["is_observed"]
        if latent and msg["value"] is not None and not is_scanned(msg):
            raise ValueError(
                f"Site '{msg['name']}': latent, and the program gives it a value, as "
                "handlers.substitute, handlers.replay and contrib.funsor.enum do. "
                "Accepted: numpyro.handlers.condition, which makes it known, or no "
                "value; labels are summed over without a handler."
            )
