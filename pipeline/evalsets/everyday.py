"""Everyday: 243 moral dilemmas written for this project (CC0), in DailyDilemmas' CSV schema."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.evalsets import rows, tables
from pipeline.evalsets.daily_dilemmas import AUTHORS, from_authors
from pipeline.support.paths import EVERYDAY
from pipeline.support.sections import EverydayParams


def build_items(section: EverydayParams, _behaviour: str, folder: Path = EVERYDAY) -> pl.DataFrame:
    """Return the items of one split, or of both; the behaviour decides nothing here."""
    every = tables.read_tables(folder, folder.name)
    dilemmas = tables.required(every, [*AUTHORS, "split"], str(folder))
    for row in dilemmas.iter_rows(named=True):
        tables.one_of(row, "split", ("tune", "report"))
    if section.split != "all":
        dilemmas = dilemmas.filter(split=section.split)
    return rows.table(from_authors(dilemmas), section.max_dilemmas)


def origin(section: EverydayParams) -> dict[str, Any]:
    """Return where the set was read, for the record beside the items."""
    return {"source": str(EVERYDAY), "split": section.split} | tables.hashes(EVERYDAY)
