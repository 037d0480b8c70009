"""Whole files or none: write beside the target, then rename."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.support.errors import InputError

# .<name>.new<process>, and twice so where what is written is temporary itself; .dvcignore and
# .gitignore know it too.
TEMPORARY = re.compile(r"\.+(.+?)(?:\.new(\d+))+")


def alive(pid: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """Return what killed processes left half-written in a folder: of the file `name`, or all."""
    found = [(path, TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    return [
        path
        for path, match in found
        if match and name in (None, match[1]) and not alive(int(match[2]))
    ]


def beside(path: Path) -> Path:
    """Return this process's temporary path for `path`, free and in its folder, without what killed
    processes left there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, match = (
        path.with_name(f".{path.name}.new{os.getpid()}"),
        TEMPORARY.fullmatch(path.name),
    )
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
    temporary = beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        discard(temporary)


def write_json(path: Path, content: Any) -> None:
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, stage: str | None = None) -> Any:
    """Read JSON; with the stage that made it, a missing or damaged file is said in one sentence."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        if stage:
            raise InputError(f"{path} does not exist: run `dvc repro {stage}`") from None
        raise
    except ValueError as error:
        again = f": run `dvc repro {stage}`" if stage else ": restore or correct it"
        raise InputError(f"{path} is not valid JSON ({error}){again}") from None
