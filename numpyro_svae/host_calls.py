# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Python functions that compiled programs call by name.

JAX does not keep a program with a callback in its cache on disk, as the address of a
function means nothing to another process. A *name* does: XLA's foreign function
interface looks it up in every process. Its handlers are plain C functions of one
structure, which ``ctypes`` can make and read; the structures below are those of
``xla/ffi/api/c_api.h``, whose major version is checked when a name is registered.
"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

__all__ = ["call_by_name", "can_call"]

_MAJOR, _METADATA, _EXECUTE, _INTERNAL = 0, 1, 3, 13
_TYPES = {
    1: "bool",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "uint8",
    7: "uint16",
    8: "uint32",
    9: "uint64",
    10: "float16",
    11: "float32",
    12: "float64",
    15: "complex64",
    16: "bfloat16",
    18: "complex128",
}
_Function = Callable[[str, list[np.ndarray]], None]


def _structure(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    """A structure; ``struct_size`` and the list of extensions are first in all."""
    head = [("struct_size", c_size_t), ("extension", c_void_p)]
    return type(name, (ctypes.Structure,), {"_fields_": head + list(fields)})


def _many(name: str) -> type[ctypes.Structure]:
    fields = ("size", c_int64), ("types", POINTER(c_int)), ("items", POINTER(c_void_p))
    return _structure(name, *fields)


_Version = _structure("Version", ("major", c_int), ("minor", c_int))
_Api = _structure(
    "Api", ("version", _Version), ("internal", c_void_p), ("error", c_void_p)
)
_Buffer = _structure(
    "Buffer",
    ("dtype", c_int),
    ("data", c_void_p),
    ("rank", c_int64),
    ("dims", POINTER(c_int64)),
)
_Attributes = _structure(
    "Attributes",
    ("size", c_int64),
    ("types", POINTER(c_int)),
    ("names", c_void_p),
    ("items", POINTER(c_void_p)),
)
_Frame = _structure(
    "Frame",
    ("api", POINTER(_Api)),
    ("context", c_void_p),
    ("stage", c_int),
    ("args", _many("Args")),
    ("results", _many("Results")),
    ("attributes", _Attributes),
)
_Failure = _structure("Failure", ("message", c_char_p), ("code", c_int))


class _Text(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("size", c_size_t))


class _Metadata(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("version", _Version),
        ("traits", c_uint32),
        ("state_type", c_int64),
    )


class _Extension(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("kind", c_int),
        ("next", c_void_p),
        ("metadata", POINTER(_Metadata)),
    )


_Handler = ctypes.CFUNCTYPE(c_void_p, POINTER(_Frame))


def _array(address: int) -> np.ndarray:
    """A copy of a buffer: its memory is the program's."""
    buffer = _Buffer.from_address(address)
    shape, dtype = tuple(buffer.dims[: buffer.rank]), np.dtype(_TYPES[buffer.dtype])
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    content = ctypes.string_at(buffer.data, size) if size else b""
    return np.frombuffer(content, dtype).reshape(shape)


def _handle(function: _Function, frame: Any) -> None:
    if frame.extension:
        extension = _Extension.from_address(frame.extension)
        if extension.kind == _METADATA:  # asked for when a name is registered
            found, wanted = frame.api.contents.version, extension.metadata.contents
            if found.major != _MAJOR:
                raise NotImplementedError(f"version {found.major} of XLA's interface")
            wanted.version.major, wanted.version.minor = found.major, found.minor
            wanted.traits = 0
            return
    if frame.stage == _EXECUTE:
        name = _Text.from_address(frame.attributes.items[0])
        arrays = [_array(address) for address in frame.args.items[: frame.args.size]]
        function(ctypes.string_at(name.data, name.size).decode(), arrays)
        result = _Buffer.from_address(frame.results.items[0])
        ctypes.memset(result.data, 0, np.dtype(np.float32).itemsize)


def _failure(api: Any, error: BaseException) -> int:
    create = ctypes.CFUNCTYPE(c_void_p, POINTER(_Failure))(api.error)
    text = f"{type(error).__name__}: {error}".encode()
    given = _Failure(ctypes.sizeof(_Failure), None, text, _INTERNAL)
    return create(ctypes.byref(given))


@cache
def can_call(target: str, function: _Function) -> bool:
    """Let compiled programs on a CPU call a function by a name; whether that works.

    :param target: the name. It means the same function in every process.
    :param function: takes the text and the arrays of a :func:`call_by_name`.
    """

    def handler(frame: Any) -> int | None:
        try:
            _handle(function, frame.contents)
        except BaseException as error:
            return _failure(frame.contents.api.contents, error)
        return None

    kept = _Handler(handler)
    _HANDLERS.append(kept)
    try:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(kept), platform="cpu")
    except Exception:
        return False
    return True


_HANDLERS: list[Any] = []  # C holds their addresses, and no reference


def call_by_name(target: str, text: str, arrays: list[Array]) -> Array:
    """Call a function on the host, where :func:`can_call` has named it.

    :param target: the name.
    :param text: a text for it, constant.
    :param arrays: arrays for it.
    :return: zero, float32, once it has returned.
    """
    result = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.ffi.ffi_call(target, result)(*arrays, text=text)
