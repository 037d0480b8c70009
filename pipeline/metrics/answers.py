"""How the questions are answered, whatever the value: yes-bias, agreement of the mirrored
questions, answers that are missing.
"""

from typing import Any

import polars as pl

from pipeline.metrics.effects import mean, mean_over_seeds, movements, with_base
from pipeline.metrics.question import Question
from pipeline.support.schemas import RAW

BASE = "base"


def swap_consistency(rows: pl.DataFrame, items: pl.DataFrame) -> float:
    """Return the share of dilemmas (and seeds) with Yes to one of the two mirrored questions and No
    to the other.

    A model that says Yes to everything has 0, one that always takes a side has 1.
    """
    sides = rows.join(items.select("item_id", "action_type"), on="item_id", maintain_order="left")
    yes = sides.group_by("dilemma_id", "seed", maintain_order=True).agg(
        (pl.col("log_odds") > 0).sum().alias("yes")
    )
    return mean(yes["yes"] == 1)


def answer_record(rows: pl.DataFrame, question: Question) -> dict[str, Any]:
    """Return the figures of one method at one coefficient, over items and seeds."""
    base, answered = question.base, pl.col("choice_mass") >= question.params.min_choice_mass
    bias, before = mean(rows["log_odds"]), mean(base["log_odds"])
    kept = rows.filter(answered).join(
        base.filter(answered).select("item_id"), on="item_id", how="semi", maintain_order="left"
    )
    return {
        "yes_log_odds": bias, "yes_shift": bias - before, "yes_rate": mean(rows["log_odds"] > 0),
        "swap_consistency": swap_consistency(rows, question.items), "choice_mass": mean(rows["choice_mass"]),
        "n_rows": rows.height, "n_excluded": rows.height - kept.height,
        "target_effect": effect_of(rows, question), "target_effect_answered": effect_of(kept, question),
    }  # fmt: skip


def effect_of(rows: pl.DataFrame, question: Question) -> float | None:
    """Return the effect on the target over the given rows; None where no row concerns it."""
    if rows.is_empty():
        return None
    moved = movements(
        with_base(mean_over_seeds(rows), question.base), question.items, question.target
    )
    at = moved.filter(pl.col("coefficient") != 0)
    return mean(at["effect"]) if at.height else None


def answer_table(cells: dict[str, pl.DataFrame], question: Question) -> pl.DataFrame:
    """Return one row per method and raw coefficient, the untouched model first.

    yes_log_odds: mean log-odds of Yes over all items, both sides of a dilemma, so that values
    cancel (nats); yes_shift: its change from the base. n_excluded: rows that hold too little choice
    mass, or whose item does at coefficient 0; target_effect_answered leaves them out.
    """
    base = question.base.with_columns(pl.col("coefficient").cast(pl.Float64))
    untouched = answer_record(base, question) | {
        "target_effect": 0.0,
        "target_effect_answered": 0.0,
    }
    records: list[dict[str, Any]] = [{"method": BASE, "coefficient": 0.0, **untouched}]
    for method, scores in cells.items():
        raw = scores.filter(pl.col("dose") == RAW)
        records += [
            {
                "method": method,
                "coefficient": c,
                **answer_record(raw.filter(pl.col("coefficient") == c), question),
            }
            for c in sorted(raw["coefficient"].unique())
        ]
    return pl.DataFrame(records, schema_overrides={"target_effect_answered": pl.Float64})
