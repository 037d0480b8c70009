"""The trained adapter of the bundled model, kept in the repository for whoever has trained none."""

import hashlib
from pathlib import Path
from typing import Any

from pipeline.study.code import Code, check_current, entry
from pipeline.study.declared import stage_files, stage_params
from pipeline.study.params import load_params
from pipeline.study.store import flatten
from pipeline.support.errors import InputError
from pipeline.support.files import read_json, write_json
from pipeline.support.paths import adapter_folder, code_file, resolve_source

METHOD, SEED = "innerpissa", 0
BUNDLED = Path("models/bundled") / METHOD
FITTED = "fitted.json"  # what the fit depends on


def default_adapter() -> str:
    """Return the folder of the checkout's own trained adapter, else of the bundled one."""
    for folder in (adapter_folder(METHOD, SEED), BUNDLED):
        if (place := resolve_source(str(folder))) and (place / "steering.json").exists():
            return str(folder)
    raise InputError(
        "no adapter is trained here: run `make quick` or `make repro` in the project's folder, or "
        "name one with --adapter"
    )


def fitted() -> dict[str, Any]:
    """Return the parameters, the hashes of the code and of the pairs' sources behind the fit."""
    declared = stage_params("pairs") | stage_params("train", {"method": METHOD, "seed": str(SEED)})
    section = {"section": load_params().steering[METHOD]}
    starts = entry("stages", "train"), entry("stages", "pairs"), entry("methods", METHOD)
    sources = [file for file in stage_files("pairs") if Path("data/raw") in file.parents]
    return {
        "params": {key: str(value) for key, value in flatten(declared | section)},
        "code": {k: v for start in starts for k, v in sorted(Code().hashes(start).items())},
        "files": {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in sources},
    }


def stale(folder: Path = BUNDLED) -> list[str]:
    """Return which parameters, definitions and files have changed since the adapter was kept."""
    kept, now = read_json(folder / FITTED), fitted()
    return [
        f"{part}: {name}"
        for part in now
        for name in sorted(now[part].keys() | kept[part].keys())
        if now[part].get(name) != kept[part].get(name)
    ]


def main(folder: Path = BUNDLED) -> None:
    """Keep the trained adapter of the default study, with certificate and card."""
    source = adapter_folder(METHOD, SEED)
    check_current(code_file("stages", "train"))
    check_current(code_file("methods", METHOD))
    if not (source / "certificate.json").exists():
        raise InputError(f"{source} is not trained: run `make bundle`")
    from pipeline.app.export import command  # which chat does not need

    command.main([str(source)], "hub", 1.0, str(folder), None, True)
    write_json(folder / FITTED, fitted())
