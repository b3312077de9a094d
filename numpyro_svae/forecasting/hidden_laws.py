# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What draws of discrete sites hide: another law may have given the same draw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.forecasting.continuation import chain_of
from numpyro_svae.inference.local.kinds import DiscreteKind
from numpyro_svae.program.run.wrappers import peel

__all__ = ["hidden_laws"]


def hidden_laws(messages: dict[str, dict], names: Iterable[str]) -> list[Array]:
    """The laws of discrete sites: of a path, of its steps.

    A draw of a continuous site differs wherever its law does.

    :param messages: of a run of a model.
    :param names: sites of it.
    """
    laws: list[Any] = []
    for name in names:
        message = messages[name]
        if message["type"] != "sample" or not message["fn"].is_discrete:
            continue
        chain = chain_of(message["fn"])
        if chain is not None and isinstance(chain[0], DiscreteKind):
            kind, path = chain
            laws.append(kind.log_probs(path))
        else:
            laws += jax.tree.leaves(peel(message["fn"])[0])
    return [jnp.asarray(law) for law in laws]
