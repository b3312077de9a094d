# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is published: metadata, public names, and their place in the documentation."""

from importlib import metadata, resources
from pathlib import Path
import re
import subprocess
import sys
import tomllib

import jax.numpy as jnp
import pytest

import numpyro_svae

ROOT = Path(__file__).parents[1]
PUBLIC = sorted(set(numpyro_svae.__all__) - {"__version__", "kinds"})

# Prints the modules that importing the package adds to what it cannot do without.
IMPORT = """
import sys
import funsor, numpyro
before = set(sys.modules)
import numpyro_svae
print(*(set(sys.modules) - before))
"""


def test_installed_metadata() -> None:
    installed = metadata.metadata("numpyro-svae")
    assert installed["Version"] == numpyro_svae.__version__
    assert installed["License-Expression"] == "Apache-2.0"
    assert installed["Requires-Python"] == ">=3.11"


def test_what_is_cited_has_this_version() -> None:
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {numpyro_svae.__version__}\n" in cited


def test_package_is_marked_as_typed() -> None:
    assert resources.files("numpyro_svae").joinpath("py.typed").is_file()


def test_public_names_exist_once_and_are_documented() -> None:
    assert len(set(numpyro_svae.__all__)) == len(numpyro_svae.__all__)
    for name in PUBLIC:
        assert getattr(numpyro_svae, name).__doc__, f"{name} has no docstring"


def test_api_reference_lists_exactly_the_public_names() -> None:
    page = (ROOT / "docs" / "api.rst").read_text("utf-8")
    listed = re.findall(r"^   (\w+)$", page, re.M)
    assert sorted(listed) == PUBLIC


def test_import_adds_modules_of_its_own_and_no_others() -> None:
    """ArviZ, scoringrules, xarray, optax and lineax are imported where they are used.

    They take seconds.
    """
    output = subprocess.check_output([sys.executable, "-c", IMPORT], text=True)
    added = [name.split(".") for name in output.split()]
    known = {"funsor", "numpyro", "numpyro_svae", *sys.stdlib_module_names}
    assert {name[0] for name in added} <= known
    parts = {name[1] for name in added if name[0] == "numpyro_svae" and name[1:]}
    assert "guide" in parts and not parts & {"control", "plots"}
    assert len(added) < 333


def test_changelog_has_what_is_unreleased_and_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in changelog
    version = numpyro_svae.__version__
    assert ".dev" in version or f"\n## [{version}] - " in changelog


def test_supported_pythons_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    minor = min(
        int(match[1])
        for text in project["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", text))
    )
    assert project["requires-python"] == f">=3.{minor}"


def test_precision_is_single_by_default() -> None:
    assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.x64
def test_precision_is_double_when_marked() -> None:
    assert jnp.ones(()).dtype == jnp.float64


def test_precision_is_double_with_the_fixture(x64) -> None:
    assert jnp.ones(()).dtype == jnp.float64
