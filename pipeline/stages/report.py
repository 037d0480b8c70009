"""report: the effects' tables -> reports/tables, reports/figures, reports/report.html, and the MLflow parent run."""

import base64
import json
from pathlib import Path

import polars as pl

from pipeline import appendix, figures, overview, page, tables
from pipeline.behaviours import load_behaviour
from pipeline.declared import Declared
from pipeline.examples import Example, examples, seed_effects
from pipeline.files import new_file, new_folder, read_json
from pipeline.manifest import manifest as reproduction
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
from pipeline.rendering import write_table
from pipeline.schemas import read_table
from pipeline.stages.base import read_items
from pipeline.stages.stage import stage
from pipeline.statistics_tables import statistics_tables
from pipeline.tracking import read_records

SOURCES = ("effects", "arms", "values", "equal_cost", "composition", "coherence")
FURTHER = ("sensitivity", "differences", "nll_budget", "answers", "flips", "curves")
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
    study = f"{params['model']}{' (synthetic)' if synthetic else ''}, {params['behaviour']} on {params['evalset']}"
    return f"{study}; n = {arms['n_dilemmas'][0]} dilemmas; seeds {seeds}"


def histories(params: Declared) -> dict[str, dict[int, pl.DataFrame]]:
    return {
        method: {seed: read_table(adapter_folder(method, seed) / "history.parquet", "train") for seed in params["seeds"]}
        for method in params["methods"]
    }


def draw(params: Declared, frames: dict[str, pl.DataFrame], oracle: list, target: str, text: str) -> dict[str, str]:
    """Draw all figures into reports/figures and return the SVGs in base64."""
    effects, arms, equal = frames["effects"], frames["arms"], frames["equal_cost"]
    dose, unit, n_items = params["dose"], tables.nearest_to_one(arms), frames["items"].height
    with new_folder(REPORTS / "figures") as folder:
        # The budget is a line only where it is in the units of the axis; else the rings alone mark it.
        budget = dose.budget if dose.measure == "delta_nll" else None
        figures.effect_vs_coherence(folder, effects, arms, equal, budget, text)
        figures.dose_response(folder, effects, oracle, text)
        figures.forest(folder, equal, frames["seeds"], text)
        figures.value_map(folder, frames["values"], target, unit, text)
        figures.choice_mass(folder, effects, params["statistics"].min_choice_mass, n_items, text)
        if curves := histories(params):
            figures.training_curves(folder, curves, text)
    return {file.stem: base64.b64encode(file.read_bytes()).decode() for file in (REPORTS / "figures").glob("*.svg")}


def read_cells(params: Declared) -> dict[str, pl.DataFrame]:
    """Return each method's scores, all its seeds, and those of the base model under `base`."""
    folders = cell_folders(params["methods"], params["baselines"], params["seeds"]) | {BASE: [scores_folder(BASE)]}
    return {method: pl.concat([read_table(f / "scores.parquet", "evaluate") for f in own]) for method, own in folders.items()}


def pick_examples(
    params: Declared,
    cells: dict[str, pl.DataFrame],
    base: pl.DataFrame,
    items: pl.DataFrame,
    equal: pl.DataFrame,
    target: str,
    unit: float,
) -> list[Example]:
    """Return single dilemmas of the best trained method (at equal cost) and of the first kind of prompting."""
    trained = equal.filter(pl.col("method").is_in(params["methods"])).sort("target_effect", descending=True)["method"].to_list()
    prompts = [method for method in params["baselines"] if params["steering"][method].method == "prompting"]
    chosen = trained[:1] + prompts[:1]
    return [example for m in chosen for example in examples(m, cells[m], base, items, target, unit)]


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
        items = read_items()
        synthetic = synthetic_note(params)
        unit = tables.nearest_to_one(arms)
        target = load_behaviour(behaviour_file(params["behaviour"])).targets[params["evalset"]].label
        cells = read_cells(params)
        base = cells.pop(BASE)
        seeds = seed_effects(cells, base, items, target)
        found = pick_examples(params, cells, base, items, equal, target, unit)
        shown = {
            "source_table": tables.source_table(arms, equal, params["behaviour"]),
            "equal_cost_table": tables.equal_cost_table(equal),
            "full_table": tables.full_table(arms),
            "seeds_table": tables.seeds_table(effects),
            "seeds_equal_cost_table": appendix.seeds_equal_cost_table(seeds),
            "examples_table": appendix.examples_table(found),
            "values_table": tables.values_table(values, unit),
            "certificates_table": appendix.certificates_table(certificates(params)),
            "composition_table": appendix.composition_table(composition),
            "coherence_table": appendix.coherence_table(coherence),
            "ablation_table": ablations(params, arms, equal),
            **statistics_tables(further, arms),
        }
        shown = {name.removesuffix("_table"): table for name, table in shown.items() if table.height}
        with new_folder(REPORTS / "tables") as folder:
            for name, table in shown.items():
                write_table(folder, name, table)
        frames = {"effects": effects, "arms": arms, "equal_cost": equal, "values": values, "seeds": seeds, "items": items}
        drawn = draw(params, frames, oracle, target, caption(params, arms, bool(synthetic)))
        shown.pop("examples", None)  # the page shows them with their texts
        context = {
            "params": params, "manifest": manifest, "synthetic": synthetic, "target": target, "oracle": oracle, "unit": unit,
            "n_dilemmas": arms["n_dilemmas"][0], "budget": params["dose"], "pair": params["composition"], "examples": found,
            "headline": page.headline(equal, params["methods"]), "setup": page.setup(params, arms, items),
            "name_of": tables.name_of, "words": page.ACTIONS, "reproduction": reproduction(manifest, params),
            "manifest_text": json.dumps(manifest, indent=2), "params_text": Path("params.yaml").read_text(),
        }  # fmt: skip
        with new_file(REPORTS / "report.html") as file:
            file.write_text(page.render(shown, drawn, context))
        publish(run, effects)
        run.complete(stage_records(params))


def publish(run, effects: pl.DataFrame) -> None:
    """Show the study and all of reports/ on the MLflow parent run."""
    overview.show(run, REPORTS, effects)
    for name in ("report.html", *(f"{source}.csv" for source in (*SOURCES, *FURTHER)), "metrics.json", "figures", "tables"):
        run.artifact(REPORTS / name, name if (REPORTS / name).is_dir() else None, parent=True)
