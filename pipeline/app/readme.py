"""`python -m pipeline readme`: fill the blocks of README and docs from what they are about.

A block is `<!-- name -->` to `<!-- /name -->`; whatever stands between is replaced.
"""

import ast
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.report.columns import in_log_odds
from pipeline.steering import METHODS
from pipeline.support.errors import InputError
from pipeline.support.files import write_text
from pipeline.support.formats import interval, number, p_value

README, HOW = Path("README.md"), Path("docs/how_it_works.md")
RESULTS = Path("reports/tables/summary.md")
REAL = Path("reports/smollm2/unseen")
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def headline(file: Path) -> str:
    """Return the first line of a Python file's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


def tree() -> str:
    """Return the folders of `pipeline`, each with what it is."""
    files = sorted(Path("pipeline").glob("*/**/__init__.py"))
    lines = [f"{file.parent.as_posix() + '/':<28}{headline(file)}" for file in files]
    return "\n".join(["```", *lines, "```"])


def methods() -> str:
    """Return the table of methods: id, what its file says it is, whether it is trained."""
    lines = ["| id | what it is | trained |", "|:--|:--|:--|"]
    for name, method in METHODS.items():
        file = Path(f"pipeline/steering/methods/{method.code.partition(':')[0]}.py")
        lines.append(f"| `{name}` | {headline(file)} | {'yes' if method.learned else 'no'} |")
    return "\n".join(lines)


def results(file: Path, command: str) -> str:
    """Return the table of a committed study, or by which command it comes."""
    if not file.exists():
        return f"No results yet: `{command}` makes them."
    return file.read_text(encoding="utf-8").strip()


def paired() -> str:
    """Say how much further distilled InnerPiSSA moves the target than the mean difference."""
    if not (REAL / "differences.csv").exists():
        return "No results yet."
    rows = pl.read_csv(REAL / "differences.csv").filter(method="innerpissa_distil")
    row = in_log_odds(rows.row(by_predicate=pl.col("other") == "mean_diff", named=True))
    span = interval(row["ci_low"], row["ci_high"])
    return (
        "Paired by dilemma, distilled InnerPiSSA less mean difference in log-odds: "
        f"{number(row['difference'])} {span}, p = {p_value(row['p'])}, with Holm's correction over "
        f"all pairs of methods {p_value(row['p_holm'])} (n = {row['n_dilemmas']})."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "results": partial(results, RESULTS, "make repro"),
    "real": partial(results, REAL / "tables/summary.md", "make real MORALCHOICE=<folder>"),
    "paired": paired,
    "methods": methods,
    "tree": tree,
}


def filled(text: str) -> str:
    """Return a text with every block filled; InputError for an unknown block."""

    def fill(match: re.Match) -> str:
        if match[2] not in BLOCKS:
            known = ", ".join(BLOCKS)
            raise InputError(f"there is a block {match[2]!r}: rename it to one of {known}")
        return f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}"

    return BLOCK.sub(fill, text)


def main() -> None:
    for file in (README, HOW):
        write_text(file, filled(file.read_text(encoding="utf-8")))
