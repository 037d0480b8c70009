"""evaluate: one method's adapters x items x coefficients -> data/scores/<cell>/scores.parquet.

`base` scores the untouched model once. It is coefficient 0 of every method, since adapters are
exact there. Coefficients are in units: see `pipeline.steering.dose`; doses.parquet says what ±1
stand for and cost. controls.parquet holds the scores of control items, where the set has some.
Where the parameters ask for them, reasoning.parquet and coherence.parquet hold what it wrote.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.lm import processes
from pipeline.lm.base import Base
from pipeline.scoring.coherence import free_texts
from pipeline.scoring.reasoning import LIMIT, reason
from pipeline.scoring.score import score
from pipeline.stages.base import read_base, read_controls, read_items
from pipeline.stages.stage import scratch, stage
from pipeline.steering.base import Attachable, Steering
from pipeline.steering.compose import in_units
from pipeline.steering.saved import adapter_hash, check_fits, load_steering
from pipeline.steering.untouched import Untouched
from pipeline.study.params import Params
from pipeline.study.tracking import Run
from pipeline.support.files import new_folder, read_json, write_json
from pipeline.support.paths import ADAPTERS, BASE, adapter_folder, prompts_file, scores_folder
from pipeline.support.schemas import COHERENCE, DOSES, RAW, REASONING, SCORES, check
from pipeline.support.scratch import Scratch

Records = list[dict[str, Any]]
Subject = tuple[Attachable, list[float]]  # a method or the base model, and its coefficients
SCHEMAS = {"scores": SCORES, "controls": SCORES, "reasoning": REASONING, "coherence": COHERENCE}
ORDER = ("seed", "form", "item_id", "prompt_id", "coefficient")  # of rows, by what a table has


def main(name: str, method: str = BASE, seed: int | None = None) -> None:
    """Run the stage `name` for one method, with one seed or with all that it was fitted with."""
    cell: dict[str, str | int] = {} if method == BASE else {"method": method}
    if seed is not None:
        cell["seed"] = seed
    with stage(name, **cell) as (params, run), scratch(name, **cell) as kept:
        base, controls = read_base(params, scores=True), read_controls()
        run.usage.watch(base.model)
        items = pl.concat([read_items().select(controls.columns), controls]).to_dicts()
        cells = {key: getattr(params, key) for key in ("model", "behaviour", "evalset")}
        parts: dict[str, list[pl.DataFrame]] = defaultdict(list)
        seeds = seeds_of(method) if seed is None else [seed]
        for each in seeds:
            subject = read_subject(base, method, each, params)
            whose = cells | {"method": method, "seed": each, "dose": RAW}
            for table, records in measure(base, items, subject, params, kept).items():
                rows = [whose | record for record in records]
                parts[table].append(pl.DataFrame(rows, schema=SCHEMAS[table]))
        if processes.is_main():
            tables = {table: pl.concat(frames) for table, frames in parts.items()}
            if controls.height:
                apart = pl.col("item_id").is_in(controls["item_id"].to_list())
                scores = tables["scores"]
                tables |= {"controls": scores.filter(apart), "scores": scores.filter(~apart)}
            log(tables, run)
            with new_folder(scores_folder(method, seed)) as new:
                for table, frame in tables.items():
                    check(frame, SCHEMAS[table], f"the {table} of {method}")
                    keys = [key for key in ORDER if key in frame.columns]
                    frame.sort(keys).write_parquet(new / f"{table}.parquet")
                write_fits(new, method, [] if method == BASE else seeds)
                run.record(new)


def seeds_of(method: str) -> list[int]:
    """Return the seeds that a method was fitted with; for the base model, which has none, 0."""
    folders = (ADAPTERS / method).glob("seed*")
    return sorted(int(folder.name.removeprefix("seed")) for folder in folders) or [0]


def write_fits(new: Path, method: str, seeds: list[int]) -> None:
    """Write which adapters were scored, by hash, and their doses."""
    folders = {seed: adapter_folder(method, seed) for seed in seeds}
    doses = [
        {"method": method, "seed": seed} | read_json(folder / "steering.json")["dose"]
        for seed, folder in folders.items()
    ]
    pl.DataFrame(doses, schema=DOSES).write_parquet(new / "doses.parquet")
    hashes = {f"{method}/{own.name}": adapter_hash(own) for own in folders.values()}
    write_json(new / "adapters.json", hashes)


def read_subject(base: Base, method: str, seed: int, params: Params) -> Subject:
    if method == BASE:
        return Untouched(), [0.0]
    folder = adapter_folder(method, seed)
    steering = load_steering(folder, base.fingerprint, base.device)
    check_fits(base.model, steering, folder)
    return in_units(steering), grid(steering, params.coefficients)


def grid(steering: Steering, coefficients: list[float]) -> list[float]:
    """Return all coefficients but 0, or ±1 alone where the coefficient has no size."""
    return [c for c in coefficients if c != 0 and (steering.graded or abs(c) == 1)]


def measure(
    base: Base, items: Records, subject: Subject, params: Params, kept: Scratch
) -> dict[str, Records]:
    """Return the records of each table asked for; with reasoning, answers are read after it."""
    wanted, how, replies = params.generation, params.scoring, None
    tables: dict[str, Records] = {}
    if wanted.reasoning_tokens:
        limits = wanted.reasoning_tokens, wanted.reasoning_opening
        tables["reasoning"] = reason(base, items, *subject, *limits)
        replies = {(r["item_id"], r["coefficient"]): r["text"] for r in tables["reasoning"]}
    dilemmas = {item["item_id"]: item["dilemma_id"] for item in items}
    records = score(
        base, items, *subject, replies=replies, reuse=how.reuse, scratch=kept, forms=how.forms
    )
    tables["scores"] = [row | {"dilemma_id": dilemmas[row["item_id"]]} for row in records]
    if wanted.coherence_tokens:
        prompts = read_json(prompts_file(params.models[params.model].prompts))
        tables["coherence"] = free_texts(base, prompts, *subject, wanted.coherence_tokens)
    return tables


def log(tables: dict[str, pl.DataFrame], run: Run) -> None:
    """Log mean choice mass and NLL by coefficient, and how often reasoning was cut off."""
    names, scores = ("choice_mass", "nll"), tables["scores"]
    first = scores.filter(form=min(scores["form"]))  # of both, the answers
    by_coefficient = first.group_by("coefficient", maintain_order=True)
    means = by_coefficient.agg(pl.col(names).mean()).sort("coefficient").to_dicts()
    run.metrics |= {f"{k}_at_{r['coefficient']:g}": r[k] for r in means for k in names}
    # A step must be whole: thousandths of the coefficient make a chart of dose in the UI.
    run.curve([(round(1000 * r["coefficient"]), {k: r[k] for k in names}) for r in means])
    if "reasoning" in tables:
        closed_by = tables["reasoning"]["closed_by"].to_list()
        run.metrics |= {"reasoning_texts": len(closed_by), "reasoning_cut": closed_by.count(LIMIT)}
