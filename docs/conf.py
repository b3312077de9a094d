# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sphinx configuration. The build needs no network.

It executes the programs of the pages, each page in a process of its own, and shows what
they print and draw. A program that fails, or that warns, fails the build.
"""

import hashlib
import os
from pathlib import Path

import jax
from jax.typing import ArrayLike
from jupyter_cache import get_cache
import optax
from sphinx.util.typing import stringify_annotation
import xarray

import numpyro_svae
from numpyro_svae import __version__, optim
from numpyro_svae.forecasting import smooth

project = "numpyro_svae"
author = "The numpyro_svae developers"
copyright = "The numpyro_svae developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # from the build, not fetched
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"numpyro_svae {version}"

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True

# What a module imports only where it uses it, its annotations name all the same.
vars(optim)["optax"] = optax
vars(smooth)["xr"] = xarray


def digest_of(package):
    """What the results of a page depend on, beside its programs."""
    digest = hashlib.sha256(jax.__version__.encode())
    for path in sorted(Path(package).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


# Pages are executed, but for those that have not changed since, nor has the package.
HERE = Path(__file__).parent
nb_execution_mode = "cache"
nb_execution_cache_path = str(
    HERE / "_build" / "cells" / digest_of(numpyro_svae.__path__[0])
)
get_cache(nb_execution_cache_path).get_cache_limit()  # makes it, before workers do
nb_execution_excludepatterns = ["tutorials/*"]  # executed: see "make tutorials"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "error"  # warnings
os.environ.pop("MPLBACKEND", None)  # figures are the page's, whatever the caller has
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
os.environ["TQDM_DISABLE"] = "1"  # no progress bars,
os.environ["PYTHONWARNINGS"] = (  # nor widgets for them, nor what ArviZ 0.x announces
    "ignore:IProgress not found,ignore::FutureWarning:arviz"
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
CACHE = HERE.parent / ".cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))  # the tests'
os.environ["PYTHONSTARTUP"] = str(HERE.parent / "tools" / "whole_entries.py")
copybutton_exclude = ".linenos, .gp, .go"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3


def write_array_like(app, domain, objtype, content):
    """Write the long union of types that ``ArrayLike`` stands for by its name."""
    document = getattr(app.env, "current_document", None)
    for annotations in getattr(document, "autodoc_annotations", {}).values():
        for name, text in annotations.items():
            for mode in ("fully-qualified-except-typing", "smart"):
                union = stringify_annotation(ArrayLike, mode)
                text = text.replace(union, "~jax.typing.ArrayLike")
            annotations[name] = text


def keep_apart(app, docname, source):
    """Give each page what others keep: two first imports of ArviZ 0.x a day fail."""
    os.environ["XDG_CACHE_HOME"] = str(Path(CACHE, "others", docname))


def setup(app):
    """Register the above; types are named before autodoc writes them down."""
    app.connect("object-description-transform", write_array_like, priority=100)
    app.connect("source-read", keep_apart)
    offline = app.extensions["sphinx-mathjax-offline"]
    offline.parallel_read_safe = True  # it copies files when all is written
