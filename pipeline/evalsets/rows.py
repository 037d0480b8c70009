"""From a set's rows to the table of items."""

from collections.abc import Sequence

import polars as pl

from pipeline.evalsets.tables import Row, one_of, text
from pipeline.scoring.wording import dilemma_prompt
from pipeline.support.schemas import add_labels

SIDES = ("to_do", "not_to_do")


def normalise(value: str) -> str:
    return " ".join(value.lower().split())


def by_id(name: str) -> tuple[int, str]:
    """Return the key that sorts 9 before 10."""
    return len(name), name


def item(row: Row, dilemma: str, values: Sequence[str], carried: Sequence[str]) -> dict:
    """Return an item of a row in DailyDilemmas' columns, with what its own action carries."""
    about, side = text(row, dilemma), one_of(row, "action_type", SIDES)
    prompt = dilemma_prompt(text(row, "dilemma_situation"), text(row, "action"))
    return {
        "item_id": f"{about}-{side}", "dilemma_id": about, "action_type": side, "prompt": prompt,
        "values": list(values), "carried": list(carried),
    }  # fmt: skip


def table(rows: list[dict], most: int | None) -> pl.DataFrame:
    """Return labelled items of the first `most` dilemmas by id, or of all."""
    lists = {"values": pl.List(pl.String), "carried": pl.List(pl.String)}
    items = pl.DataFrame(rows, schema_overrides=lists, infer_schema_length=None)
    if most is not None:
        ids = sorted(items["dilemma_id"].unique(), key=by_id)[:most]
        items = items.filter(pl.col("dilemma_id").is_in(ids))
    return add_labels(items.drop("carried"), items["carried"].to_list())
