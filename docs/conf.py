# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sphinx configuration. The build needs no network."""

from jax.typing import ArrayLike
import optax
from sphinx.util.typing import stringify_annotation
import xarray

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

# The notebooks arrive executed: see "make tutorials".
nb_execution_mode = "off"
nb_merge_streams = True
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


def setup(app):
    """Register the above, to run before autodoc writes the types down."""
    app.connect("object-description-transform", write_array_like, priority=100)
