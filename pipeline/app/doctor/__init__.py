"""`python -m pipeline doctor`: what is wrong with a set-up, and what to do about it. Reads only;
imports nothing heavy.

A check is a function without arguments that looks at the folder it is called in and returns a
`Finding`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal


@dataclass(frozen=True)
class Finding:
    check: str
    state: Literal["ok", "note", "wrong"]
    """A note stops nothing; what is wrong stops `dvc repro` or `dvc exp run`, or loses
    something.
    """
    said: str
    remedy: str = ""


Check = Callable[[], Finding]
STYLE = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def checks() -> list[Check]:
    return [
        check
        for name in ("machine", "workspace", "study")
        for check in import_module(f"pipeline.app.doctor.{name}").CHECKS
    ]


def examine(found: Iterable[Check]) -> list[Finding]:
    """Run checks; what params.yaml or another file gets wrong is a finding too, once."""
    from pipeline.support.errors import InputError

    findings: list[Finding] = []
    for check in found:
        try:
            findings.append(check())
        except InputError as error:
            if str(error) not in (finding.said for finding in findings):
                findings.append(
                    Finding(
                        check.__name__.replace("_", " "),
                        "wrong",
                        str(error),
                        "correct what it names",
                    )
                )
    return findings


def main() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "state", "what was found", "what to do", show_lines=True)
    findings = examine(checks())
    for finding in findings:
        table.add_row(
            finding.check,
            Text(finding.state, STYLE[finding.state]),
            Text(finding.said),
            Text(finding.remedy),
        )
    Console().print(table)
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)
