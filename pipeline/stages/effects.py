"""effects: raw scores -> reports/effects.csv, arms.csv, values.csv, metrics.json."""

import polars as pl

from pipeline.errors import InputError
from pipeline.files import new_file, write_json
from pipeline.metrics.study import analyse, headline
from pipeline.pairs import load_behaviour
from pipeline.params import Declared
from pipeline.paths import REPORTS, behaviour_file, scores_folder
from pipeline.schemas import SCORES, check, labels
from pipeline.stages.base import read_items
from pipeline.stages.evaluate import BASE
from pipeline.stages.stage import stage


def cell_folders(params: Declared) -> dict[str, list]:
    """Return the score folders of exactly the cells that the parameters name; other files there are stale."""
    learned = {method: [scores_folder(method, seed) for seed in params["seeds"]] for method in params["methods"]}
    return learned | {method: [scores_folder(method)] for method in params["baselines"]}


def read_scores(folder) -> pl.DataFrame:
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
        cells = {method: pl.concat(map(read_scores, folders)) for method, folders in cell_folders(params).items()}
        base = read_scores(scores_folder(BASE))
        study = analyse(cells, base, items, target.label, target.opposite, params["statistics"])
        for name in ("effects", "arms", "values"):
            with new_file(REPORTS / f"{name}.csv") as file:
                getattr(study, name).write_csv(file)
        write_json(REPORTS / "oracle.json", study.oracle)
        metrics = headline(study)
        write_json(REPORTS / "metrics.json", metrics)
        run.log({f"{method}/{name}": value for method, row in metrics.items() for name, value in row.items()})
