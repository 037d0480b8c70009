"""effects: raw scores -> effects, arms, values, equal_cost, coherence and the tables of
`study.FURTHER` as CSV; metrics.json.
"""

from pathlib import Path

import polars as pl

from pipeline.metrics.coherence import TABLE, coherence_table
from pipeline.metrics.question import Question
from pipeline.metrics.study import analyse, headline
from pipeline.stages.base import read_items
from pipeline.stages.stage import stage
from pipeline.study.behaviours import target_of
from pipeline.support.files import new_file, read_json, write_json
from pipeline.support.paths import BASE, REPORTS, behaviour_file, cell_folders, scores_folder
from pipeline.support.schemas import COHERENCE, SCORES, Schema, check, labels, read_table


def read_cell(folder: Path, name: str, schema: Schema) -> pl.DataFrame:
    """Read one table of a cell, which DVC makes first, since the parameters name it."""
    file = folder / f"{name}.parquet"
    return check(read_table(file, "effects"), schema, str(file))


def read_scores(folder: Path) -> pl.DataFrame:
    return read_cell(folder, "scores", SCORES)


def main() -> None:
    with stage("effects") as (params, run):
        items = read_items()
        target = target_of(behaviour_file(params.behaviour), params.evalset, labels(items))
        folders = cell_folders(params.methods, params.baselines, params.seeds)
        cells = {method: pl.concat(map(read_scores, own)) for method, own in folders.items()}
        base = read_scores(scores_folder(BASE))
        study = analyse(
            cells, Question(base, items, target.label, target.opposite, params.statistics)
        )
        main_tables = {
            name: getattr(study, name) for name in ("effects", "arms", "values", "equal_cost")
        }
        for name, table in (main_tables | study.further).items():
            with new_file(REPORTS / f"{name}.csv") as file:
                table.write_csv(file)
        with new_file(REPORTS / "coherence.csv") as file:
            if params.generation.coherence_tokens:
                every = [
                    scores_folder(BASE),
                    *(folder for own in folders.values() for folder in own),
                ]
                texts = pl.concat(read_cell(folder, "coherence", COHERENCE) for folder in every)
                coherence_table(texts).write_csv(file)
            else:
                pl.DataFrame(schema=TABLE).write_csv(file)
        write_json(REPORTS / "oracle.json", study.oracle)
        adapters = {
            name: hash
            for own in folders.values()
            for cell in own
            for name, hash in read_json(cell / "adapters.json").items()
        }
        write_json(REPORTS / "adapters.json", {"evalset": params.evalset, "adapters": adapters})
        metrics = headline(study)
        write_json(REPORTS / "metrics.json", metrics)
        run.log(
            {
                f"{method}/{name}": value
                for method, row in metrics.items()
                for name, value in row.items()
            }
        )
