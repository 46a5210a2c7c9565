"""Figures as inline SVG whose colours are the page's, so that one drawing serves light and dark."""

import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from smilax.plots.style import COLORS, MUTED
from smilax.reporting.markup import INK, Html, element

# What the page knows by a variable. Text is in the colour of the text around the figure.
VARIABLES = {color.lower(): f"var(--series-{n})" for n, color in enumerate(COLORS)}
VARIABLES |= {MUTED.lower(): "var(--muted)", INK: "currentColor"}
# A point is 1.2 pixels at the width of a phone, so this is a readable size there too.
FONT_SIZE, WIDTH = 10, 4.2
SETTINGS: Any = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": FONT_SIZE,
    "grid.alpha": 0.25,
    "grid.color": MUTED,
    "grid.linewidth": 0.6,
    "legend.labelcolor": INK,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "smilax",
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Plot(NamedTuple):
    """A figure of the page.

    Attributes:
        title: a few words.
        caption: one sentence on what it shows and how to read it.
        draw: makes the axes.
        alt: what there is to see, from the axes, for those who cannot.
    """

    title: str
    caption: str
    draw: Callable[[], Any]
    alt: Callable[[Any], str]


def figure(plot: Plot, number: int) -> Html:
    """The plot with its caption; `number` keeps the names inside apart from those of other figures."""
    import matplotlib

    with matplotlib.rc_context():
        # Whatever style the user has set is for another page.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        ax = plot.draw()
        ax.set_title("")
        canvas = ax.get_figure()
        canvas.set_size_inches(WIDTH, canvas.get_size_inches()[1] * WIDTH / 4.5)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        drawing = inline(text.getvalue(), plot.alt(ax), f"f{number}-")
    caption = element("figcaption", element("h3", plot.title), plot.caption)
    return element("figure", caption, drawing, class_="card")


def inline(svg: str, alt: str, prefix: str) -> Html:
    """Matplotlib's SVG as a part of a page.

    Args:
        svg: the file's text.
        alt: what the picture shows, in words.
        prefix: for all names inside.
    """
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style\b.*?</style>", r"<!--.*?-->"):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    opening = element("svg", class_="plot", role="img", aria_label=alt, viewBox=box[1]).removesuffix("</svg>")
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r'(?<=\bid=")|(?<=url\(#)|(?<=xlink:href="#)', prefix, body).replace("xlink:href", "href")
    body = re.sub(r"#[0-9a-f]{6}\b", lambda match: VARIABLES.get(match[0], match[0]), body)
    # Line breaks between attributes and elements, and digits beyond what a screen shows, are a third of the file.
    body = re.sub(r"\s*\n\s*", " ", body)
    body = re.sub(r'\b(?:d|x|y|points)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), body)
    return Html(opening + body.strip())
