# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The Python programs that the README and pages of the documentation show do run.

What a page takes for granted is in its source as well, in comments that readers of the
page do not see.
"""

from collections.abc import Callable
from pathlib import Path
import re

import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
STEPS = 2
PAGES = (
    "README.md",
    "docs/start.md",
    "docs/forecasting.md",
    "docs/control.md",
    "docs/solar.md",
    "docs/training.md",
    "docs/diagnostics.md",
    "docs/priors.md",
    "docs/own_models.md",
    "docs/sharp_bits.md",
    "docs/scale.md",
    "docs/extending.md",
)


def program(page: str) -> str:
    """The code blocks of a page, as one program on the lines that they have there."""
    text = (ROOT / page).read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        start = text.count("\n", 0, block.start(1))
        for offset, line in enumerate(block[1].splitlines()):
            lines[start + offset] = line
    return "\n".join(lines)


def reach_the_goal(names: dict) -> None:
    """The agents of a page stop at zero, and cost half of random actions at most."""

    def total(episodes):
        return np.mean([episode.total for episode in episodes])

    for agent in ("regulated", "planned"):
        for episode in names[agent]:
            assert np.abs(episode.observations[-10:, 0]).mean() < 0.3
        assert total(names[agent]) > total(names["at_random"]) / 2


def improve(names: dict) -> None:
    """The last rounds cost half of the first one at most."""
    first, *_, before, last = names["returns"]
    assert first < -20
    assert min(before, last) > first / 2


# What a page comes to, if it takes more steps.
RESULTS = {
    "docs/control.md": (400, reach_the_goal),
    "docs/solar.md": (400, improve),
}


def few_steps(run: Callable, most: int) -> Callable:
    """``SVI.run`` with a few steps at most."""

    def shortened(self, rng_key, num_steps, *args, **kwargs):
        kwargs["progress_bar"] = False
        return run(self, rng_key, min(num_steps, most), *args, **kwargs)

    return shortened


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # of a few steps' fit
@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # by the replay of a scan
@pytest.mark.parametrize("page", PAGES)
def test_the_programs_run(page, monkeypatch, tmp_path):
    source = program(page)
    monkeypatch.chdir(tmp_path)
    most, check = RESULTS.get(page, (STEPS, None))
    monkeypatch.setattr(SVI, "run", few_steps(SVI.run, most))
    names = {"__name__": "program"}
    exec(compile(source, page, "exec"), names)
    losses = names["result"].losses if "result" in names else names["loss"]
    assert bool(jnp.all(jnp.isfinite(losses)))
    if check is not None:
        check(names)


def test_every_page_with_a_program_is_tried():
    pages = ["README.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
    assert {page for page in pages if program(page).strip()} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_fit_the_page(page):
    lines = program(page).splitlines()
    assert any("AutoSVAE" in line for line in lines)
    assert all(len(line) <= 88 for line in lines)
