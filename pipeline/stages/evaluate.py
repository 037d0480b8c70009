"""evaluate: one method's adapters x items x coefficients -> data/scores/<cell>/scores.parquet.

`base` scores the untouched model once; it is coefficient 0 of every method, since the adapters are
exact there. Where the parameters ask for them, reasoning.parquet and coherence.parquet hold what
the model wrote.
"""

from typing import Any

import polars as pl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm import processes
from pipeline.scoring.coherence import free_texts
from pipeline.scoring.reasoning import LIMIT, reason
from pipeline.scoring.score import score
from pipeline.stages.base import read_base, read_items
from pipeline.stages.stage import scratch, stage
from pipeline.steering.base import Steering, adapter_hash, check_fits, load_steering
from pipeline.study.params import Params
from pipeline.study.tracking import Run
from pipeline.support.files import new_folder, read_json, write_json
from pipeline.support.paths import ADAPTERS, BASE, PROMPTS, adapter_folder, scores_folder
from pipeline.support.schemas import CALIBRATED, COHERENCE, RAW, REASONING, SCORES, check
from pipeline.support.scratch import Scratch

TABLES = {"scores": SCORES, "reasoning": REASONING, "coherence": COHERENCE}


def main(method: str, seed: int) -> None:
    cell: dict[str, str | int] = {"method": method, "seed": seed}
    with stage("evaluate", **cell) as (params, run), scratch("evaluate", **cell) as kept:
        run_cells(params, run, kept, method, [seed], scores_folder(method, seed))


def main_baselines(method: str) -> None:
    cell = {"method": method}
    with (
        stage("evaluate_baselines", **cell) as (params, run),
        scratch("evaluate_baselines", **cell) as kept,
    ):
        seeds = sorted(
            int(folder.name.removeprefix("seed")) for folder in (ADAPTERS / method).glob("seed*")
        )
        run_cells(params, run, kept, method, seeds, scores_folder(method))


def main_base() -> None:
    with stage("base") as (params, run), scratch("base") as kept:
        run_cells(params, run, kept, BASE, [0], scores_folder(BASE))


def doses(
    steering: Steering | None, coefficients: list[float], dose: dict | None
) -> list[tuple[str, float]]:
    """Return what to score: 0 for the base, all others and the calibrated dose for a method, one of
    each sign without sizes.
    """
    if steering is None:
        return [(RAW, 0.0)]
    moved = [c for c in coefficients if c != 0]
    if not steering.graded or dose is None:
        one = min((c for c in moved if c > 0), key=lambda c: (abs(c - 1), c))
        return [(RAW, -one), (RAW, one)]
    return [(RAW, c) for c in moved] + [
        (CALIBRATED, sign * dose["coefficient"]) for sign in (-1, 1)
    ]


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[dict[str, Any]], steering: Steering | None,
    coefficients: list[float], params: Params, kept: Scratch,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Return the records of each table that the parameters ask for; with reasoning, answers are
    read after it.
    """
    name, wanted = params.model, params.generation
    size, options = params.models[name].batch_size, params.models[name].template_options
    prefix = params.models[name].answer_prefix
    found, replies = {}, None
    if wanted.reasoning_tokens:
        limits = wanted.reasoning_tokens, wanted.reasoning_opening
        found["reasoning"] = reason(
            model, tokenizer, items, steering, coefficients, size, options, *limits, prefix
        )
        replies = {
            (record["item_id"], record["coefficient"]): record["text"]
            for record in found["reasoning"]
        }
    found["scores"] = score(
        model, tokenizer, items, steering, coefficients, size, options,
        answer_prefix=prefix, replies=replies, reuse=params.scoring.reuse, scratch=kept,
    )  # fmt: skip
    if wanted.coherence_tokens:
        prompts = read_json(PROMPTS / f"{wanted.coherence_prompts}.json")
        found["coherence"] = free_texts(
            model,
            tokenizer,
            prompts,
            steering,
            coefficients,
            size,
            options,
            wanted.coherence_tokens,
        )
    return found


def run_cells(
    params: Params, run: Run, kept: Scratch, method: str, seeds: list[int], folder
) -> None:
    """Score the given seeds of a method with one loaded model."""
    base = read_base(params, scores=True)
    manifest, model, tokenizer = base.manifest, base.model, base.tokenizer
    run.usage.watch(model)
    name, items = params.model, read_items()
    parts: dict[str, list[pl.DataFrame]] = {}
    adapters: dict[str, str] = {}
    for seed in seeds:
        source, steering, dose, coefficients = adapter_folder(method, seed), None, None, [0.0]
        if method != BASE:
            steering = load_steering(source, manifest["weights_sha256"], model.device)
            check_fits(model, steering, source)
            dose, coefficients = read_json(source / "steering.json")["dose"], params.coefficients
            adapters[f"{method}/{source.name}"] = adapter_hash(source)
        wanted = doses(steering, coefficients, dose)
        different = list(dict.fromkeys(c for _, c in wanted))
        cell = {
            "model": name,
            "behaviour": params.behaviour,
            "method": method,
            "seed": seed,
            "evalset": params.evalset,
        }
        by_dose = pl.DataFrame(
            {"dose": [kind for kind, _ in wanted], "coefficient": [c for _, c in wanted]}
        )
        for table, records in measure(
            model, tokenizer, items.to_dicts(), steering, different, params, kept
        ).items():
            rows = [{**cell, **record} for record in records]
            kinds = {column: kind for column, kind in TABLES[table].items() if column in rows[0]}
            parts.setdefault(table, []).append(
                pl.DataFrame(rows, schema_overrides=kinds).join(by_dose, on="coefficient")
            )
    if not processes.is_main():
        return
    dilemmas = items.select("item_id", "dilemma_id")
    frame = (
        pl.concat(parts["scores"])
        .join(dilemmas, on="item_id", maintain_order="left")
        .select(list(SCORES))
        .sort("seed", "item_id", "dose", "coefficient")
    )
    check(frame, SCORES, f"the scores of {method}")
    with new_folder(folder) as new:
        frame.write_parquet(new / "scores.parquet")
        for table, key in (("reasoning", "item_id"), ("coherence", "prompt_id")):
            if table in parts:
                ordered = (
                    pl.concat(parts[table])
                    .select(list(TABLES[table]))
                    .sort("seed", key, "dose", "coefficient")
                )
                check(ordered, TABLES[table], f"the {table} of {method}").write_parquet(
                    new / f"{table}.parquet"
                )
        if "reasoning" in parts:
            closed_by = pl.concat(parts["reasoning"])["closed_by"]
            run.metrics |= {
                "reasoning_texts": len(closed_by),
                "reasoning_cut": closed_by.to_list().count(LIMIT),
            }
        write_json(new / "adapters.json", adapters)
        raw = frame.filter(pl.col("dose") == RAW)
        means = (
            raw.group_by("coefficient", maintain_order=True)
            .agg(pl.col("choice_mass", "nll").mean())
            .sort("coefficient")
        )
        run.metrics |= {
            f"{k}_at_{r['coefficient']:g}": r[k]
            for r in means.to_dicts()
            for k in ("choice_mass", "nll")
        }
        # A step must be whole: thousandths of the coefficient make a chart of dose in the UI.
        run.curve(
            [
                (round(1000 * r["coefficient"]), {k: r[k] for k in ("choice_mass", "nll")})
                for r in means.to_dicts()
            ]
        )
        run.record(new)
