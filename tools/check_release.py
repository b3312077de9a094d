# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Tries out what is about to be released, as a stranger to the repository would.

    python tools/check_release.py dist/*

Each file is installed in a new environment, by itself, and the example of the README is
run there from an empty folder, with few steps.
"""

from __future__ import annotations

from pathlib import Path
import re
import subprocess
import sys
import tempfile
import venv

from readme import ROOT, example

CHECK = """
import numpyro_svae
from importlib.metadata import version
from pathlib import Path

place = Path(numpyro_svae.__file__).parent
assert "site-packages" in place.parts, place
assert version("numpyro-svae") == numpyro_svae.__version__ == EXPECTED
assert (place / "py.typed").exists(), "the types are not there"
"""


def program() -> str:
    """The example of the README, with few steps, after checks of what is installed."""
    code, count = re.subn(r"svi\.run\((.*?), 1000,", r"svi.run(\1, 3,", example())
    if count != 1:
        raise SystemExit("README.md: found no 'svi.run(key, 1000, ...)' to shorten.")
    return f"EXPECTED = {version_of()!r}\n{CHECK}{code}"


def version_of() -> str:
    """The version that the repository says it has."""
    text = (ROOT / "numpyro_svae" / "version.py").read_text("utf-8")
    found = re.search(r'__version__ = "(.+)"', text)
    if found is None:
        raise SystemExit("version.py: found no __version__.")
    return found[1]


def check(file: Path) -> None:
    """Install a file in an environment of its own, and run the program there."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "environment")
        venv.create(place, with_pip=True)
        python = str(place / "bin" / "python")
        install = [python, "-m", "pip", "install", "-qq", str(file), "flax"]
        empty = Path(folder, "empty")
        empty.mkdir()
        subprocess.run(install, check=True)
        subprocess.run([python, "-c", program()], cwd=empty, check=True)
    print(f"{file.name}: installed by itself, and the example runs.")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        check(Path(name).resolve())
