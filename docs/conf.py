"""Sphinx settings."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import poolkit

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
html_theme_options = {
    "description": "Connection pools for threads",
    "fixed_sidebar": True,
    # Room for a line of code, and of an error that names who holds what.
    "page_width": "1320px",
    "body_max_width": "1060px",
}

# A reference that leads nowhere is an error. Other projects' indexes would have to be fetched, so names of theirs are
# let through, and so are the type variables and the inner types of our own signatures.
nitpicky = True
nitpick_ignore = [("py:attr", "poolkit.Holder.since")]  # a field; its class describes it
nitpick_ignore_regex = [
    (r"py:.*", r"(?!poolkit).*"),
    (r"py:.*", r"poolkit(\.\w+)*\.(_\w+|\w*T)"),
    (
        r"py:class",
        r"poolkit(\.\w+)*\.(Pool|PoolConfig|Running|Server|Group|Settings|Bounding|Threads)",
    ),  # beneath
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}


def setup(app: Any) -> None:
    """Have signatures, which name a class by its home, lead to where it is documented: by its public name."""
    app.connect("missing-reference", _by_public_name)


def _by_public_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    name = node.get("reftarget", "").rpartition(".")[2]
    home = poolkit._HOMES.get(name)
    if home is None or node.get("refdomain") != "py":
        return None
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"poolkit.{name}", node, content
    )
