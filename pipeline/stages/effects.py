"""effects: raw scores -> the tables of `metrics` as CSV, metrics.json."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl

from pipeline.metrics import study
from pipeline.metrics.coherence import TABLE, coherence_table
from pipeline.metrics.doses import equal_cost, random_ranks
from pipeline.metrics.effects import seed_effects
from pipeline.metrics.scores import Evaluation
from pipeline.metrics.study import Tables
from pipeline.stages.base import read, read_controls, read_items
from pipeline.stages.stage import stage
from pipeline.study.behaviours import Target, target_of, unmeasured
from pipeline.study.params import Params
from pipeline.study.tracking import Run
from pipeline.support import paths
from pipeline.support.files import new_file, read_json, write_json
from pipeline.support.paths import BASE, REPORTS, scores_folder
from pipeline.support.schemas import COHERENCE, LIKELIHOOD, SCORES, Schema, labels, read_table


def main() -> None:
    with stage("effects") as (params, run):
        file, items = paths.behaviour_file(params.behaviour), read_items()
        target, forms = target_of(file, params.evalset, labels(items)), params.scoring.forms
        folders = paths.cell_folders(params.methods, params.baselines, params.seeds)
        every = list(itertools.chain(*folders.values()))
        doses = with_signs(pl.concat(read_table(own / "doses.parquet", "effects") for own in every))
        evaluation = evaluate(params, items, target, doses, every)
        scores = {method: read_all(own, "scores", SCORES) for method, own in folders.items()}
        cells, main_form = in_form(scores, evaluation, forms[0])
        if target.label:
            tables, oracle = study.analyse(cells, main_form), study.oracle_effects(main_form)
            if len(forms) > 1:
                other = in_form(scores, evaluation, LIKELIHOOD)
                tables["arms"] = study.with_likelihood(tables["arms"], *other)
            equal = equal_cost(tables["arms"], doses)
            tables["equal_cost"] = random_ranks(equal, seed_effects(tables["effects"]))
        else:
            print(unmeasured(file, params.evalset))
            tables, oracle = study.untargeted(cells, main_form), []
            tables["equal_cost"] = tables["arms"]
        tables["coherence"] = pl.DataFrame(schema=TABLE)
        if params.generation.coherence_tokens:
            texts = read_all([scores_folder(BASE), *every], "coherence", COHERENCE)
            tables["coherence"] = coherence_table(texts)
        write_json(REPORTS / "oracle.json", oracle)
        read = [read_json(own / "adapters.json") for own in (every if target.label else [])]
        hashes = {name: digest for own in read for name, digest in own.items()}
        write_json(REPORTS / "adapters.json", {"evalset": params.evalset, "adapters": hashes})
        write(tables, run)


def read_all(folders: Iterable[Path], name: str, schema: Schema) -> pl.DataFrame:
    return pl.concat(read(folder / f"{name}.parquet", "effects", schema) for folder in folders)


def with_signs(doses: pl.DataFrame) -> pl.DataFrame:
    """Add what the probes said of each fit's sign; null where the method itself knows it."""
    fits = doses.select("method", "seed").rows()
    signs = [read_json(paths.adapter_folder(*fit) / "steering.json")["sign"] for fit in fits]
    decided = [sign["decided"] if sign else None for sign in signs]
    return doses.with_columns(pl.Series("sign_decided", decided, pl.Boolean))


def evaluate(
    params: Params, items: pl.DataFrame, target: Target, doses: pl.DataFrame, every: list[Path]
) -> Evaluation:
    """Return what the scores of every method, in all forms, are measured against."""
    base, controls = scores_folder(BASE), None
    if read_controls().height:
        controls = read_all([base, *every], "controls", SCORES)
    ungraded = doses.filter(pl.col("budget_reached").is_null())["method"].unique().to_list()
    about = items, target.label, target.opposite, params.statistics
    return Evaluation(read_all([base], "scores", SCORES), *about, controls, ungraded)


def in_form(scores: Tables, whole: Evaluation, form: str) -> tuple[Tables, Evaluation]:
    """Return the methods' scores in one form of scoring, and what they stand against."""
    controls = None if whole.controls is None else whole.controls.filter(form=form)
    evaluation = replace(whole, base=whole.base.filter(form=form), controls=controls)
    return {method: own.filter(form=form) for method, own in scores.items()}, evaluation


def write(tables: Tables, run: Run) -> None:
    for name, table in tables.items():
        with new_file(REPORTS / f"{name}.csv") as new:
            table.write_csv(new)
    figures = study.headline(tables["arms"])
    write_json(REPORTS / "metrics.json", figures)
    run.log({f"{method}/{k}": v for method, row in figures.items() for k, v in row.items()})
