"""effects: raw scores -> the tables of `metrics` as CSV, metrics.json."""

import itertools

import polars as pl

from pipeline.metrics import study
from pipeline.metrics.coherence import TABLE, coherence_table
from pipeline.metrics.doses import equal_cost, random_ranks
from pipeline.metrics.effects import seed_effects
from pipeline.metrics.scores import Evaluation
from pipeline.stages.base import read, read_controls, read_items
from pipeline.stages.stage import stage
from pipeline.study.behaviours import target_of, unmeasured
from pipeline.support.files import new_file, read_json, write_json
from pipeline.support.paths import (
    BASE,
    REPORTS,
    adapter_folder,
    behaviour_file,
    cell_folders,
    scores_folder,
)
from pipeline.support.schemas import COHERENCE, LIKELIHOOD, SCORES, labels, read_table


def with_signs(doses: pl.DataFrame) -> pl.DataFrame:
    """Add what the probes said of each fit's sign; null where the method itself knows it."""
    fits = doses.select("method", "seed").rows()
    signs = [read_json(adapter_folder(*fit) / "steering.json")["sign"] for fit in fits]
    decided = [sign["decided"] if sign else None for sign in signs]
    return doses.with_columns(pl.Series("sign_decided", decided, pl.Boolean))


def main() -> None:
    with stage("effects") as (params, run):
        items, file = read_items(), behaviour_file(params.behaviour)
        target = target_of(file, params.evalset, labels(items))
        folders = cell_folders(params.methods, params.baselines, params.seeds)
        base, every = scores_folder(BASE), list(itertools.chain(*folders.values()))

        def read_all(own, name, schema):
            return pl.concat(read(folder / f"{name}.parquet", "effects", schema) for folder in own)

        scores = {method: read_all(own, "scores", SCORES) for method, own in folders.items()}
        untouched = read_all([base], "scores", SCORES)
        controls = None
        if read_controls().height:
            controls = read_all([base, *every], "controls", SCORES)
        doses = with_signs(pl.concat(read_table(own / "doses.parquet", "effects") for own in every))
        ungraded = doses.filter(pl.col("budget_reached").is_null())["method"].unique().to_list()

        def in_form(form):
            """Return the methods' scores in one form of scoring, and what they stand against."""
            about = items, target.label, target.opposite, params.statistics
            tasks = None if controls is None else controls.filter(form=form)
            evaluation = Evaluation(untouched.filter(form=form), *about, tasks, ungraded)
            return {method: own.filter(form=form) for method, own in scores.items()}, evaluation

        forms = params.scoring.forms
        main_form = in_form(forms[0])
        if target.label:
            tables, oracle = study.analyse(*main_form), study.oracle_effects(main_form[1])
            if len(forms) > 1:
                tables["arms"] = study.with_likelihood(tables["arms"], *in_form(LIKELIHOOD))
            equal = equal_cost(tables["arms"], doses)
            tables["equal_cost"] = random_ranks(equal, seed_effects(tables["effects"]))
        else:
            print(unmeasured(file, params.evalset))
            tables, oracle = study.untargeted(*main_form), []
            tables["equal_cost"] = tables["arms"]
        tables["coherence"] = pl.DataFrame(schema=TABLE)
        if params.generation.coherence_tokens:
            texts = read_all([base, *every], "coherence", COHERENCE)
            tables["coherence"] = coherence_table(texts)
        for name, table in tables.items():
            with new_file(REPORTS / f"{name}.csv") as new:
                table.write_csv(new)
        write_json(REPORTS / "oracle.json", oracle)
        measured = every if target.label else []
        adapters = {k: v for own in measured for k, v in read_json(own / "adapters.json").items()}
        write_json(REPORTS / "adapters.json", {"evalset": params.evalset, "adapters": adapters})
        figures = study.headline(tables["arms"])
        write_json(REPORTS / "metrics.json", figures)
        run.log({f"{method}/{k}": v for method, row in figures.items() for k, v in row.items()})
