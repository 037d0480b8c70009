"""From free texts to coherence by coefficient: the base's NLL, repetition, variety, length."""

from collections.abc import Iterable
from typing import Any

import polars as pl

from pipeline.metrics.scores import at_one, means
from pipeline.support.schemas import Schema

KEYS = ["method", "seed", "coefficient"]
TABLE: Schema = {
    "method": pl.String, "seed": pl.Int64, "coefficient": pl.Float64,
    "base_nll": pl.Float64, "delta_base_nll": pl.Float64, "repetition": pl.Float64,
    "distinct_1": pl.Float64, "distinct_2": pl.Float64, "ended": pl.Float64,
    "n_tokens": pl.Float64, "n_prompts": pl.Int64,
}  # fmt: skip


def n_grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def distinct_share(grams: Iterable[tuple[int, ...]]) -> float | None:
    """Return distinct n-grams over n-grams; None where there are none."""
    grams = list(grams)
    return len(set(grams)) / len(grams) if grams else None


def repetition(tokens: list[int]) -> float | None:
    """Return 1 - distinct / all of a text's 3-grams of tokens; None below 3 tokens."""
    share = distinct_share(n_grams(tokens, 3))
    return None if share is None else 1 - share


def coherence_table(texts: pl.DataFrame) -> pl.DataFrame:
    """Return one row per method, seed and coefficient, the base's at 0 first.

    base_nll: mean over texts of the base model's nats per token; delta_base_nll: less that of the
    base's own texts. repetition: mean over texts of 3 tokens or more. distinct_1, distinct_2: over
    all texts of a row together, so that one text for every prompt shows. ended: share of texts with
    an end of text; n_tokens: mean length without it.
    """
    repeated = pl.col("tokens").map_elements(lambda t: repetition(t.to_list()), pl.Float64)
    rows = texts.with_columns(
        pl.col("tokens").list.len().cast(pl.Float64).alias("n_tokens"),
        pl.col("ended").cast(pl.Float64),
        repeated.alias("repetition"),
    )
    table = means(rows, KEYS, ["base_nll", "repetition", "ended", "n_tokens"], counts="n_prompts")
    pooled = rows.group_by(KEYS, maintain_order=True).agg("tokens")["tokens"].to_list()
    variety = {
        f"distinct_{n}": [
            distinct_share(gram for tokens in row for gram in n_grams(tokens, n)) for row in pooled
        ]
        for n in (1, 2)
    }
    base = table.filter(pl.col("coefficient") == 0)["base_nll"].item()
    table = table.with_columns((pl.col("base_nll") - base).alias("delta_base_nll")).hstack(
        pl.DataFrame(variety, schema=dict.fromkeys(variety, pl.Float64))
    )
    return table.cast({"n_prompts": pl.Int64}).select(list(TABLE))


def compared_coherence(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the means over seeds at 0 and at the coefficients nearest to ±1."""
    if table.is_empty():
        return []
    base = table.filter(pl.col("coefficient") == 0)
    figures = [name for name in TABLE if name not in KEYS]
    rows = pl.concat([base, at_one(table)]).with_columns(pl.col(figures).cast(pl.Float64))
    folded = rows.group_by("method", "coefficient", maintain_order=True).agg(pl.col(figures).mean())
    order = {method: place for place, method in enumerate(dict.fromkeys(table["method"]))}
    return sorted(folded.to_dicts(), key=lambda row: (order[row["method"]], row["coefficient"]))
