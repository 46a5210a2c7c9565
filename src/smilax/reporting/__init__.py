"""One self-contained HTML file about a run: what was done, whether to trust it, how good it is.

Pages are put together from Python strings: `markup.element` escapes every text that is not markup already, which is all
that a template engine would be for here.
"""

from smilax.reporting.document import report as report
