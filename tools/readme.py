# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The example of the README."""

from pathlib import Path
import re

__all__ = ["ROOT", "example"]

ROOT = Path(__file__).parents[1]


def example() -> str:
    """The first program that the README shows."""
    text = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"^```python\n(.*?)^```$", text, re.M | re.S)
    if block is None:
        raise SystemExit("README.md: found no program; accepted is one that runs.")
    return block[1]
