"""Held-out dilemmas of the synthetic reference world, as an evaluation set."""

from typing import Any

import polars as pl

from pipeline.reference.items import held_out_items
from pipeline.support.sections import ReferenceParams


def origin(section: ReferenceParams) -> dict[str, Any]:
    """Return where the set comes from, for the record beside the items."""
    return {"source": "pipeline/reference/world.yaml", "seed": section.seed}


def build_items(section: ReferenceParams, behaviour: str) -> pl.DataFrame:
    """Return the items of `behaviour`, which names one of the world's persona traits."""
    return held_out_items(behaviour, section.target_dilemmas, section.other_dilemmas, section.seed)
