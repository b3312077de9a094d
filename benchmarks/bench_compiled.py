# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a compiled kernel would bring to smoothing in a Gaussian chain, on a CPU.

The moments of ``bench_gaussian_chain.py``, with diagonal potentials, by the package, by
the prototype in ``ffi/`` and by dynamax; the prototype has one thread, so give the
others one as well. Writes ``results/compiled.json`` and its table, unless there is no
C++ compiler or the device is not a CPU.
"""

from __future__ import annotations

import sys

from bench_gaussian_chain import SIZES, our_moments, problem
from ffi import compiled
import jax
import peers
import timing

WAYS = {
    "numpyro_svae": our_moments,
    "compiled": compiled.moments,
    "dynamax": peers.dynamax_moments,
}


def main(sizes: list[tuple[int, int, int]]) -> None:
    table = []
    for size in sizes:
        args = problem(*size)
        ways = {name: (moments, args) for name, moments in WAYS.items()}
        found = timing.compare(f"moments {size}", ways)
        print(*found, sep="\n", flush=True)
        table += found
    timing.write("compiled", table)


if __name__ == "__main__":
    if jax.default_backend() != "cpu":
        print("skipped: the compiled kernel is for CPUs")
    elif compiled.compiler() is None:
        print("skipped: no C++ compiler; install g++, or name one in $CXX")
    else:
        main(SIZES[: int(sys.argv[1])] if len(sys.argv) > 1 else SIZES)
