"""From free texts to coherence by coefficient: the base's NLL, repetition, variety, length."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import polars as pl

from pipeline.metrics.scores import at_one, means
from pipeline.support.schemas import numbers, texts

KEYS = ["method", "seed", "coefficient"]
FIGURES = (
    "base_nll", "delta_base_nll", "repetition", "distinct_1", "distinct_2", "ended", "n_tokens",
)  # fmt: skip
TABLE = texts("method") | {"seed": pl.Int64} | numbers("coefficient", *FIGURES)
TABLE |= {"n_prompts": pl.Int64}


def n_grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def distinct_share(grams: Iterable[tuple[int, ...]]) -> float | None:
    """Return distinct n-grams over n-grams; None where there are none."""
    grams = list(grams)
    return len(set(grams)) / len(grams) if grams else None


def repetition(tokens: list[int]) -> float | None:
    """Return 1 - distinct / all of a text's 3-grams of tokens; None below 3 tokens."""
    return None if (share := distinct_share(n_grams(tokens, 3))) is None else 1 - share


def coherence_table(written: pl.DataFrame) -> pl.DataFrame:
    """Return one row per method, seed and coefficient, the base's at 0 first.

    base_nll: mean over texts of the base model's nats per token.
    delta_base_nll: the same less that of the base's own texts.
    repetition: mean over texts of 3 tokens or more.
    distinct_1, distinct_2: over all texts of a row together, so that equal texts show.
    ended: share of texts with an end of text; n_tokens: mean length without it.
    """
    repeated = pl.col("tokens").map_elements(lambda t: repetition(t.to_list()), pl.Float64)
    rows = written.with_columns(
        pl.col("tokens").list.len().cast(pl.Float64).alias("n_tokens"),
        pl.col("ended").cast(pl.Float64),
        repeated.alias("repetition"),
    )
    table = means(rows, KEYS, ["base_nll", "repetition", "ended", "n_tokens"], counts="n_prompts")
    pooled = rows.group_by(KEYS, maintain_order=True).agg("tokens")["tokens"].to_list()
    for n in (1, 2):
        grams = [chain.from_iterable(n_grams(tokens, n) for tokens in row) for row in pooled]
        variety = pl.Series(f"distinct_{n}", map(distinct_share, grams), pl.Float64)
        table = table.with_columns(variety)
    base = table.filter(coefficient=0)["base_nll"].item()
    table = table.with_columns(delta_base_nll=pl.col("base_nll") - base)
    return table.cast({"n_prompts": pl.Int64}).select(list(TABLE))


def compared_coherence(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the means over seeds at 0 and at the coefficients nearest to ±1."""
    if table.is_empty():
        return []
    rows = pl.concat([table.filter(coefficient=0), at_one(table)])
    means = pl.col(*FIGURES, "n_prompts").cast(pl.Float64).mean()
    folded = rows.group_by("method", "coefficient", maintain_order=True).agg(means)
    order = list(dict.fromkeys(table["method"]))
    return sorted(folded.to_dicts(), key=lambda r: (order.index(r["method"]), r["coefficient"]))
