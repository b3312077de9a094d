# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Each house rule finds what it should, and nothing else."""

import pytest

from tools.house_rules import FUNCTION_LINES, SPDX, check_source, main

HEAD = f'{SPDX}\n\n"""A module."""\n\n'
PACKAGE_FILE = "numpyro_svae/example.py"
TEST_FILE = "tests/test_example.py"


def rules(body: str, path: str = PACKAGE_FILE, head: str = HEAD) -> list[str]:
    return [finding.rule for finding in check_source(path, head + body)]


def long_function(lines: int) -> str:
    return "def f():\n" + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("x = 1  # TO" + "DO: more\n", "reminder"),
        ('def _f():\n    """FIX' + 'ME."""\n', "reminder"),
        ("x = jnp.linalg.inv(y)\n", "inverse"),
        ("from jax.numpy.linalg import inv\n", "inverse"),
        ("jnp.allclose(x, y)\n", "no-assert"),
        ("np.array_equal(x, y)\n", "no-assert"),
        ("x == y\n", "no-assert"),
        ("assert x\n", "assert"),
        ("def f():\n    return 1\n", "docstring"),
        ('__all__ = ["C"]\n\n\nclass C:\n    pass\n', "docstring"),
        ('__all__: list[str] = ["C"]\n\n\nclass C:\n    pass\n', "docstring"),
    ],
)
def test_found(body: str, rule: str) -> None:
    assert rules(body) == [rule]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "assert jnp.allclose(x, y)\n",
        "np.testing.assert_allclose(x, y)\n",
        "close = jnp.allclose(x, y)\n",
        "x = jnp.linalg.solve(y, z)\n",
        "MARK" + 'ER = "TODO"\n',
        "def test_f():\n    assert True\n",
    ],
)
def test_allowed_in_tests(body: str) -> None:
    assert rules(body, TEST_FILE) == []


def test_names_that_are_not_exported_need_no_docstring() -> None:
    assert rules("__all__ = []\n\n\ndef f():\n    return 1\n") == []
    assert rules("def _f():\n    return 1\n") == []


def test_header() -> None:
    assert rules("", head="") == ["spdx"]
    assert rules("", head=f'"""A module."""\n\n\n\n{SPDX}\n') == ["spdx"]
    assert rules("", head=f'# Copyright.\n{SPDX}\n\n"""A module."""\n') == []


def test_module_docstring() -> None:
    assert rules("x = 1\n", head=f"{SPDX}\n") == ["docstring"]


def test_function_length_leaves_out_the_docstring() -> None:
    documented = long_function(FUNCTION_LINES).replace(
        "def f():\n", 'def f():\n    """One.\n\n    Two.\n    """\n'
    )
    assert rules(documented, TEST_FILE) == []
    assert rules(long_function(FUNCTION_LINES + 1), TEST_FILE) == ["function-length"]


@pytest.mark.parametrize(
    ("lines", "fatal"), [(250, []), (251, [False]), (300, [False]), (301, [True])]
)
def test_file_length(lines: int, fatal: list[bool]) -> None:
    source = HEAD + "\n" * (lines - HEAD.count("\n"))
    assert [f.fatal for f in check_source(PACKAGE_FILE, source)] == fatal
    assert check_source(TEST_FILE, source) == []


def test_main_counts_and_fails(tmp_path, capsys) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("x = 1\n")
    assert main([str(tmp_path)]) == 1
    assert "bad.py:1: [spdx]" in capsys.readouterr().out
    bad.write_text(HEAD)
    assert main([str(bad)]) == 0
    assert "1 files, 0 errors, 0 warnings" in capsys.readouterr().out
