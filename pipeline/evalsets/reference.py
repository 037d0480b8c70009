"""Held-out dilemmas of the synthetic reference world, with the law's own answer under each persona
(the oracle).
"""

import random
from typing import Any

import polars as pl

from pipeline.reference.world import (
    Dilemma,
    Persona,
    draw_dilemma,
    law_log_odds,
    persona_traits,
    world,
)
from pipeline.scoring.wording import dilemma_prompt
from pipeline.study.sections import ReferenceParams
from pipeline.support.errors import InputError
from pipeline.support.schemas import add_labels

POLES = {"negative": -1, "neutral": 0, "positive": 1}


def held_out_dilemmas(target: int, other: int, trait: str, seed: int) -> list[Dilemma]:
    """Draw distinct dilemmas on object x trait combinations that pretraining never saw."""
    rng = random.Random(f"evaluation {seed}")
    wanted = {name: target if name == trait else other for name in world()["traits"]}
    dilemmas: dict[Dilemma, None] = {}
    for name, count in wanted.items():
        end = len(dilemmas) + count
        while len(dilemmas) < end:
            dilemmas[draw_dilemma(rng, name, evaluation=True)] = None
    return list(dilemmas)


def origin(section: ReferenceParams) -> dict[str, Any]:
    """Return where the set comes from, for the record beside the items."""
    return {"source": "pipeline/reference/world.yaml", "seed": section.seed}


def build_items(section: ReferenceParams, behaviour: str) -> pl.DataFrame:
    """Return the items of `behaviour`, which names one of the world's persona traits."""
    if behaviour not in persona_traits():
        raise InputError(
            f"behaviour {behaviour!r} is no persona of the reference world: there are "
            f"{', '.join(persona_traits())}"
        )
    rows, carried = [], []
    dilemmas = held_out_dilemmas(
        section.target_dilemmas, section.other_dilemmas, behaviour, section.seed
    )
    for index, dilemma in enumerate(dilemmas):
        sides = {
            "to_do": (dilemma.to_do, dilemma.not_to_do),
            "not_to_do": (dilemma.not_to_do, dilemma.to_do),
        }
        for action_type, (own, other) in sides.items():
            oracle = {
                f"oracle_{name}": law_log_odds(
                    own.values, other.values, Persona(behaviour, pole) if pole else None
                )
                for name, pole in POLES.items()
            }
            rows.append({
                "item_id": f"{index}-{action_type}", "dilemma_id": str(index), "action_type": action_type,
                "prompt": dilemma_prompt(dilemma.situation, own.text), "values": list(own.values), **oracle,
            })  # fmt: skip
            carried.append([f"Value/{value}" for value in own.values])
    return add_labels(pl.DataFrame(rows), carried)
