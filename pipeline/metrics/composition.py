"""Two adapters at once: does what one does change when the other is attached?

For a target's effect E(a, b) at both coefficients, interaction = E(a, b) - E(a, 0) - E(0, b). It is
zero if effects add up.
"""

from typing import Any

import polars as pl

from pipeline.metrics.effects import measured
from pipeline.metrics.scores import SUFFIXES, signed_scores
from pipeline.support.sections import StatisticsParams


def composition_table(
    scores: pl.DataFrame, items: pl.DataFrame, target: str, params: StatisticsParams
) -> list[dict[str, Any]]:
    """Return effect and interaction on a target at each pair but (0, 0), with 95 % intervals.

    Both are in probability and in log-odds. `scores` has item_id, dilemma_id, log_odds and the
    coefficients first and second. It holds (0, 0), (a, 0), (0, b) and (a, b).
    """
    rows = signed_scores(scores, items, [target]).sort("item_id")
    parts = rows.partition_by("first", "second", as_dict=True)
    records = []
    for first, second in sorted(parts.keys() - {(0.0, 0.0)}):
        both = parts[first, second].select("dilemma_id")
        pairs = (first, second), (first, 0.0), (0.0, second)
        for column, suffix in zip(("probability", "y"), SUFFIXES, strict=True):
            effect, *alone = (parts[pair][column] - parts[0.0, 0.0][column] for pair in pairs)
            interaction = effect - alone[0] - alone[1]
            both = both.with_columns(
                effect.alias(f"effect{suffix}"), interaction.alias(f"interaction{suffix}")
            )
        record: dict[str, Any] = {"target": target, "first": first, "second": second}
        record["n_dilemmas"] = both["dilemma_id"].n_unique()
        for name in ("effect", "interaction"):
            record |= measured(both, name, name, name, params)
        records.append(record)
    return records
