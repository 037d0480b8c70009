"""effects: raw scores -> the tables of `metrics` as CSV, metrics.json."""

import itertools
from pathlib import Path

import polars as pl

from pipeline.metrics.coherence import TABLE, coherence_table
from pipeline.metrics.doses import equal_cost, random_ranks
from pipeline.metrics.effects import seed_effects
from pipeline.metrics.scores import Evaluation
from pipeline.metrics.study import analyse, arm_table, headline, untargeted
from pipeline.stages.base import read_controls, read_items
from pipeline.stages.stage import stage
from pipeline.study.behaviours import target_of, unmeasured
from pipeline.support.files import new_file, read_json, write_json
from pipeline.support.paths import BASE, REPORTS, behaviour_file, cell_folders, scores_folder
from pipeline.support.schemas import (
    COHERENCE,
    LIKELIHOOD,
    SCORES,
    Schema,
    check,
    labels,
    read_table,
)


def read_cell(folder: Path, name: str, schema: Schema) -> pl.DataFrame:
    """Read one table of a cell, which DVC makes first, since the parameters name it."""
    file = folder / f"{name}.parquet"
    return check(read_table(file, "effects"), schema, str(file))


def read_scores(folder: Path) -> pl.DataFrame:
    return read_cell(folder, "scores", SCORES)


def in_form(
    form: str, base: pl.DataFrame, scores: dict[str, pl.DataFrame], controls: pl.DataFrame | None
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame], pl.DataFrame | None]:
    """Return the rows of one form of scoring."""
    cells = {method: own.filter(form=form) for method, own in scores.items()}
    return base.filter(form=form), cells, None if controls is None else controls.filter(form=form)


def main() -> None:
    with stage("effects") as (params, run):
        items = read_items()
        file = behaviour_file(params.behaviour)
        target = target_of(file, params.evalset, labels(items))
        folders = cell_folders(params.methods, params.baselines, params.seeds)
        every = list(itertools.chain(*folders.values()))
        scores = {method: pl.concat(map(read_scores, own)) for method, own in folders.items()}
        base = read_scores(scores_folder(BASE))
        controls = None
        if read_controls().height:
            both = [scores_folder(BASE), *every]
            controls = pl.concat(read_cell(own, "controls", SCORES) for own in both)
        doses = pl.concat(read_table(own / "doses.parquet", "effects") for own in every)
        ungraded = doses.filter(pl.col("budget_reached").is_null())["method"].unique().to_list()
        forms = {}
        for form in params.scoring.forms:
            untouched, cells, tasks = in_form(form, base, scores, controls)
            about = (items, target.label, target.opposite, params.statistics, tasks, ungraded)
            forms[form] = cells, Evaluation(untouched, *about)
        main_form = forms[params.scoring.forms[0]]
        if target.label:
            study = analyse(*main_form)
            if len(forms) > 1:
                study.add_likelihood(arm_table(*forms[LIKELIHOOD]))
            equal = random_ranks(equal_cost(study.arms, doses), seed_effects(study.effects))
        else:
            print(unmeasured(file, params.evalset))
            study = untargeted(*main_form)
            equal = study.arms
        coherence = pl.DataFrame(schema=TABLE)
        if params.generation.coherence_tokens:
            texts = [
                read_cell(own, "coherence", COHERENCE) for own in (scores_folder(BASE), *every)
            ]
            coherence = coherence_table(pl.concat(texts))
        for name, table in (study.tables | {"equal_cost": equal, "coherence": coherence}).items():
            with new_file(REPORTS / f"{name}.csv") as new:
                table.write_csv(new)
        write_json(REPORTS / "oracle.json", study.oracle)
        measured = every if target.label else []
        adapters = {k: v for own in measured for k, v in read_json(own / "adapters.json").items()}
        write_json(REPORTS / "adapters.json", {"evalset": params.evalset, "adapters": adapters})
        figures = headline(study.arms)
        write_json(REPORTS / "metrics.json", figures)
        run.log({f"{method}/{k}": v for method, row in figures.items() for k, v in row.items()})
