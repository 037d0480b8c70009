"""effects: raw scores -> reports/effects.csv, arms.csv, values.csv, equal_cost.csv, metrics.json, adapters.json."""

from pathlib import Path

import polars as pl

from pipeline.behaviours import load_behaviour
from pipeline.errors import InputError
from pipeline.files import new_file, read_json, write_json
from pipeline.metrics.study import analyse, headline
from pipeline.paths import BASE, REPORTS, behaviour_file, cell_folders, scores_folder
from pipeline.schemas import SCORES, check, labels
from pipeline.stages.base import read_items
from pipeline.stages.stage import stage


def read_scores(folder: Path) -> pl.DataFrame:
    file = folder / "scores.parquet"
    if not file.exists():
        raise InputError(f"{file} does not exist although the parameters name its cell: run `dvc repro`")
    return check(pl.read_parquet(file), SCORES, str(file))


def main() -> None:
    with stage("effects") as (params, run):
        items, behaviour = read_items(), load_behaviour(behaviour_file(params["behaviour"]))
        target = behaviour.targets.get(params["evalset"])
        if target is None or target.label not in labels(items):
            raise InputError(
                f"behaviour {params['behaviour']!r} has no target among the labels of {params['evalset']!r}: "
                f"add one under targets in {behaviour_file(params['behaviour'])}"
            )
        folders = cell_folders(params["methods"], params["baselines"], params["seeds"])
        cells = {method: pl.concat(map(read_scores, own)) for method, own in folders.items()}
        base = read_scores(scores_folder(BASE))
        study = analyse(cells, base, items, target.label, target.opposite, params["statistics"])
        for name in ("effects", "arms", "values", "equal_cost"):
            with new_file(REPORTS / f"{name}.csv") as file:
                getattr(study, name).write_csv(file)
        write_json(REPORTS / "oracle.json", study.oracle)
        adapters = {
            name: hash for own in folders.values() for cell in own for name, hash in read_json(cell / "adapters.json").items()
        }
        write_json(REPORTS / "adapters.json", {"evalset": params["evalset"], "adapters": adapters})
        metrics = headline(study)
        write_json(REPORTS / "metrics.json", metrics)
        run.log({f"{method}/{name}": value for method, row in metrics.items() for name, value in row.items()})
