"""Sphinx settings."""

import importlib.metadata

project = "poolkit"
author = "The poolkit authors"
copyright = "The poolkit authors"
release = importlib.metadata.version("poolkit")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Connection pools for threads", "fixed_sidebar": True}
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
