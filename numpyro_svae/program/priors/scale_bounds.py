# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The bounds that priors of scales have."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.ops.provenance import eval_provenance

from numpyro_svae.families import LogBounds
from numpyro_svae.program.priors.priors import Reading
from numpyro_svae.program.run.origins import depends, union_of
from numpyro_svae.program.run.sites import Program, Site

__all__ = ["has_bounds", "log_bounds"]


def log_bounds(reading: Reading, site: Site, power: int) -> LogBounds | None:
    """The bounds of the log of a power of a scale.

    :param site: the site of the scale.
    :param power: the power.
    :return: None if it may be any positive number.
    :raises ValueError: naming the site, if the bounds are not known numbers of which
        the lower is smaller, and not negative.
    """
    if not has_bounds(site.fn):
        return None
    low, high = (np.asarray(x, float) for x in _ends(site.fn))
    ordered = np.all((low >= 0) & (low < high))
    if not ordered:
        found = f"bounds from {low} to {high}"
    elif _are_learnt(reading, site.name):
        found = "bounds that depend on latent sites"
    elif depends(reading.program, lambda program: _shown(program, site.name)):
        found = "bounds that depend on arguments of the model or on numpyro.param"
    else:
        with np.errstate(divide="ignore"):
            logs = [power * np.log(x) for x in (low, high)]
        return LogBounds(*(_numbers(x) for x in (logs if power > 0 else logs[::-1])))
    raise ValueError(
        f"Site '{site.name}' ({type(site.fn).__name__}): a scale with {found}. "
        "Accepted: bounds that are known numbers, of which the lower is not negative "
        "and smaller than the upper, as Uniform(0.0, 10.0); or a prior without bounds, "
        "as HalfNormal(scale), whose parameters may be learnt."
    )


def _are_learnt(reading: Reading, name: str) -> bool:
    """Whether bounds depend on latent sites."""
    values = {n: reading.sites[n].value for n in reading.needs[name]}

    def shown(**values: Any) -> list[Any]:
        return _shown(reading.program, name, values)

    return bool(values) and bool(union_of(eval_provenance(shown, **values)))


def has_bounds(fn: Any) -> bool:
    """Whether a distribution is not one of any positive number."""
    low, high = _ends(fn)
    return not (np.all(low == 0) and np.all(high == np.inf))


def _ends(fn: Any) -> tuple[Any, Any]:
    """The least and the largest value of the support of a distribution."""
    low = getattr(fn.support, "lower_bound", 0.0)
    high = getattr(fn.support, "upper_bound", jnp.inf)
    return low, high


def _shown(
    program: Program, name: str, values: dict[str, Any] | None = None
) -> list[Any]:
    return [jnp.asarray(end) for end in _ends(program.sites(values or {})[name].fn)]


def _numbers(x: np.ndarray) -> Any:
    """An array as nested tuples, which can be compared and hashed."""
    return tuple(map(_numbers, x)) if x.ndim else float(x)
