"""HTML from Python: elements whose text is always escaped, and the page around them."""

import html
from typing import Any

from smilax.plots.style import COLORS, DARK_COLORS, MUTED

# Colours of text on the page, in light and dark; figures take them too.
INK, DARK_INK = "#1a1c1f", "#e9ebee"


class Html(str):
    """Markup, as opposed to text that has yet to be escaped."""


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """An element; text among its children, and the values of its attributes, are escaped.

    Attributes that are Python keywords are written with an underscore behind, hyphens with one between.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: Any) -> Html:
    """Children one after another, text among them escaped."""
    return Html("".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children))


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]], **attributes: Any) -> Html:
    """A table whose first column names its rows."""
    cells = [element("th", name, scope="col") for name in head]
    lines = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    return element(
        "table", element("thead", element("tr", *cells)) if head else "", element("tbody", *lines), **attributes
    )


def document(title: str, *body: Any) -> str:
    """A whole page that needs nothing but itself."""
    head = join(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        # Without it some browsers ask the server for an icon.
        Html('<link rel="icon" href="data:,">'),
        element("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    main = element("main", *body)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{main}\n</body>\n</html>\n'


def _variables(ink: str, series: tuple[str, ...], **named: str) -> str:
    values = {"ink": ink, "muted": MUTED} | {f"series-{n}": color for n, color in enumerate(series)} | named
    return "".join(f"--{name}:{value};" for name, value in values.items())


_LIGHT = _variables(
    INK, COLORS, ground="#ffffff", card="#f5f6f8", soft="#575c64", line="#d7dadf",
    ok="#00694a", warning="#8a4b00", bad="#b3261e", none="#575c64",
)  # fmt: skip
_DARK = _variables(
    DARK_INK, DARK_COLORS, ground="#131518", card="#1d2024", soft="#a6acb5", line="#383d44",
    ok="#4fd1a1", warning="#ffb454", bad="#ff8f85", none="#a6acb5",
)  # fmt: skip
STYLE = f""":root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}}
main{{max-width:70rem;margin:0 auto;padding:1rem 1rem 3rem}}
h1{{font-size:1.6rem;line-height:1.2;margin:.5rem 0 .25rem}}
h2{{font-size:1.25rem;margin:2.25rem 0 .75rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}}
h3{{font-size:1rem;margin:0}}
p{{margin:.25rem 0 .5rem;max-width:46rem}}
.soft{{color:var(--soft)}}
.grid{{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}}
.card{{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem .9rem;min-width:0}}
.check{{border-left:.3rem solid var(--tone)}}
.check p{{margin:.2rem 0 0;font-size:.92rem;overflow-wrap:anywhere}}
.check header{{display:flex;gap:.6rem;align-items:baseline;justify-content:space-between}}
.badge{{color:var(--tone);font-weight:700;font-size:.85rem;white-space:nowrap}}
.ok{{--tone:var(--ok)}}.warning{{--tone:var(--warning)}}.bad{{--tone:var(--bad)}}.none{{--tone:var(--none)}}
.verdict{{font-size:1.1rem;font-weight:600;border-left:.3rem solid var(--tone);padding:.5rem .8rem;
background:var(--card);margin:1rem 0;border-radius:.3rem;max-width:none}}
.note{{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem;margin:.75rem 0}}
.note ul{{margin:.25rem 0;padding-left:1.2rem}}
.figures{{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));align-items:start}}
figure{{margin:0}}
figcaption h3{{color:var(--ink)}}
figcaption{{font-size:.92rem;color:var(--soft)}}
svg.plot{{display:block;width:100%;max-width:34rem;height:auto;margin:.4rem auto 0;color:var(--ink)}}
svg.plot *{{stroke-linejoin:round;stroke-linecap:butt}}
svg.plot text{{font-family:inherit!important}}
table{{border-collapse:collapse;width:100%;font-size:.95rem}}
th,td{{text-align:left;vertical-align:top;padding:.35rem .5rem .35rem 0;border-bottom:1px solid var(--line)}}
td{{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}}
thead th{{color:var(--soft);font-weight:600}}
tbody th{{font-weight:500;width:42%}}
.scores td{{white-space:nowrap;overflow-wrap:normal}}
.scores tbody th{{overflow-wrap:anywhere}}
.better{{color:var(--ok);font-weight:600}}.worse{{color:var(--bad);font-weight:600}}
details{{margin-top:.75rem}}summary{{cursor:pointer}}
pre{{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem;
font-size:.85rem}}
@media print{{.card,.note,figure{{break-inside:avoid}}}}
"""
