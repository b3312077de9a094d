# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Imports go down: each folder knows only itself and those before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "numpyro_svae"
FOLDERS = (
    "families",
    "blocks",
    "program/run",
    "program/priors",
    "program/structure",
    "program/bind",
    "program/read",
    "inference/factors",
    "inference/local",
    "inference/start",
    "inference/declare",
    "kinds",
    "diagnostics",
    "forecasting",
    "control",
)


def imported(source: str) -> set[str]:
    """Paths of the modules of the package that a source imports, for types too."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)]
    names = {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}
    own = (name for name in names if name.startswith("numpyro_svae."))
    return {name.removeprefix("numpyro_svae.").replace(".", "/") for name in own}


def folder_of(path: str) -> int | None:
    found = (i for i, f in enumerate(FOLDERS) if path.startswith(f"{f}/"))
    return next(found, None)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_those_before_it(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"there is no folder {folder}"
    own = FOLDERS.index(folder)
    for file in files:
        for path in imported(file.read_text("utf-8")):
            level = folder_of(path)
            assert level is None or level <= own, f"{file.name} imports {path}"


def test_no_module_of_these_packages_is_in_no_folder():
    for package in ("program", "inference"):
        loose = {p.name for p in (ROOT / package).glob("*.py")} - {"__init__.py"}
        assert not loose
