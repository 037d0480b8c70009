"""report: the effects' tables -> reports/tables, reports/figures, reports/report.html, and the MLflow parent run."""

import base64
import json
from importlib.metadata import version
from pathlib import Path

import jinja2
import polars as pl

from pipeline import appendix, figures, tables
from pipeline.behaviours import load_behaviour
from pipeline.declared import Declared
from pipeline.files import new_file, new_folder, read_json
from pipeline.paths import (
    BASE,
    COMPOSITION,
    ITEMS,
    MANIFEST,
    METHOD_FILES,
    PAIRS,
    REPORTS,
    SVD,
    adapter_folder,
    behaviour_file,
    cell_folders,
    scores_folder,
)
from pipeline.rendering import as_html, write_table
from pipeline.schemas import MEAN, read_table
from pipeline.stages.stage import stage
from pipeline.statistics_tables import SECTIONS, statistics_tables
from pipeline.tracking import read_records

SOURCES = ("effects", "arms", "values", "equal_cost", "composition", "coherence")
FURTHER = ("sensitivity", "differences", "nll_budget", "answers", "flips", "curves")
PACKAGES = ("torch", "transformers", "polars", "statsmodels", "dvc", "mlflow")
SYNTHETIC = {
    "model": "The bundled reference model is a small network trained on a generated world.",
    "evalset": "The dilemmas come from the generated reference world.",
}
NO_MORE = "The figures show how the methods compare on a model organism; they say nothing about real models or people."


def synthetic_note(params: Declared) -> str:
    """Say what of the study is synthetic; empty where nothing is."""
    found = [text for key, text in SYNTHETIC.items() if params[key] == "reference"]
    return " ".join([*found, NO_MORE]) if found else ""


def caption(params: Declared, arms: pl.DataFrame, synthetic: bool) -> str:
    seeds = ", ".join(map(str, params["seeds"]))
    world = " (synthetic)" if synthetic else ""
    return (
        f"{params['model']}{world}, {params['behaviour']} on {params['evalset']}; {arms['n_dilemmas'][0]} dilemmas; seeds {seeds}"
    )


def histories(params: Declared) -> dict[str, dict[int, pl.DataFrame]]:
    return {
        method: {seed: read_table(adapter_folder(method, seed) / "history.parquet", "train") for seed in params["seeds"]}
        for method in params["methods"]
    }


def draw(params: Declared, effects: pl.DataFrame, oracle: list, text: str) -> dict[str, str]:
    """Draw all figures into reports/figures and return the SVGs in base64."""
    with new_folder(REPORTS / "figures") as folder:
        figures.effect_vs_coherence(folder, effects, text)
        figures.dose_response(folder, effects, oracle, text)
        if curves := histories(params):
            figures.training_curves(folder, curves, text)
    return {file.stem: base64.b64encode(file.read_bytes()).decode() for file in (REPORTS / "figures").glob("*.svg")}


def certificates(params: Declared) -> dict[tuple[str, int], dict]:
    cells = [(method, seed) for method in params["methods"] for seed in params["seeds"]]
    return {cell: read_json(adapter_folder(*cell) / "certificate.json", "train") for cell in cells}


def ablations(params: Declared, arms: pl.DataFrame, equal: pl.DataFrame) -> pl.DataFrame:
    """Return the table of ablations; empty where no method has any."""
    whole = appendix.whole_methods(params["methods"], params["steering"])
    with_variants = {root for method, root in whole.items() if method != root}
    return appendix.ablation_table(arms, equal, {method: root for method, root in whole.items() if root in with_variants})


def stage_records(params: Declared) -> list[dict]:
    """Return the records of all stages before this one, for those that DVC took from its cache."""
    learned = [adapter_folder(m, s) for m in params["methods"] for s in params["seeds"]]
    others = [adapter_folder(m, 0) for m in params["baselines"]]
    cells = cell_folders(params["methods"], params["baselines"], params["seeds"])
    scored = [folder for folders in cells.values() for folder in folders]
    early = [MANIFEST.parent, PAIRS, SVD, METHOD_FILES, ITEMS, COMPOSITION]
    return read_records([*early, *learned, *others, scores_folder(BASE), *scored])


def read_further(name: str) -> pl.DataFrame:
    """Return a table of the further statistics, whose columns may be empty for thousands of rows."""
    return read_table(REPORTS / f"{name}.csv", "effects", infer_schema_length=None)


def main() -> None:
    with stage("report") as (params, run):
        effects, arms, values, equal, composition, coherence = (
            read_table(REPORTS / f"{name}.csv", "effects composition", schema_overrides={"seed": pl.String}) for name in SOURCES
        )
        further = {name: read_further(name) for name in FURTHER}
        oracle, manifest = read_json(REPORTS / "oracle.json", "effects"), read_json(MANIFEST, "model")
        synthetic = synthetic_note(params)
        unit = tables.nearest_to_one(arms)
        shown = {
            "source_table": tables.source_table(arms, equal, params["behaviour"]),
            "equal_cost_table": tables.equal_cost_table(equal),
            "full_table": tables.full_table(arms),
            "seeds_table": tables.seeds_table(effects),
            "values_table": tables.values_table(values, unit),
            "certificates_table": appendix.certificates_table(certificates(params)),
            "composition_table": appendix.composition_table(composition),
            "coherence_table": appendix.coherence_table(coherence),
            "ablation_table": ablations(params, arms, equal),
            **statistics_tables(further, arms),
        }
        shown = {name: table for name, table in shown.items() if table.height}
        with new_folder(REPORTS / "tables") as folder:
            for name, table in shown.items():
                write_table(folder, name.removesuffix("_table"), table)
        drawn = draw(params, effects, oracle, caption(params, arms, bool(synthetic)))
        page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
            Path("pipeline/report.html.jinja").read_text()
        )
        target = load_behaviour(behaviour_file(params["behaviour"])).targets[params["evalset"]].label
        versions = {name: version(name) for name in PACKAGES}
        text = page.render(
            params=params, manifest=manifest, target=target, n_dilemmas=arms["n_dilemmas"][0], oracle=oracle, unit=unit,
            synthetic=synthetic, further=SECTIONS, figures={"training": ""} | drawn,
            manifest_text=json.dumps(manifest | {"packages": versions}, indent=2), params_text=Path("params.yaml").read_text(),
            budget=params["dose"], pair=params["composition"], tables={name: as_html(table) for name, table in shown.items()},
        )  # fmt: skip
        with new_file(REPORTS / "report.html") as file:
            file.write_text(text)
        publish(run, effects)
        run.complete(stage_records(params))


def publish(run, effects: pl.DataFrame) -> None:
    """Put the headline metrics, the dose charts and all of reports/ on the MLflow parent run."""
    headline = read_json(REPORTS / "metrics.json", "effects")
    run.curve([(0, {f"{m}/{k}": v for m, row in headline.items() for k, v in row.items()})], parent=True)
    doses = effects.filter(pl.col("seed") == MEAN).iter_rows(named=True)
    # Steps are whole numbers, so the chart of dose counts in thousandths of the coefficient.
    points = [(round(1000 * r["coefficient"]), {f"{r['method']}/effect_by_dose": r["target_effect"]}) for r in doses]
    run.curve(points, parent=True)
    for name in ("report.html", *(f"{source}.csv" for source in (*SOURCES, *FURTHER)), "metrics.json", "figures", "tables"):
        run.artifact(REPORTS / name, name if (REPORTS / name).is_dir() else None, parent=True)
