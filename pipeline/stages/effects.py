"""effects: raw scores -> reports/effects.csv, arms.csv, values.csv, equal_cost.csv, metrics.json."""

from pathlib import Path

import polars as pl

from pipeline.behaviours import target_of
from pipeline.files import new_file, write_json
from pipeline.metrics.study import analyse, headline
from pipeline.paths import BASE, REPORTS, behaviour_file, cell_folders, scores_folder
from pipeline.schemas import SCORES, check, labels, read_table
from pipeline.stages.base import read_items
from pipeline.stages.stage import stage


def read_scores(folder: Path) -> pl.DataFrame:
    file = folder / "scores.parquet"
    return check(read_table(file, "effects"), SCORES, str(file))  # DVC makes its cell first, which the parameters name


def main() -> None:
    with stage("effects") as (params, run):
        items = read_items()
        target = target_of(behaviour_file(params["behaviour"]), params["evalset"], labels(items))
        folders = cell_folders(params["methods"], params["baselines"], params["seeds"])
        cells = {method: pl.concat(map(read_scores, own)) for method, own in folders.items()}
        base = read_scores(scores_folder(BASE))
        study = analyse(cells, base, items, target.label, target.opposite, params["statistics"])
        for name in ("effects", "arms", "values", "equal_cost"):
            with new_file(REPORTS / f"{name}.csv") as file:
                getattr(study, name).write_csv(file)
        write_json(REPORTS / "oracle.json", study.oracle)
        metrics = headline(study)
        write_json(REPORTS / "metrics.json", metrics)
        run.log({f"{method}/{name}": value for method, row in metrics.items() for name, value in row.items()})
