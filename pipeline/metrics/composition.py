"""Two adapters at once: does what one does change when the other is attached?

For a target with effect E(a, b) at the two coefficients: interaction = E(a, b) - E(a, 0) - E(0, b),
zero if effects add up.
"""

from typing import Any

import polars as pl

from pipeline.metrics.effects import bootstrap, mean, signed
from pipeline.study.sections import StatisticsParams

CHANGES = ("effect", "interaction")


def composition_table(
    scores: pl.DataFrame, items: pl.DataFrame, target: str, params: StatisticsParams
) -> list[dict[str, Any]]:
    """Return one record per pair of coefficients but (0, 0): effect and interaction on a target,
    with 95 % intervals.

    `scores` has columns item_id, dilemma_id, first, second (the coefficients), log_odds; all of (0,
    0), (a, 0), (0, b), (a, b).
    """
    rows = signed(scores, items, target).select(
        "item_id", "dilemma_id", "first", "second", "probability"
    )

    def at(first: float, second: float) -> pl.DataFrame:
        return rows.filter((pl.col("first") == first) & (pl.col("second") == second)).sort(
            "item_id"
        )

    base, records = at(0.0, 0.0), []
    for first, second in sorted(
        set(zip(rows["first"], rows["second"], strict=True)) - {(0.0, 0.0)}
    ):
        whole, own, other = at(first, second), at(first, 0.0), at(0.0, second)
        effect = whole["probability"] - base["probability"]
        extra = (
            effect
            - (own["probability"] - base["probability"])
            - (other["probability"] - base["probability"])
        )
        moved = whole.with_columns(effect.alias("effect"), extra.alias("interaction"))
        record: dict[str, Any] = {
            "target": target,
            "first": first,
            "second": second,
            "n_dilemmas": whole["dilemma_id"].n_unique(),
        }
        for name in CHANGES:
            low, high = bootstrap(moved, name, params)
            record |= {name: mean(moved[name]), f"{name}_low": low, f"{name}_high": high}
        records.append(record)
    return records
