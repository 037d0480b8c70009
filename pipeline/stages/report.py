"""report: the effects' tables -> reports/tables, figures, report.html, and MLflow's parent run."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.lm.load import choose_device
from pipeline.report.contents import all_tables, draw
from pipeline.report.context import context
from pipeline.report.manifest import manifest
from pipeline.report.page import render
from pipeline.report.results import Cell, Results
from pipeline.stages.base import read_items, read_pairs
from pipeline.stages.stage import stage
from pipeline.study import overview
from pipeline.study.behaviours import load_behaviour
from pipeline.study.params import Params
from pipeline.study.tracking import Run, read_records
from pipeline.support import paths
from pipeline.support.files import new_file, new_folder, read_json
from pipeline.support.formats import write_table
from pipeline.support.paths import BASE, REPORTS, adapter_folder, scores_folder
from pipeline.support.schemas import read_table

TABLES = (
    "effects", "arms", "values", "equal_cost", "coherence", "sensitivity", "differences",
    "nll_budget", "answers", "flips", "curves", "composition",
)  # fmt: skip


def read_csv(name: str) -> pl.DataFrame:
    """Return a table of reports/; whole columns may be empty, and a seed the word `mean`."""
    made_by, seed = "composition" if name == "composition" else "effects", {"seed": pl.String}
    path = REPORTS / f"{name}.csv"
    return read_table(path, made_by, infer_schema_length=None, schema_overrides=seed)


def read_cells(folders: Iterable[Path], name: str) -> pl.DataFrame:
    return pl.concat(read_table(folder / f"{name}.parquet", "effects") for folder in folders)


def read_adapters(cells: Iterable[Cell], name: str, made_by: str) -> dict[Cell, dict[str, Any]]:
    return {cell: read_json(adapter_folder(*cell) / name, made_by) for cell in cells}


def read_histories(method: str, seeds: list[int]) -> dict[int, pl.DataFrame]:
    files = {seed: adapter_folder(method, seed) / "history.parquet" for seed in seeds}
    return {seed: read_table(file, "train") for seed, file in files.items()}


def score_folders(params: Params) -> dict[str, list[Path]]:
    """Return the folders of each method's scores, those of the base model first."""
    cells = paths.cell_folders(params.methods, params.baselines, params.seeds)
    return {BASE: [scores_folder(BASE)]} | cells


def read_results(params: Params) -> Results:
    folders, texts = score_folders(params), None
    if params.generation.coherence_tokens:
        texts = read_cells(itertools.chain(*folders.values()), "coherence")
    form = params.scoring.forms[0]
    scores = {m: read_cells(own, "scores").filter(form=form) for m, own in folders.items()}
    learned = list(itertools.product(params.methods, params.seeds))
    seeds = {m: scores[m]["seed"].unique(maintain_order=True) for m in params.baselines}
    others = [(method, seed) for method, own in seeds.items() for seed in own]
    return Results(
        params=params,
        tables={name: read_csv(name) for name in TABLES},
        oracle=read_json(REPORTS / "oracle.json", "effects"),
        manifest=read_json(paths.MANIFEST, "model"),
        behaviour=load_behaviour(paths.behaviour_file(params.behaviour)),
        pairs=read_pairs(),
        items=read_items(),
        base=scores.pop(BASE),
        cells=scores,
        histories={m: read_histories(m, params.seeds) for m in params.methods},
        certificates=read_adapters(learned, "certificate.json", "train"),
        adapters=read_adapters(learned, "steering.json", "train")
        | read_adapters(others, "steering.json", "baselines"),
        texts=texts,
        elicitation=read_json(paths.CHECKS / "elicitation.json", "checks"),
    )


def stage_records(params: Params) -> list[dict]:
    """Return the records of all stages before this one, for those that DVC took from its cache."""
    fits = [adapter_folder(m, s) for m, s in itertools.product(params.methods, params.seeds)]
    fits += [adapter_folder(method, 0) for method in params.baselines]
    early = [paths.CODE, paths.MANIFEST.parent, paths.PAIRS, paths.CHECKS, paths.SVD, paths.ITEMS]
    scored = itertools.chain(*score_folders(params).values())
    return read_records([*early, paths.COMPOSITION, *fits, *scored])


def main() -> None:
    with stage("report") as (params, run):
        results = read_results(params)
        tables = all_tables(results)
        with new_folder(REPORTS / "tables") as folder:
            for name, table in tables.items():
                write_table(folder, name, table)
        with new_folder(REPORTS / "figures") as folder:
            figures = draw(results, folder)
        items = read_json(paths.ITEMS / "source.json", "evalset")
        made_by = manifest(results.manifest, items, params, str(choose_device("auto")))
        with new_file(REPORTS / "report.html") as file:
            used = Path("params.yaml").read_text(encoding="utf-8")
            page = render(tables, figures, context(results, made_by, used))
            file.write_text(page, encoding="utf-8")
        publish(run, results)
        run.complete(stage_records(params))


def publish(run: Run, results: Results) -> None:
    """Show the study and all of reports/ on the MLflow parent run."""
    if results.unmeasured:
        run.describe(results.unmeasured)
    else:
        overview.show(run, REPORTS, results.tables["effects"])
    files = ("report.html", *(f"{table}.csv" for table in TABLES), "metrics.json")
    for name in (*files, "figures", "tables"):
        run.artifact(REPORTS / name, name if (REPORTS / name).is_dir() else None, parent=True)
