"""Sphinx configuration; `make docs` builds with warnings as errors."""

import os
import re
from importlib.metadata import version as installed_version

project = "smilax"
author = "The smilax developers"
copyright = author
release = version = installed_version("smilax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "speed/steps.md", "jupyter_execute", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "smilax"

myst_enable_extensions = ["dollarmath"]

# The tutorials are run where they have changed, and the build fails if one does. Seconds are those of a cell.
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
# What the kernels inherit: figures go into the page, also where the environment asks for files only.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
# Of tqdm, which NumPyro imports: a progress bar for notebooks would need ipywidgets.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"

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


# A piece of code, with the letter that follows it at once, if any; or a character that only reStructuredText reads.
MARKUP = re.compile(r"(?<!`)`(?P<code>[^`]+)`(?!`)(?=(?P<next>\w?))|\||(?<=\w)_(?!\w)")


def from_markdown(app, what, name, obj, options, lines):
    """Docstrings are written to be read in a terminal: `code` in single backquotes, | and _ with no meaning."""

    def translated(match):
        if match["code"]:
            return f"``{match['code']}``" + ("\\ " if match["next"] else "")
        return "\\" + match[0]

    example = False
    for i, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example:
            lines[i] = MARKUP.sub(translated, line)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_member)
    # Before napoleon, at 500, which reads the sections.
    app.connect("autodoc-process-docstring", from_markdown, priority=400)
