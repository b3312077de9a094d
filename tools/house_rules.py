# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""House rules that no off-the-shelf linter has.

Run as ``python tools/house_rules.py [PATH ...]``. Each finding is printed as
``path:line: [rule] message``; the exit status is 1 if any of them is an error.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass
import io
from pathlib import Path
import re
import sys
import tokenize

PACKAGE = "numpyro_svae"
DEFAULT_PATHS = (PACKAGE, "tests", "tools", "tutorials", "benchmarks", "docs")
SKIPPED_DIRECTORIES = {"_build", "__pycache__", "data"}

SPDX = "# SPDX-License-Identifier: Apache-2.0"
HEADER_LINES = 3
FILE_LINES_WARN = 250
FILE_LINES_FAIL = 300
FUNCTION_LINES = 60

MARKER = re.compile(r"\b(TODO|FIXME|XXX)\b")
ALLCLOSE_THAT_RETURNS = {"allclose", "array_equal", "array_equiv", "isclose"}
REMINDER = "'{}': open an issue, or finish it"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


@dataclass(frozen=True, order=True)
class Finding:
    """One broken rule."""

    path: str
    line: int
    rule: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        level = "" if self.fatal else "warning: "
        return f"{self.path}:{self.line}: [{self.rule}] {level}{self.message}"


Found = Iterator[tuple[int, str, str]]


def check_header(source: str) -> Found:
    """The licence is named at the top of the file."""
    if SPDX not in source.splitlines()[:HEADER_LINES]:
        yield 1, "spdx", f"'{SPDX}' must be among the first {HEADER_LINES} lines"


def check_comments(source: str) -> Found:
    """No reminder is left in a comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        match = MARKER.search(token.string)
        if token.type == tokenize.COMMENT and match:
            yield token.start[0], "reminder", REMINDER.format(match[0])


def check_docstring_reminders(tree: ast.Module) -> Found:
    """No reminder is left in a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            match = MARKER.search(str(node.value.value))
            if match:
                yield node.lineno, "reminder", REMINDER.format(match[0])


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Length of a function, from ``def`` to its end, less its docstring."""
    end = node.end_lineno or node.lineno
    total = end - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        total -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return total


def check_functions(tree: ast.Module) -> Found:
    """No function is longer than the limit."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            lines = function_lines(node)
            if lines > FUNCTION_LINES:
                message = f"{node.name} has {lines} lines, {FUNCTION_LINES} at most"
                yield node.lineno, "function-length", message


def dotted_name(node: ast.expr) -> str:
    """``a.b.c`` for an attribute chain on a name, else its last part."""
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def check_inverse(tree: ast.Module) -> Found:
    """No matrix is inverted: factorise and solve instead."""
    message = "linalg.inv: use a Cholesky factor or solve"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if dotted_name(node).endswith("linalg.inv"):
                yield node.lineno, "inverse", message
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if (node.module or "").endswith("linalg") and "inv" in names:
                yield node.lineno, "inverse", message


def check_bare_comparisons(tree: ast.Module) -> Found:
    """No comparison is computed and thrown away, as in ``jnp.allclose(a, b)``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Expr):
            continue
        if isinstance(node.value, ast.Compare):
            yield node.lineno, "no-assert", "a comparison without an assert"
        elif isinstance(node.value, ast.Call):
            name = dotted_name(node.value.func).rpartition(".")[2]
            if name in ALLCLOSE_THAT_RETURNS:
                yield node.lineno, "no-assert", f"{name}(...) without an assert"


def check_asserts(tree: ast.Module) -> Found:
    """The package raises exceptions; ``python -O`` would drop an assert."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert", "raise an exception that says what to do"


def exported_names(tree: ast.Module) -> set[str]:
    """The strings in ``__all__``, else every public name defined at top level."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if "__all__" in map(dotted_name, targets):
                return set(ast.literal_eval(node.value))
    names = {node.name for node in tree.body if isinstance(node, DEFINITIONS)}
    return {name for name in names if not name.startswith("_")}


def check_docstrings(tree: ast.Module) -> Found:
    """The module, and every function and class that it exports, is documented."""
    if tree.body and ast.get_docstring(tree) is None:
        yield 1, "docstring", "the module has none"
    exported = exported_names(tree)
    for node in tree.body:
        if isinstance(node, DEFINITIONS) and node.name in exported:
            if not ast.get_docstring(node):
                yield node.lineno, "docstring", f"{node.name} is exported, has none"


EVERYWHERE = (
    check_docstring_reminders,
    check_functions,
    check_inverse,
    check_bare_comparisons,
)
IN_THE_PACKAGE = (check_asserts, check_docstrings)


def check_size(path: str, source: str) -> Iterator[Finding]:
    """A source file stays small: a warning first, then an error."""
    lines = len(source.splitlines())
    if lines > FILE_LINES_WARN:
        fatal = lines > FILE_LINES_FAIL
        limit = FILE_LINES_FAIL if fatal else FILE_LINES_WARN
        yield Finding(path, lines, "file-length", f"{lines} > {limit} lines", fatal)


def check_source(path: str, source: str) -> list[Finding]:
    """Apply every rule that holds for this path to one file's text."""
    package = PACKAGE in Path(path).parts
    tree = ast.parse(source, path)
    found: list[tuple[int, str, str]] = []
    for text_rule in (check_header, check_comments):
        found += text_rule(source)
    for tree_rule in EVERYWHERE + (IN_THE_PACKAGE if package else ()):
        found += tree_rule(tree)
    findings = [Finding(path, *item) for item in found]
    return sorted(findings + list(check_size(path, source) if package else ()))


def python_files(paths: list[Path]) -> Iterator[Path]:
    """Every Python file at or under the paths, less generated ones."""
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if not SKIPPED_DIRECTORIES & set(file.parts):
                yield file


def main(arguments: list[str] | None = None) -> int:
    """Check the files named, or the whole project, and print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path)
    chosen = parser.parse_args(arguments).paths
    paths = chosen or [Path(p) for p in DEFAULT_PATHS if Path(p).exists()]
    files = list(python_files(paths))
    findings = [
        finding
        for file in files
        for finding in check_source(file.as_posix(), file.read_text("utf-8"))
    ]
    for finding in findings:
        print(finding)
    errors = sum(finding.fatal for finding in findings)
    warnings = len(findings) - errors
    print(f"house rules: {len(files)} files, {errors} errors, {warnings} warnings")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
