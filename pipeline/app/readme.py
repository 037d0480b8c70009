"""Fill the README's marked blocks from what they are about: the tree, the methods, a table.

A block is `<!-- name -->` to `<!-- /name -->`; whatever stands between is replaced.
"""

import ast
import re
from pathlib import Path

from pipeline.steering import METHODS
from pipeline.support.errors import InputError
from pipeline.support.files import new_file

README = Path("README.md")
RESULTS = Path("reports/tables/equal_cost.md")
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def first_line(file: Path) -> str:
    """Return the first line of a Python file's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def tree() -> str:
    """Return the folders of `pipeline` with what each one is."""
    files = sorted(Path("pipeline").rglob("__init__.py"))
    lines = [f"{file.parent.as_posix() + '/':<30} {first_line(file)}" for file in files]
    return "\n".join(["```", *lines, "```"])


def methods() -> str:
    """Return the table of methods: id, the first line of its file, and whether it is trained."""
    rows = [
        f"| `{name}` | {first_line(Path(file(name)))} | {'yes' if method.learned else 'no'} |"
        for name, method in METHODS.items()
    ]
    return "\n".join(["| id | what it is | trained |", "|:--|:--|:--|", *rows])


def file(method: str) -> str:
    """Return the path of a method's file."""
    return f"pipeline/steering/methods/{METHODS[method].code.partition(':')[0]}.py"


def filled(text: str) -> str:
    """Return the README's text with every block filled; InputError for an unknown block."""
    makers = {
        "tree": tree,
        "methods": methods,
        "results": lambda: RESULTS.read_text("utf-8").strip(),
    }

    def fill(match: re.Match) -> str:
        if match[2] not in makers:
            raise InputError(f"README.md has a block {match[2]!r}: allowed are {', '.join(makers)}")
        return f"{match[1]}{makers[match[2]]()}\n{match[3]}"

    return BLOCK.sub(fill, text)


def main() -> None:
    text = filled(README.read_text(encoding="utf-8"))
    with new_file(README) as new:
        new.write_text(text, encoding="utf-8")
