# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Smoothing in Gaussian chains by a compiled kernel, which is built when it is needed.

The shared object is kept in ``build/`` beside this file and built again where a source
is newer. It is compiled for this machine's processor, so it is not for others.
"""

from __future__ import annotations

import ctypes
from functools import cache
import os
from pathlib import Path
import shutil
import subprocess

import jax
import jax.numpy as jnp
import peers

HERE = Path(__file__).parent
LIBRARY = HERE / "build" / "chain.so"
TARGET = "numpyro_svae_smooth_chain"
FEW = 5  # chains that take less time one by one than as lanes


def compiler() -> str | None:
    """A C++ compiler: ``$CXX``, or what the system calls so."""
    names = os.environ.get("CXX"), "g++", "c++"
    return next((path for x in names if x and (path := shutil.which(x))), None)


@cache
def load() -> int:
    """Build the kernel, unless it is up to date, and register it with JAX.

    :return: how many chains it takes at once.
    """
    sources = [*HERE.glob("*.h"), *HERE.glob("*.cc")]
    newest = max(x.stat().st_mtime for x in sources)
    if not LIBRARY.exists() or LIBRARY.stat().st_mtime < newest:
        build()
    library = ctypes.CDLL(str(LIBRARY))
    handler = jax.ffi.pycapsule(library.SmoothChain)
    jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    return library.ChainLanes()


def build() -> None:
    """Compile the kernel."""
    program = compiler()
    if program is None:
        raise RuntimeError("no C++ compiler: install g++, or name one in $CXX")
    LIBRARY.parent.mkdir(exist_ok=True)
    flags = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"]
    headers = "-isystem", jax.ffi.include_dir()  # whose warnings are not ours
    source, out = str(HERE / "chain.cc"), str(LIBRARY)
    subprocess.run([program, *flags, *headers, source, "-o", out], check=True)


def smooth(mean, cov, matrix, noise, h, J):
    """Smoothed moments of ``x_0 ~ N(mean, cov)``, ``x_{t+1} ~ N(matrix x_t, noise)``.

    States have 2, 3, 4, 6 or 8 dimensions, and everything is float32.

    :param h: linear coefficients of the potentials, ``(B, T, D)``.
    :param J: diagonals of their precisions, ``(B, T, D)``.
    :return: means ``(B, T, D)``, covariances ``(B, T, D, D)``, log normalisers ``(B,)``
        and ``Cov(x_t, x_{t+1})``, ``(B, T - 1, D, D)``.
    """
    lanes = load()
    batch, steps, dim = h.shape
    as_lanes = batch > FEW
    if as_lanes:
        kept = -(-batch // lanes), steps, dim * (dim + 3) // 2, lanes
    else:
        kept = batch, steps, dim + 1, 4 if dim <= 4 else 8
    square = dim, dim
    shapes = h.shape, (*h.shape, dim), (batch, steps - 1, *square), (batch,), kept
    results = [jax.ShapeDtypeStruct(x, jnp.float32) for x in shapes]
    arguments = mean, cov, matrix, noise, h, J
    call = jax.ffi.ffi_call(TARGET, results)
    mean, cov, cross, log_normalizer, _ = call(*arguments, as_lanes=as_lanes)
    return mean, cov, log_normalizer, cross


def moments(matrix, loc, scale):
    """What ``our_moments`` of ``bench_gaussian_chain.py`` returns."""
    eye = jnp.eye(loc.shape[-1])
    precision = 1 / scale**2
    noise = peers.NOISE * eye
    return smooth(jnp.zeros(len(eye)), eye, matrix, noise, precision * loc, precision)
