# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Time several ways to compute the same thing, in turn and in one process.

Interleaving makes ratios fair on a machine that others use too. Each way is compiled
once, apart from running it; what it returns is compared with the first way's result.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import platform
import time
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"
REPEATS = 12
COLUMNS = {
    "work": "{}",
    "way": "{}",
    "median_ms": "{:.2f}",
    "min_ms": "{:.2f}",
    "ratio": "{:.2g}",
    "compile_s": "{:.1f}",
    "temporaries_KiB": "{:.0f}",
    "difference": "{:.0e}",
}


def compare(work: str, ways: dict[str, tuple[Callable, tuple]]) -> list[dict]:
    """A row for each way to do some work.

    :param work: its description.
    :param ways: a function and its arguments, by name; all return what the first one
        does, or the first entries of it. Ratios are of minima, to that of the first.
    """
    compiled, rows = {}, {}
    for name, (function, args) in ways.items():
        lowered = jax.jit(function).lower(*args)
        start = time.perf_counter()
        compiled[name] = lowered.compile(), args
        seconds = time.perf_counter() - start
        size = compiled[name][0].memory_analysis().temp_size_in_bytes
        rows[name] = {"compile_s": seconds, "temporaries_KiB": size / 1024}
    results = {name: step(*args) for name, (step, args) in compiled.items()}
    jax.block_until_ready(results)  # else the first measurement waits for them all
    reference = next(iter(results.values()))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, (step, args) in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*args))
            seconds[name].append(time.perf_counter() - start)
    fastest = min(next(iter(seconds.values())))
    return [
        {
            "work": work,
            "way": name,
            "median_ms": 1e3 * float(np.median(seconds[name])),
            "min_ms": 1e3 * min(seconds[name]),
            "ratio": min(seconds[name]) / fastest,
            **rows[name],
            "difference": difference(results[name], reference),
        }
        for name in ways
    ]


def difference(found: Any, reference: Any) -> float:
    """The largest difference of two pytrees, relative to the largest entry.

    Where one has fewer leaves, these are compared.
    """
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(reference))
    return max(
        float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b))) for a, b in pairs
    )


def hardware() -> str:
    """The processor, as far as the system names it, and the versions that ran."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
        name = names[0] if names else name
    device = jax.devices()[0]
    where = name if device.platform == "cpu" else device.device_kind
    return f"{where}, {os.cpu_count()} cores, jax {jax.__version__}"


def write(name: str, rows: list[dict], columns: dict[str, str] = COLUMNS) -> None:
    """Write ``results/<name>.json`` and the table ``results/<name>.md``.

    What does not apply to a row is None there.

    :param columns: how the entries of the table are formatted, by their names in rows.
    """
    found = {"hardware": hardware(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    text = table(found, columns)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def table(found: dict, columns: dict[str, str]) -> str:
    """Results as Markdown."""
    lines = ["| " + " | ".join(x.replace("_", " ") for x in columns) + " |"]
    lines.append("| --- " * len(columns) + "|")
    for row in found["rows"]:
        given = ((row[key], form) for key, form in columns.items())
        cells = ("" if x is None else form.format(x) for x, form in given)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([f"On {found['hardware']}:", "", *lines]) + "\n"
