"""report: the effects' tables -> reports/tables, figures, report.html, and MLflow's parent run."""

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
from pipeline.support.files import new_file, new_folder, read_json
from pipeline.support.formats import write_table
from pipeline.support.paths import (
    BASE,
    CHECKS,
    CODE,
    COMPOSITION,
    ITEMS,
    MANIFEST,
    PAIRS,
    REPORTS,
    SVD,
    adapter_folder,
    behaviour_file,
    cell_folders,
    scores_folder,
)
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


def read_cells(params: Params) -> dict[str, pl.DataFrame]:
    """Return each method's scores, all its seeds, and those of the base model under `base`."""
    folders = cell_folders(params.methods, params.baselines, params.seeds)
    folders[BASE] = [scores_folder(BASE)]
    return {
        method: pl.concat([read_table(f / "scores.parquet", "effects") for f in own]).filter(
            form=params.scoring.forms[0]
        )
        for method, own in folders.items()
    }


def read_texts(params: Params) -> pl.DataFrame:
    """Return the free texts of the base model and of all cells."""
    cells = cell_folders(params.methods, params.baselines, params.seeds)
    folders = [scores_folder(BASE), *(folder for own in cells.values() for folder in own)]
    return pl.concat([read_table(f / "coherence.parquet", "effects") for f in folders])


def read_adapters(cells: list[Cell], name: str, made_by: str) -> dict[Cell, dict[str, Any]]:
    return {cell: read_json(adapter_folder(*cell) / name, made_by) for cell in cells}


def read_results(params: Params) -> Results:
    scores = read_cells(params)
    base = scores.pop(BASE)
    learned = [(method, seed) for method in params.methods for seed in params.seeds]
    others = [
        (method, seed)
        for method in params.baselines
        for seed in scores[method]["seed"].unique(maintain_order=True)
    ]
    return Results(
        params=params,
        tables={name: read_csv(name) for name in TABLES},
        oracle=read_json(REPORTS / "oracle.json", "effects"),
        manifest=read_json(MANIFEST, "model"),
        behaviour=load_behaviour(behaviour_file(params.behaviour)),
        pairs=read_pairs(),
        items=read_items(),
        base=base,
        cells=scores,
        histories={
            method: {
                seed: read_table(adapter_folder(method, seed) / "history.parquet", "train")
                for seed in params.seeds
            }
            for method in params.methods
        },
        certificates=read_adapters(learned, "certificate.json", "train"),
        adapters=read_adapters(learned, "steering.json", "train")
        | read_adapters(others, "steering.json", "baselines"),
        texts=read_texts(params) if params.generation.coherence_tokens else None,
    )


def stage_records(params: Params) -> list[dict]:
    """Return the records of all stages before this one, for those that DVC took from its cache."""
    learned = [adapter_folder(m, s) for m in params.methods for s in params.seeds]
    others = [adapter_folder(m, 0) for m in params.baselines]
    cells = cell_folders(params.methods, params.baselines, params.seeds)
    scored = [folder for folders in cells.values() for folder in folders]
    early = [CODE, MANIFEST.parent, PAIRS, CHECKS, SVD, ITEMS, COMPOSITION]
    return read_records([*early, *learned, *others, scores_folder(BASE), *scored])


def main() -> None:
    with stage("report") as (params, run):
        results = read_results(params)
        tables = all_tables(results)
        with new_folder(REPORTS / "tables") as folder:
            for name, table in tables.items():
                write_table(folder, name, table)
        with new_folder(REPORTS / "figures") as folder:
            figures = draw(results, folder)
        items = read_json(ITEMS / "source.json", "evalset")
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
