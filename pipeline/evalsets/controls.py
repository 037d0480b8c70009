"""Control items: sums and plain preferences (CC0), which no moral value should move.

They follow the source (method.md 5.1) and were written for this project. They are scored beside
every set that asks for them, in a table of their own, so that no effect counts them.
"""

from pathlib import Path

import polars as pl

from pipeline.evalsets import tables
from pipeline.evalsets.rows import SIDES, item
from pipeline.support.paths import CONTROLS
from pipeline.support.schemas import ITEMS

COLUMNS = ["id", "kind", "situation", *SIDES]


def build_controls(wanted: bool, file: Path = CONTROLS) -> pl.DataFrame:
    """Return the control items without labels; none where the set goes without them."""
    if not wanted:
        return pl.DataFrame(schema=ITEMS)
    table = tables.required([tables.read_table(file)], COLUMNS, str(file))
    items: list[dict] = []
    for row in table.iter_rows(named=True):
        if row["id"] in {one["dilemma_id"] for one in items}:
            tables.refuse(row, "id", "which an earlier row has too: give it another one")
        kind = tables.one_of(row, "kind", ("sum", "preference"))
        for side in SIDES:
            situation, action = tables.text(row, "situation"), tables.text(row, side)
            asked = {"dilemma_situation": situation, "action_type": side, "action": action}
            items.append(item(row | asked, "id", [kind], []))
    return pl.DataFrame(items, schema_overrides=ITEMS).select(list(ITEMS))
