"""evaluate: one method's adapters x items x coefficients -> data/scores/<cell>/scores.parquet.

`base` scores the untouched model once. It is coefficient 0 of every method, since adapters are
exact there. Coefficients are in units: see `pipeline.steering.dose`; doses.parquet says what ±1
stand for and cost. controls.parquet holds the scores of control items, where the set has some.
Where the parameters ask for them, reasoning.parquet and coherence.parquet hold what it wrote.
"""

from dataclasses import dataclass
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
SCHEMAS = {"scores": SCORES, "controls": SCORES, "reasoning": REASONING, "coherence": COHERENCE}
ROWS = {
    "scores": ["form", "item_id"],
    "controls": ["form", "item_id"],
    "reasoning": ["item_id"],
    "coherence": ["prompt_id"],
}


@dataclass(frozen=True)
class Subject:
    """What is scored: a fitted method, or the base model."""

    steering: Attachable
    coefficients: list[float]
    adapter: dict[str, str]
    """The name of its folder -> hash of its files; empty for the base model."""
    dose: dict[str, Any]
    """What ±1 stand for and cost; empty for the base model."""


def main(name: str, method: str = BASE, seed: int | None = None) -> None:
    """Run the stage `name` for one method, with one seed or with all that it was fitted with."""
    cell: dict[str, str | int] = {} if method == BASE else {"method": method}
    if seed is not None:
        cell["seed"] = seed
    with stage(name, **cell) as (params, run), scratch(name, **cell) as kept:
        base = read_base(params, scores=True)
        run.usage.watch(base.model)
        controls = read_controls()
        items = pl.concat([read_items().select(controls.columns), controls])
        parts: dict[str, list[pl.DataFrame]] = {}
        adapters: dict[str, str] = {}
        found: list[dict[str, Any]] = []
        for each in seeds_of(method) if seed is None else [seed]:
            subject = read_subject(base, method, each, params)
            adapters |= subject.adapter
            found += [{"method": method, "seed": each, **subject.dose}] if subject.dose else []
            about = {
                "model": params.model,
                "behaviour": params.behaviour,
                "method": method,
                "seed": each,
                "evalset": params.evalset,
                "dose": RAW,
            }
            for table, records in measure(base, items.to_dicts(), subject, params, kept).items():
                rows = [{**about, **record} for record in records]
                kinds = {k: kind for k, kind in SCHEMAS[table].items() if k in rows[0]}
                parts.setdefault(table, []).append(pl.DataFrame(rows, schema_overrides=kinds))
        if processes.is_main():
            whole = {table: pl.concat(frames) for table, frames in parts.items()}
            dilemmas = items.select("item_id", "dilemma_id")
            whole["scores"] = whole["scores"].join(dilemmas, on="item_id", maintain_order="left")
            set_apart(whole, controls)
            doses = pl.DataFrame(found, schema=DOSES)
            write(scores_folder(method, seed), method, whole, doses, adapters, run)


def seeds_of(method: str) -> list[int]:
    if method == BASE:
        return [0]
    folders = (ADAPTERS / method).glob("seed*")
    return sorted(int(folder.name.removeprefix("seed")) for folder in folders)


def read_subject(base: Base, method: str, seed: int, params: Params) -> Subject:
    if method == BASE:
        return Subject(Untouched(), [0.0], {}, {})
    folder = adapter_folder(method, seed)
    steering = load_steering(folder, base.fingerprint, base.device)
    check_fits(base.model, steering, folder)
    wanted = grid(steering, params.coefficients)
    hashed = {f"{method}/{folder.name}": adapter_hash(folder)}
    dose = read_json(folder / "steering.json")["dose"]
    return Subject(in_units(steering), wanted, hashed, dose)


def grid(steering: Steering, coefficients: list[float]) -> list[float]:
    """Return all coefficients but 0, or ±1 alone where the coefficient has no size."""
    return [c for c in coefficients if c != 0 and (steering.graded or abs(c) == 1)]


def measure(
    base: Base, items: Records, subject: Subject, params: Params, kept: Scratch
) -> dict[str, Records]:
    """Return the records of each table asked for; with reasoning, answers are read after it."""
    wanted = params.generation
    about = (subject.steering, subject.coefficients)
    tables: dict[str, Records] = {}
    replies = None
    if wanted.reasoning_tokens:
        limits = (wanted.reasoning_tokens, wanted.reasoning_opening)
        tables["reasoning"] = reason(base, items, *about, *limits)
        replies = {(r["item_id"], r["coefficient"]): r["text"] for r in tables["reasoning"]}
    tables["scores"] = score(
        base, items, *about, replies=replies, reuse=params.scoring.reuse, scratch=kept,
        forms=params.scoring.forms,
    )  # fmt: skip
    if wanted.coherence_tokens:
        prompts = read_json(prompts_file(params.models[params.model].prompts))
        tables["coherence"] = free_texts(base, prompts, *about, wanted.coherence_tokens)
    return tables


def set_apart(tables: dict[str, pl.DataFrame], controls: pl.DataFrame) -> None:
    """Move the scores of the control items, where there are some, to a table of their own."""
    if controls.height:
        apart = pl.col("item_id").is_in(controls["item_id"].to_list())
        tables["controls"] = tables["scores"].filter(apart)
        tables["scores"] = tables["scores"].filter(~apart)


def write(
    folder: Path,
    method: str,
    tables: dict[str, pl.DataFrame],
    doses: pl.DataFrame,
    adapters: dict[str, str],
    run: Run,
) -> None:
    """Check, sort and write the tables, and log what they say on average."""
    for table, frame in tables.items():
        ordered = frame.select(list(SCHEMAS[table]))
        tables[table] = ordered.sort("seed", *ROWS[table], "coefficient")
        check(tables[table], SCHEMAS[table], f"the {table} of {method}")
    with new_folder(folder) as new:
        for table, frame in tables.items():
            frame.write_parquet(new / f"{table}.parquet")
        doses.write_parquet(new / "doses.parquet")
        write_json(new / "adapters.json", adapters)
        log_means(tables["scores"], run)
        if "reasoning" in tables:
            closed_by = tables["reasoning"]["closed_by"].to_list()
            run.metrics |= {
                "reasoning_texts": len(closed_by),
                "reasoning_cut": closed_by.count(LIMIT),
            }
        run.record(new)


def log_means(scores: pl.DataFrame, run: Run) -> None:
    """Log mean choice mass and NLL by coefficient."""
    names = ("choice_mass", "nll")
    first = min(scores["form"])  # of both, the answers
    by_coefficient = scores.filter(form=first).group_by("coefficient", maintain_order=True)
    means = by_coefficient.agg(pl.col(names).mean()).sort("coefficient").to_dicts()
    run.metrics |= {f"{k}_at_{r['coefficient']:g}": r[k] for r in means for k in names}
    # A step must be whole: thousandths of the coefficient make a chart of dose in the UI.
    run.curve([(round(1000 * r["coefficient"]), {k: r[k] for k in names}) for r in means])
