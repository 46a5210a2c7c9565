"""Sphinx configuration; `make docs` builds with warnings as errors."""

from importlib.metadata import version as installed_version

project = "smilax"
author = "The smilax developers"
copyright = author
release = version = installed_version("smilax")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "smilax"

myst_enable_extensions = ["dollarmath"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# As fields of the class, not as objects of their own, which autodoc's own entries would duplicate.
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"


def skip_member(app, what, name, obj, skip, options):
    """Leaves out what a module only imports, and "Alias for field number 0": the class describes its fields."""
    foreign = not (getattr(obj, "__module__", None) or "smilax").startswith("smilax")
    return True if foreign or type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_member)
