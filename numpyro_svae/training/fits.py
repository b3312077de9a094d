# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A fitted guide on disk, for another process."""

from __future__ import annotations

from functools import partial
import json
import os
from typing import Any

import jax
from jax import ShapeDtypeStruct, random
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import block
from numpyro.infer import SVI

from numpyro_svae.elbo import SVAE_ELBO
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.optim import svae_optimizer
from numpyro_svae.training.checkpoints import read_tree, write_tree

__all__ = ["load_fit", "save_fit"]


def save_fit(path: str | os.PathLike, guide: AutoSVAE, params: dict[str, Any]) -> None:
    """Write a fit: its parameters, and what its guide was read with.

    The file is one of NumPy's, ``.npz``, without pickled objects, and without data: of
    the arguments that the guide was read with it has the shapes.

    :param path: of the file.
    :param guide: the guide, which has read its model.
    :param params: its parameters, with the mutable state of networks if there is any:
        ``{**result.params, **result.state.mutable_state}``.
    :raises RuntimeError: if the guide has not read its model.
    :raises ValueError: if mutable state is missing, or an argument of the model is
        neither arrays nor plain values, naming it.
    """
    shapes = guide.shapes
    missing = sorted(guide.state_names - params.keys())
    if missing:
        raise ValueError(
            f"params: found no mutable state {missing}. Accepted: parameters with it, "
            "{**result.params, **result.state.mutable_state}."
        )
    described = {"names": sorted(params), "arguments": _encoded("arguments", shapes)}
    write_tree(path, params, fit=np.asarray(json.dumps(described)))


def load_fit(path: str | os.PathLike, guide: AutoSVAE) -> dict[str, Any]:
    """Read what :func:`save_fit` has written; the guide reads its model.

    There is no need for data or for ``SVI.init``: the model is run with the shapes of
    the arguments alone.

    :param path: of the file.
    :param guide: a guide of the same model and recognition function, which need not
        have read it.
    :return: the parameters, with the same bits.
    :raises ValueError: if the file is one of another program, naming what differs.
    """
    with np.load(path, allow_pickle=False) as file:
        if "fit" not in file:
            raise ValueError(
                f"{path}: found no fit. Accepted: a file of training.save_fit; "
                "training.load_state reads those of save_state and of checkpoints."
            )
        described = json.loads(str(file["fit"]))
    arguments = _decoded(described["arguments"])
    leaves, tree = jax.tree.flatten(arguments)
    svi = SVI(guide.model, guide, svae_optimizer(), SVAE_ELBO())

    def begun(arrays: dict[int, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        every = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(tree, every)
        state = svi.init(random.PRNGKey(0), *args, **kwargs)
        return svi.get_params(state), state.mutable_state or {}

    arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, ShapeDtypeStruct)}
    with block():
        params, state = jax.eval_shape(begun, arrays)
    kept = {n: x for n, x in state.items() if n in described["names"]}
    return read_tree(path, {**params, **kept})


def _encoded(place: str, tree: Any) -> Any:
    """A tree of shapes and plain values as JSON has them."""
    if isinstance(tree, ShapeDtypeStruct):
        return {"shape": tree.shape, "dtype": str(tree.dtype)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    if type(tree) in (tuple, list):
        parts = [_encoded(f"{place}[{i}]", part) for i, part in enumerate(tree)]
        return {type(tree).__name__: parts}
    if type(tree) is dict and all(isinstance(name, str) for name in tree):
        return {"dict": {n: _encoded(f"{place}[{n!r}]", x) for n, x in tree.items()}}
    raise ValueError(
        f"{place}: found {type(tree).__name__}, which a file cannot hold. Accepted: "
        "arrays, numbers, strings, and tuples, lists and dictionaries of these, as "
        "arguments of the model. Give the model the rest with functools.partial."
    )


def _decoded(part: dict[str, Any]) -> Any:
    """What :func:`_encoded` has encoded."""
    if "shape" in part:
        shape, name = tuple(part["shape"]), part["dtype"]
        if name.startswith("key<"):
            keys = partial(jnp.broadcast_to, shape=shape)
            return jax.eval_shape(lambda: keys(random.key(0)))
        return ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(name))
    if "value" in part:
        return part["value"]
    if "dict" in part:
        return {name: _decoded(x) for name, x in part["dict"].items()}
    kind = tuple if "tuple" in part else list
    return kind(map(_decoded, part[kind.__name__]))
