"""composition: two adapters of different behaviours on one model -> reports/composition.csv.

Both are trained here with the study's settings and kept in models/composition. They are scored on
each behaviour's reference dilemmas, alone and together.
"""

import itertools
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.evalsets.reference import build_items
from pipeline.lm.base import Base
from pipeline.metrics.composition import composition_table
from pipeline.scoring.score import score
from pipeline.stages.base import Fits, read_base, read_section
from pipeline.stages.pairs import pairs_of
from pipeline.stages.stage import stage
from pipeline.stages.train import fit, keep
from pipeline.steering.base import PairSplits
from pipeline.steering.compose import Composed
from pipeline.steering.training.adapter import Adapter
from pipeline.study.behaviours import load_behaviour, target_of, unmeasured
from pipeline.study.params import Params
from pipeline.study.probes import ask
from pipeline.study.tracking import Run
from pipeline.support.errors import InputError
from pipeline.support.files import new_file, new_folder
from pipeline.support.paths import COMPOSITION, REPORTS, behaviour_file
from pipeline.support.schemas import labels

COEFFICIENTS = (-1.0, 0.0, 1.0)  # of each adapter: either arm at equal cost, alone and together
COLUMNS = {"target": pl.String, "first": pl.Float64, "second": pl.Float64}


def target_label(name: str, items: pl.DataFrame) -> str:
    """Return a behaviour's target in the reference world, or refuse one without any."""
    file = behaviour_file(name)
    target = target_of(file, "reference", labels(items))
    if not target.label:
        raise InputError(f"composition.behaviours: {unmeasured(file, 'reference')}")
    return target.label


def score_grid(
    base: Base, adapters: list[Adapter], items: pl.DataFrame, params: Params
) -> pl.DataFrame:
    """Score items at every combination of the two coefficients."""
    parts: list[dict[str, Any]] = []
    how, dilemmas = params.scoring, items.select("item_id", "dilemma_id")
    for first, second in itertools.product(COEFFICIENTS, repeat=2):
        both = Composed(list(zip(adapters, (first, second), strict=True)))
        records = score(base, items.to_dicts(), both, [1.0], reuse=how.reuse, forms=how.forms[:1])
        parts += [record | {"first": first, "second": second} for record in records]
    return pl.DataFrame(parts).join(dilemmas, on="item_id", maintain_order="left")


def measure(params: Params, run: Run, folder: Path) -> list[dict[str, Any]]:
    """Train both adapters, keep them in a folder, and return the rows of the table."""
    wanted = params.composition
    base, section = read_base(params, scores=True), read_section(wanted.method, learned=True)
    behaviours = {name: load_behaviour(behaviour_file(name)) for name in wanted.behaviours}
    dilemmas = {name: build_items(params.evalsets.reference, name) for name in behaviours}
    targets = {name: target_label(name, items) for name, items in dilemmas.items()}
    run.usage.watch(base.model)
    adapters, rows = [], []
    for name, behaviour in behaviours.items():
        pairs = PairSplits.of(pairs_of(behaviour, base.tokenizer, params))
        fits = Fits(base, params, section, name, ask(base, behaviour, name, params.model))
        adapters.append(fit(fits, pairs, wanted.seed))
        keep(fits, adapters[-1], pairs.calibration, wanted.seed, folder / name)
    for name, items in dilemmas.items():
        scores = score_grid(base, adapters, items, params)
        rows += composition_table(scores, items, targets[name], params.statistics)
    return rows


def main() -> None:
    with stage("composition") as (params, run):
        with new_folder(COMPOSITION) as folder:
            rows = measure(params, run, folder) if params.composition.behaviours else []
            run.log(
                {f"{r['target']}_at_{r['first']:+g}_{r['second']:+g}": r["effect"] for r in rows}
            )
            run.record(folder)
        with new_file(REPORTS / "composition.csv") as file:
            pl.DataFrame(rows, schema=None if rows else COLUMNS).write_csv(file)
