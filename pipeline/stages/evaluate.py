"""evaluate: one method's adapters x items x coefficients -> data/scores/<cell>/scores.parquet.

`base` scores the untouched model once; it is coefficient 0 of every method, since the adapters are exact there.
"""

import polars as pl

from pipeline.declared import Declared
from pipeline.evalsets.scoring import score
from pipeline.files import new_folder, read_json
from pipeline.paths import ADAPTERS, BASE, adapter_folder, scores_folder
from pipeline.schemas import CALIBRATED, RAW, SCORES, check
from pipeline.stages.base import read_base, read_items
from pipeline.stages.stage import stage
from pipeline.steering.base import Steering, load_steering
from pipeline.tracking import Run


def main(method: str, seed: int) -> None:
    with stage("evaluate", method=method, seed=seed) as (params, run):
        run_cells(params, run, method, [seed], scores_folder(method, seed))


def main_baselines(method: str) -> None:
    with stage("evaluate_baselines", method=method) as (params, run):
        seeds = sorted(int(folder.name.removeprefix("seed")) for folder in (ADAPTERS / method).glob("seed*"))
        run_cells(params, run, method, seeds, scores_folder(method))


def main_base() -> None:
    with stage("base") as (params, run):
        run_cells(params, run, BASE, [0], scores_folder(BASE))


def doses(steering: Steering | None, coefficients: list[float], dose: dict | None) -> list[tuple[str, float]]:
    """Return what to score: 0 for the base, all others and the calibrated dose for a method, one of each sign without sizes."""
    if steering is None:
        return [(RAW, 0.0)]
    moved = [c for c in coefficients if c != 0]
    if not steering.graded or dose is None:
        one = min((c for c in moved if c > 0), key=lambda c: (abs(c - 1), c))
        return [(RAW, -one), (RAW, one)]
    return [(RAW, c) for c in moved] + [(CALIBRATED, sign * dose["coefficient"]) for sign in (-1, 1)]


def run_cells(params: Declared, run: Run, method: str, seeds: list[int], folder) -> None:
    """Score the given seeds of a method with one loaded model."""
    manifest, model, tokenizer = read_base(params)
    name, items = params["model"], read_items()
    parts = []
    for seed in seeds:
        source, steering, dose, coefficients = adapter_folder(method, seed), None, None, [0.0]
        if method != BASE:
            steering = load_steering(source, manifest["weights_sha256"], model.device)
            dose, coefficients = read_json(source / "steering.json")["dose"], params["coefficients"]
        wanted = doses(steering, coefficients, dose)
        records = score(
            model, tokenizer, items.to_dicts(), steering, list(dict.fromkeys(c for _, c in wanted)),
            params[f"models.{name}.batch_size"], params[f"models.{name}.template_options"], params["scoring"].reuse,
        )  # fmt: skip
        cell = {"model": name, "behaviour": params["behaviour"], "method": method, "seed": seed, "evalset": params["evalset"]}
        by_dose = pl.DataFrame({"dose": [kind for kind, _ in wanted], "coefficient": [c for _, c in wanted]})
        parts.append(pl.DataFrame([{**cell, **record} for record in records]).join(by_dose, on="coefficient"))
    dilemmas = items.select("item_id", "dilemma_id")
    frame = (
        pl.concat(parts)
        .join(dilemmas, on="item_id", maintain_order="left")
        .select(list(SCORES))
        .sort("seed", "item_id", "dose", "coefficient")
    )
    check(frame, SCORES, f"the scores of {method}")
    with new_folder(folder) as new:
        frame.write_parquet(new / "scores.parquet")
        raw = frame.filter(pl.col("dose") == RAW)
        means = raw.group_by("coefficient", maintain_order=True).agg(pl.col("choice_mass", "nll").mean()).sort("coefficient")
        run.metrics |= {f"{k}_at_{r['coefficient']:g}": r[k] for r in means.to_dicts() for k in ("choice_mass", "nll")}
        # A step must be whole: thousandths of the coefficient make a chart of dose in the UI.
        run.curve([(round(1000 * r["coefficient"]), {k: r[k] for k in ("choice_mass", "nll")}) for r in means.to_dicts()])
        run.record(new)
