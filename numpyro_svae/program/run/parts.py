# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The names of the two parts of a site of which ``obs_mask`` makes a part known."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["REST", "is_part", "known_as_data", "label_of", "whole_name"]

REST, _KNOWN = "_unobserved", "_observed"


def is_part(name: str) -> bool:
    """Whether the name of observed data is as those have that ``obs_mask`` made."""
    return name.endswith(_KNOWN)


def label_of(name: str) -> str | None:
    """Name of the observed part of a site, of which ``obs_mask`` made this the rest."""
    whole = name.removesuffix(REST)
    return None if whole == name else whole + _KNOWN


def whole_name(names: Container[str], name: str) -> str:
    """Name that the program gave a site, of which ``obs_mask`` made this the rest.

    :param names: of all sites.
    :param name: of a latent site.
    """
    return name.removesuffix(REST) if label_of(name) in names else name


def known_as_data(name: str, discrete: bool) -> str:
    """What to write for states of a path that are known in part.

    :param name: of the site, without ``obs_mask``.
    :param discrete: whether its states are.
    """
    fn = "Categorical(jnp.eye(K)[z])" if discrete else "Normal(x, 0.01).to_event(1)"
    return (
        f"the site without it, and what is known of {'z' if discrete else 'x'}, its "
        f"value, as data: numpyro.sample('{name}_known', dist.{fn}.mask(known), "
        "obs=...), with `known` true at the steps that are"
    )
