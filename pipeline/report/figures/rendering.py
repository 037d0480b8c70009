"""One table of strings as Markdown, CSV, LaTeX and HTML."""

import html
import re
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from pipeline.support.files import new_file


def with_minus(text: str) -> str:
    """Return the text with a real minus sign before each negative number, but not in an
    exponent.
    """
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def markdown(table: pl.DataFrame) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    rule = "|" + "|".join(":--" if i == 0 else "--:" for i in range(table.width)) + "|"
    lines = [line(table.columns), rule, *(line(row) for row in table.rows())]
    return "\n".join(lines) + "\n"


def latex(table: pl.DataFrame) -> str:
    symbols = {"&": r"\&", "%": r"\%", "_": r"\_", "±": r"$\pm$", "Δ": r"$\Delta$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
               "†": r"$\dagger$", "−": "$-$", "–": "--", "<": "$<$", "ᵀ": r"$^\top$",
               "°": r"$^\circ$"}  # fmt: skip

    def cell(text: str) -> str:
        return "".join(symbols.get(letter, letter) for letter in with_minus(text))

    rows = [" & ".join(map(cell, row)) + r" \\" for row in table.rows()]
    head = " & ".join(map(cell, table.columns)) + r" \\"
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (table.width - 1)}}}",
            r"\hline",
            head,
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def as_html(table: pl.DataFrame) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(with_minus(cell))}</td>" for cell in row) + "</tr>"
        for row in table.rows()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_table(folder: Path, name: str, table: pl.DataFrame) -> None:
    for ending, text in {
        "md": markdown(table),
        "tex": latex(table),
        "csv": table.write_csv(),
    }.items():
        with new_file(folder / f"{name}.{ending}") as file:
            file.write_text(text)
