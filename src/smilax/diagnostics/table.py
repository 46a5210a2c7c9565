"""The table that a diagnosis is."""

import html
import math
import textwrap
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "warning", "bad", "n/a"]

WIDTH = 100
# Columns of the printed table; a longer cell is continued below.
COLUMNS = {"": 18, "value": 40, "good": 26, "verdict": 7}
COLORS = {"ok": "#00734d", "warning": "#9a5b00", "bad": "#b3261e", "n/a": "#6b6b6b"}


@dataclass(frozen=True)
class Row:
    """One line of a diagnosis.

    Attributes:
        name: what was measured.
        value: the number that was judged; NaN where there is none.
        text: the value in words, with its uncertainty and what belongs to it.
        good: what is good.
        verdict: `"ok"`, `"warning"`, `"bad"`, or `"n/a"` where there is nothing to judge by.
        advice: what to do, one sentence.
        details: numbers behind the value, JSON-able.
    """

    name: str
    value: float
    text: str
    good: str
    verdict: Verdict
    advice: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """What `sx.diagnose` returns: prints as a table, and shows as one in a notebook.

    Attributes:
        title: the run in one line.
        rows: the `Row`s; `diagnosis["EEVPD"]` is the one of that name.

    Example:
        >>> import smilax as sx
        >>> from smilax.diagnostics import Row
        >>> row = Row("rejects", 0.002, "0.2 %", "<= 0.1 %", "warning", "Take a smaller accuracy.")
        >>> diagnosis = sx.Diagnosis("ismile", (row,))
        >>> diagnosis.ok, diagnosis["rejects"].value
        (False, 0.002)
        >>> print(diagnosis)  # doctest: +NORMALIZE_WHITESPACE
        ismile: 1 warning
        <BLANKLINE>
                 value   good      verdict
        rejects  0.2 %   <= 0.1 %  warning
        <BLANKLINE>
        rejects: Take a smaller accuracy.
    """

    title: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether no row is a warning or bad, and some are good."""
        verdicts = {row.verdict for row in self.rows}
        return "ok" in verdicts and verdicts <= {"ok", "n/a"}

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"there is no row {name!r}; there are {', '.join(repr(row.name) for row in self.rows)}")

    def __str__(self) -> str:
        cells = [tuple(COLUMNS)]
        cells += [(row.name, row.text, row.good, row.verdict) for row in self.rows]
        widths = [
            min(most, max(len(line[i]) for line in cells)) for i, most in enumerate(COLUMNS.values())
        ]  # fmt: skip
        lines = [*textwrap.wrap(self._headline(), WIDTH), ""]
        for cell in cells:
            wrapped = [textwrap.wrap(text, width) or [""] for text, width in zip(cell, widths, strict=True)]
            for i in range(max(len(part) for part in wrapped)):
                parts = [part[i] if i < len(part) else "" for part in wrapped]
                lines.append("  ".join(p.ljust(w) for p, w in zip(parts, widths, strict=True)).rstrip())
        advice = [row for row in self.rows if row.verdict in ("warning", "bad")]
        if advice:
            lines.append("")
        for row in advice:
            lines += textwrap.wrap(f"{row.name}: {row.advice}", WIDTH, subsequent_indent="  ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in (*COLUMNS, "advice"))
        body = []
        for row in self.rows:
            badge = f"<b style='color:{COLORS[row.verdict]}'>{row.verdict}</b>"
            texts = [html.escape(text) for text in (row.name, row.text, row.good)]
            parts = [*texts, badge, html.escape(row.advice)]
            style = "text-align:left;vertical-align:top"
            body.append("<tr>" + "".join(f"<td style='{style}'>{part}</td>" for part in parts) + "</tr>")
        caption = f"<caption style='text-align:left'><b>{html.escape(self._headline())}</b></caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON's types; numbers that are not finite become None."""
        rows = [{**vars(row), "value": _plain(row.value), "details": _plain(row.details)} for row in self.rows]
        return {"title": self.title, "ok": self.ok, "rows": rows}

    def _headline(self) -> str:
        bad = sum(row.verdict == "bad" for row in self.rows)
        warnings = sum(row.verdict == "warning" for row in self.rows)
        counts = [f"{bad} bad"] * bool(bad) + [f"{warnings} warning{'s' * (warnings > 1)}"] * bool(warnings)
        fine = "nothing amiss" if self.ok else "nothing could be checked"
        return f"{self.title}: {', '.join(counts) or fine}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def missing(name: str, why: str, advice: str) -> Row:
    """A row that has no value."""
    return Row(name, math.nan, why, "", "n/a", advice)


def grade(value: float, ok: float, bad: float) -> Verdict:
    """Good up to `ok`, bad above `bad` or where it is not finite, a warning between."""
    if not math.isfinite(value) or value > bad:
        return "bad"
    return "ok" if value <= ok else "warning"
