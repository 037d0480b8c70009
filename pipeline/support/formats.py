"""How numbers and tables are written, the same in every table, figure and sentence."""

import html
import re
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from pipeline.support.files import write_text

NONE = "–"
LATEX = str.maketrans({
    "&": r"\&", "%": r"\%", "_": r"\_", "±": r"$\pm$", "Δ": r"$\Delta$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "†": r"$\dagger$", "−": "$-$", "–": "--", "<": "$<$", "ᵀ": r"$^\top$",
    "°": r"$^\circ$",
})  # fmt: skip


def with_minus(text: str) -> str:
    """Return the text with real minus signs before negative numbers, but not in an exponent."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Return a rounded number, a zero without a sign; `sign` "+" marks positive ones too."""
    if value is None:
        return NONE
    rounded = round(value, digits)
    return f"{rounded:{sign}.{digits}f}" if rounded else f"{0:.{digits}f}"


def with_sign(value: float | None) -> str:
    return number(value, sign="+")


def coefficient(value: float) -> str:
    return f"{value:+g}" if value else "0"


def p_value(value: float | None) -> str:
    return NONE if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, 1)


def interval(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"[{number(low)}, {number(high)}]"


def markdown(table: pl.DataFrame) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    rule = "|:--" + "|--:" * (table.width - 1) + "|"
    return "\n".join([line(table.columns), rule, *map(line, table.rows()), ""])


def latex(table: pl.DataFrame) -> str:
    def line(cells: Iterable[str]) -> str:
        return " & ".join(with_minus(cell).translate(LATEX) for cell in cells) + r" \\"

    head = rf"\begin{{tabular}}{{l{'r' * (table.width - 1)}}}"
    body = [line(table.columns), r"\hline", *map(line, table.rows())]
    return "\n".join([head, r"\hline", *body, r"\hline", r"\end{tabular}", ""])


def as_html(table: pl.DataFrame) -> str:
    def line(cells: Iterable[str], before: str, after: str) -> str:
        return "<tr>" + "".join(before + html.escape(cell) + after for cell in cells) + "</tr>"

    head = line(table.columns, '<th scope="col">', "</th>")
    body = "".join(line(map(with_minus, row), "<td>", "</td>") for row in table.rows())
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def write_table(folder: Path, name: str, table: pl.DataFrame) -> None:
    """Write a table of strings as <name>.md, .tex and .csv."""
    forms = {"md": markdown(table), "tex": latex(table), "csv": table.write_csv()}
    for ending, text in forms.items():
        write_text(folder / f"{name}.{ending}", text)
