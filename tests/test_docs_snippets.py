# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the build of the documentation does not look at.

It executes every ``{code-cell}`` of a page that is a notebook, and fails at an error or
a warning. That all programs are such cells, and that the README's runs, is tested here.
"""

import ast
from collections.abc import Callable
import re

import jax.numpy as jnp
from numpyro.infer import SVI
import pytest

from tools.readme import ROOT, example

PAGES = {path.name: path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}
FENCE = re.compile(r"^```(\S+)[^\n]*\n((?::[^\n]*\n)*)(.*?)^```$", re.M | re.S)
NOTEBOOK = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n"


def cells(page: str) -> list[tuple[str, str]]:
    """The options and the program of each cell of a page."""
    found = FENCE.finditer(PAGES[page])
    return [(cell[2], cell[3]) for cell in found if cell[1] == "{code-cell}"]


EXECUTED = sorted(page for page in PAGES if cells(page))


def few_steps(run: Callable, most: int) -> Callable:
    """``SVI.run`` with a few steps at most."""

    def shortened(self, rng_key, num_steps, *args, **kwargs):
        kwargs["progress_bar"] = False
        return run(self, rng_key, min(num_steps, most), *args, **kwargs)

    return shortened


@pytest.mark.slow
def test_the_readme_runs(monkeypatch):
    monkeypatch.setattr(SVI, "run", few_steps(SVI.run, 2))
    names = {"__name__": "program"}
    exec(compile(example(), "README.md", "exec"), names)
    assert bool(jnp.all(jnp.isfinite(names["result"].losses)))


def test_all_programs_of_pages_are_executed():
    """Python is in cells of notebooks, but for what needs several hosts."""
    for page, text in PAGES.items():
        languages = {fence[1] for fence in FENCE.finditer(text)}
        assert not languages & {"python", "{code-block}"}, page
        assert (page == "scale.md") == ("py" in languages), page
        assert text.startswith(NOTEBOOK) == (page in EXECUTED), page
        for options, _ in cells(page):
            assert options in ("", ":tags: [remove-cell]\n"), page


@pytest.mark.parametrize("page", EXECUTED)
def test_the_programs_fit_the_page(page):
    programs = [program for _, program in cells(page)]
    assert any("AutoSVAE" in program for program in programs)
    for program in programs:
        ast.parse(program)
        assert all(len(line) <= 88 for line in program.splitlines()), program


def test_pages_to_learn_from_show_figures():
    learn = PAGES["index.md"].split("```{toctree}")[1].split("```")[0].split()
    pages = {f"{name}.md" for name in learn} & set(EXECUTED)
    assert len(pages) > 9
    for page in pages:
        shown = [program for options, program in cells(page) if not options]
        assert re.search(r"plt\.show\(\)|^ax = plot_", "".join(shown), re.M), page
