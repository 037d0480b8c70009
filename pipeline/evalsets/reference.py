"""Held-out dilemmas of the synthetic reference world, as an evaluation set."""

from typing import Any

import polars as pl

from pipeline.reference.items import POLES, held_out_items
from pipeline.reference.world import persona_traits
from pipeline.support.sections import ReferenceParams


def origin(section: ReferenceParams) -> dict[str, Any]:
    """Return where the set comes from, for the record beside the items."""
    return {"source": "pipeline/reference/world.yaml", "seed": section.seed}


def build_items(section: ReferenceParams, behaviour: str) -> pl.DataFrame:
    """Return the items of `behaviour`: where the world has no such persona, those of all others.

    Of such a persona the world's law says nothing, so that these items hold no oracle.
    """
    others, seed, known = section.other_dilemmas, section.seed, persona_traits()
    if behaviour in known or not others:
        return held_out_items(behaviour, section.target_dilemmas, others, seed)
    return held_out_items(known[0], others, others, seed).drop(*POLES)
