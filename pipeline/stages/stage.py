"""What surrounds every stage: declared parameters, tracking, processes, the guard on late edits."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from pipeline.study.code import check_current
from pipeline.study.declared import Declared, stage_files, stage_params, stage_paths
from pipeline.study.params import Params
from pipeline.study.tracking import IS_MAIN, Run, tracked
from pipeline.support.errors import InputError
from pipeline.support.paths import CODE, ROOT
from pipeline.support.scratch import FOLDER, Scratch, forget


@contextlib.contextmanager
def stage(name: str, **item: str | int) -> Iterator[tuple[Params, Run]]:
    """Yield the stage's declared parameters and its run; `item` is the matrix cell.

    A change of params.yaml meanwhile is refused: DVC reads it after the command, and would lock new
    values with old outputs.
    """
    cell = {key: str(value) for key, value in item.items()}
    params = stage_params(name, cell)
    for file in stage_paths(name, cell):
        if CODE in file.parents:
            check_current(file)
    named = os.environ.get("DVC_STAGE", title(name, cell))  # as DVC names it
    with shared(params), tracked(named, params) as run:
        yield params.view(), run
        if stage_params(name, cell) != params:
            raise InputError(
                "params.yaml changed while the stage was running: run `dvc repro` again"
            )


def title(name: str, cell: dict[str, str]) -> str:
    return "@".join([name, "-".join(cell.values())]) if cell else name


@contextlib.contextmanager
def shared(params: Declared) -> Iterator[None]:
    """Join the other processes, of which only the first speaks; no `processes` means the first."""
    if "WORLD_SIZE" not in os.environ:
        yield
    elif "processes" in params:
        from pipeline.lm.processes import joined

        with joined(params["device"]), contextlib.nullcontext() if IS_MAIN else silence():
            yield
    elif IS_MAIN:
        yield
    else:
        raise SystemExit(0)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield


@contextlib.contextmanager
def scratch(name: str, **item: str | int) -> Iterator[Scratch]:
    """Yield a place for what a cell has so far; the next run of the same cell finds it again.

    It is emptied when the body succeeds. Its name holds a hash of the parameters, files and library
    versions that determine the cell. It lies in the user's checkout, because the workspace of a
    queued experiment does not outlive it. What others left there long ago is removed.
    """
    cell = {key: str(value) for key, value in item.items()}
    digest = hashlib.sha256(repr(sorted(stage_params(name, cell).items())).encode())
    for package in ("torch", "transformers"):
        digest.update(version(package).encode())
    for file in stage_files(name, cell):
        with file.open("rb") as handle:
            digest.update(f"\0{file}\0{hashlib.file_digest(handle, 'sha256').hexdigest()}".encode())
    kept = Scratch(ROOT / FOLDER / f"{title(name, cell)}-{digest.hexdigest()[:16]}")
    if IS_MAIN:
        forget(ROOT / FOLDER)
    yield kept
    if IS_MAIN:
        kept.clear()
