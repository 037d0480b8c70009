"""What every stage does around its own work: declared parameters, tracking, and the guard against late edits."""

import contextlib
from collections.abc import Iterator

from pipeline.declared import Declared, stage_name, stage_params
from pipeline.errors import InputError
from pipeline.tracking import Run, tracked


@contextlib.contextmanager
def stage(name: str, **item: str | int) -> Iterator[tuple[Declared, Run]]:
    """Yield the stage's declared parameters and its run; `item` is the matrix cell.

    DVC reads params.yaml after the command and would lock new values with old outputs, so a change in between is refused.
    """
    cell = {key: str(value) for key, value in item.items()}
    params = stage_params(name, cell)
    title = "@".join([name, "-".join(cell.values())]) if cell else name
    with tracked(stage_name(title), params) as run:
        yield params, run
        if stage_params(name, cell) != params:
            raise InputError("params.yaml changed while the stage was running: run `dvc repro` again")
