"""How the questions are answered, whatever the value: yes-bias, consistency, missing answers."""

from typing import Any

import polars as pl

from pipeline.metrics.scores import SUFFIXES, Evaluation, in_both, mean
from pipeline.support.paths import BASE


def swap_consistency(rows: pl.DataFrame) -> float:
    """Return the share of dilemmas (and seeds) with Yes to just one of the two mirrored questions.

    A model that says Yes to everything has 0; one that always takes a side has 1.
    """
    yes = (pl.col("log_odds") > 0).sum().alias("yes")
    return mean(rows.group_by("dilemma_id", "seed", maintain_order=True).agg(yes)["yes"] == 1)


def answer_record(rows: pl.DataFrame, evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures of one method at one coefficient, over items and seeds."""
    base, bias = evaluation.base, mean(rows["log_odds"])
    at_base = base.filter(evaluation.answered(base))["item_id"].to_list()
    kept = rows.filter(evaluation.answered(rows) & rows["item_id"].is_in(at_base))
    return {
        "yes_log_odds": bias, "yes_shift": bias - mean(base["log_odds"]),
        "yes_rate": mean(rows["log_odds"] > 0),
        "swap_consistency": swap_consistency(rows), "choice_mass": mean(rows["choice_mass"]),
        "n_rows": rows.height, "n_excluded": rows.height - kept.height,
        **target_effect("target_effect", rows, evaluation),
        **target_effect("target_effect_answered", kept, evaluation),
    }  # fmt: skip


def target_effect(name: str, rows: pl.DataFrame, evaluation: Evaluation) -> dict[str, Any]:
    """Return the effect on the target over the given rows; None where no row concerns it."""
    moved = evaluation.movements(rows).filter(pl.col("coefficient") != 0)
    return {
        f"{name}{suffix}": mean(moved[f"effect{suffix}"]) if moved.height else None
        for suffix in SUFFIXES
    }


def answer_table(cells: dict[str, pl.DataFrame], evaluation: Evaluation) -> pl.DataFrame:
    """Return one row per method and coefficient, the untouched model first.

    yes_log_odds: mean log-odds of Yes over all items (nats), where a dilemma's two values cancel.
    yes_shift: its change from the base.
    n_excluded: rows that hold too little choice mass, or whose item does at coefficient 0.
    target_effect_answered: the effect without them.
    """
    base = evaluation.base.with_columns(pl.col("coefficient").cast(pl.Float64))
    records = [
        {"method": method, "coefficient": c}
        | answer_record(scores.filter(coefficient=c), evaluation)
        for method, scores in ({BASE: base} | cells).items()
        for c in sorted(scores["coefficient"].unique())
    ]
    records[0] |= dict.fromkeys(in_both("target_effect", "target_effect_answered"), 0.0)
    answered = dict.fromkeys(in_both("target_effect_answered"), pl.Float64)
    return pl.DataFrame(records, schema_overrides=answered)
