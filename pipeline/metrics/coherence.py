"""From free texts to coherence by coefficient: the base model's NLL, repetition, variety,
length.
"""

from collections.abc import Iterable

import polars as pl

from pipeline.metrics.effects import means
from pipeline.support.schemas import Schema

TABLE: Schema = {
    "method": pl.String, "seed": pl.Int64, "dose": pl.String, "coefficient": pl.Float64,
    "base_nll": pl.Float64, "delta_base_nll": pl.Float64, "repetition": pl.Float64,
    "distinct_1": pl.Float64, "distinct_2": pl.Float64, "ended": pl.Float64, "n_tokens": pl.Float64, "n_prompts": pl.Int64,
}  # fmt: skip


def grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def distinct(found: Iterable[tuple[int, ...]]) -> float | None:
    """Return distinct n-grams over n-grams; None where there are none."""
    found = list(found)
    return len(set(found)) / len(found) if found else None


def repetition(tokens: list[int]) -> float | None:
    """Return the share of a text's 3-grams of tokens that it holds already: 1 - distinct / all;
    None below 3 tokens.
    """
    share = distinct(grams(tokens, 3))
    return None if share is None else 1 - share


def coherence_table(texts: pl.DataFrame) -> pl.DataFrame:
    """Return one row per method, seed and dose, the base's at coefficient 0 first.

    base_nll: mean over texts of the base model's nats per token; delta_base_nll: less that of the
    base's own texts. repetition: mean over texts with 3 tokens or more. distinct_1, distinct_2:
    over all texts of a row together, so that the same text to every prompt shows. ended: share of
    texts with an end of text; n_tokens: mean length without it.
    """
    keys = ["method", "seed", "dose", "coefficient"]
    rows = texts.with_columns(
        pl.col("tokens").list.len().cast(pl.Float64).alias("n_tokens"),
        pl.col("ended").cast(pl.Float64),
        pl.col("tokens")
        .map_elements(lambda t: repetition(t.to_list()), pl.Float64)
        .alias("repetition"),
    )
    table = means(rows, keys, ["base_nll", "repetition", "ended", "n_tokens"], counts="n_prompts")
    pooled = rows.group_by(keys, maintain_order=True).agg("tokens")["tokens"].to_list()
    variety = {
        f"distinct_{n}": [
            distinct(gram for tokens in one for gram in grams(tokens, n)) for one in pooled
        ]
        for n in (1, 2)
    }
    base = table.filter(pl.col("coefficient") == 0)["base_nll"].item()
    table = table.with_columns((pl.col("base_nll") - base).alias("delta_base_nll")).hstack(
        pl.DataFrame(variety, schema=dict.fromkeys(variety, pl.Float64))
    )
    return table.cast({"n_prompts": pl.Int64}).select(list(TABLE))
