"""Whole files or none: write beside the target, then rename."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psutil import pid_exists

from pipeline.support.errors import InputError

# .<name>.new<process>, twice where the target is temporary too; .dvcignore and .gitignore know it.
TEMPORARY = re.compile(r"\.+(.+?)(?:\.new(\d+))+")


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return a folder's files of a pattern, by name, without the hidden ones that systems leave."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """Return what killed processes left half-written in a folder: of the file `name`, or all."""
    matches = [(path, TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    return [
        path
        for path, match in matches
        if match and name in (None, match[1]) and not pid_exists(int(match[2]))
    ]


def beside(path: Path) -> Path:
    """Return a free temporary path in the folder of `path`, cleared of what the killed left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new{os.getpid()}")
    match = TEMPORARY.fullmatch(path.name)
    for left in [*leftovers(path.parent, match[1] if match else path.name), temporary]:
        discard(left)
    return temporary


def discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the body succeeds and disappears if not."""
    temporary = beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        discard(temporary)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` if the body succeeds and disappears if not."""
    with new_file(path) as temporary:
        temporary.mkdir()
        yield temporary
        if path.exists():
            shutil.rmtree(path)


def write_text(path: Path, text: str) -> None:
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, stage: str | None = None) -> Any:
    """Read JSON; InputError where it is damaged or, given the stage that makes it, missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = f"run `dvc repro {stage}`" if stage else f"create it or `git checkout {path}`"
        raise InputError(f"{path} does not exist: {remedy}") from None
    except ValueError as error:
        remedy = f"run `dvc repro {stage}`" if stage else "correct it or restore it"
        raise InputError(f"{path} is not valid JSON ({error}): {remedy}") from None
