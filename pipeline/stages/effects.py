"""effects: raw scores -> effects, arms, values, equal_cost, coherence and the tables of `study.FURTHER` as CSV; metrics.json."""

from pathlib import Path

import polars as pl

from pipeline.behaviours import load_behaviour
from pipeline.errors import InputError
from pipeline.files import new_file, write_json
from pipeline.metrics.coherence import TABLE, coherence_table
from pipeline.metrics.question import Question
from pipeline.metrics.study import analyse, headline
from pipeline.paths import BASE, REPORTS, behaviour_file, cell_folders, scores_folder
from pipeline.schemas import COHERENCE, SCORES, Schema, check, labels
from pipeline.stages.base import read_items
from pipeline.stages.stage import stage


def read_table(folder: Path, name: str, schema: Schema) -> pl.DataFrame:
    file = folder / f"{name}.parquet"
    if not file.exists():
        raise InputError(f"{file} does not exist although the parameters ask for it: run `dvc repro`")
    return check(pl.read_parquet(file), schema, str(file))


def read_scores(folder: Path) -> pl.DataFrame:
    return read_table(folder, "scores", SCORES)


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
        study = analyse(cells, Question(base, items, target.label, target.opposite, params["statistics"]))
        main_tables = {name: getattr(study, name) for name in ("effects", "arms", "values", "equal_cost")}
        for name, table in (main_tables | study.further).items():
            with new_file(REPORTS / f"{name}.csv") as file:
                table.write_csv(file)
        with new_file(REPORTS / "coherence.csv") as file:
            if params["generation"].coherence_tokens:
                every = [scores_folder(BASE), *(folder for own in folders.values() for folder in own)]
                texts = pl.concat(read_table(folder, "coherence", COHERENCE) for folder in every)
                coherence_table(texts).write_csv(file)
            else:
                pl.DataFrame(schema=TABLE).write_csv(file)
        write_json(REPORTS / "oracle.json", study.oracle)
        metrics = headline(study)
        write_json(REPORTS / "metrics.json", metrics)
        run.log({f"{method}/{name}": value for method, row in metrics.items() for name, value in row.items()})
