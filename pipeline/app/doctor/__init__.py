"""`python -m pipeline doctor`: what is wrong with a set-up, and what to do about it.

It reads only, and imports nothing heavy. A check is a function that looks at the current folder. It
returns what is well, or raises a Note or what is Wrong.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.support.errors import InputError

if TYPE_CHECKING:
    from pipeline.study.params import Params

Check = Callable[[], str]

INSTALL = "`pip install --constraint requirements.lock --editable .`"
STYLE = {"ok": "green", "note": "yellow", "wrong": "bold red"}


class Note(Exception):
    """What was found, and its remedy; a note stops nothing."""


class Wrong(Note):
    """This stops `dvc repro` or `dvc exp run`, or loses something."""


def parameters() -> "Params":
    """Return params.yaml, typed; imported here, so that doctor runs where a package is missing."""
    from pipeline.study.params import load_params

    return load_params()


def expect(good: object, said: str, remedy: str) -> str:
    """Return what was found if it is good, else raise it as Wrong."""
    if not good:
        raise Wrong(said, remedy)
    return said


@dataclass(frozen=True)
class Finding:
    check: str
    state: Literal["ok", "note", "wrong"]
    said: str
    remedy: str = ""


def all_checks() -> list[Check]:
    from pipeline.app.doctor import setup, study

    return [*setup.CHECKS, *study.CHECKS]


def examine(checks: Iterable[Check]) -> list[Finding]:
    """Run checks; what several of them refuse in the same words is one finding."""
    findings: list[Finding] = []
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            findings.append(Finding(name, "ok", check()))
        except Note as note:
            state: Literal["note", "wrong"] = "wrong" if isinstance(note, Wrong) else "note"
            findings.append(Finding(name, state, *note.args))
        except (InputError, ImportError) as error:
            remedy = "correct what it names" if isinstance(error, InputError) else INSTALL
            if str(error) not in (finding.said for finding in findings):
                findings.append(Finding(name, "wrong", str(error), remedy))
    return findings


def main() -> None:
    table = Table("check", "state", "what was found", "what to do", show_lines=True)
    findings = examine(all_checks())
    for finding in findings:
        state = Text(finding.state, STYLE[finding.state])
        table.add_row(finding.check, state, Text(finding.said), Text(finding.remedy))
    Console().print(table)
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)
