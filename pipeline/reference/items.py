"""Held-out dilemmas of the reference world, with the law's own answer under each persona."""

import random

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
from pipeline.support.errors import InputError
from pipeline.support.schemas import add_labels

POLES = {"oracle_negative": -1, "oracle_neutral": 0, "oracle_positive": 1}


def held_out_dilemmas(target: int, other: int, trait: str, seed: int) -> list[Dilemma]:
    """Draw distinct dilemmas that pretraining never saw: `target` on a trait, `other` on others."""
    rng = random.Random(f"evaluation {seed}")
    wanted = {name: target if name == trait else other for name in world()["traits"]}
    dilemmas: dict[Dilemma, None] = {}
    for name, count in wanted.items():
        end = len(dilemmas) + count
        while len(dilemmas) < end:
            dilemmas[draw_dilemma(rng, name, evaluation=True)] = None
    return list(dilemmas)


def held_out_items(trait: str, target: int, other: int = 0, seed: int = 0) -> pl.DataFrame:
    """Return the items of a persona's trait: two actions per dilemma, labels and the oracle.

    The oracle is the law's log-odds of Yes (nats) under the negative, no and the positive persona.
    """
    if trait not in persona_traits():
        said = f"behaviour {trait!r} is no persona of the reference world"
        raise InputError(f"{said}: there are {', '.join(persona_traits())}")
    personas = {name: Persona(trait, pole) if pole else None for name, pole in POLES.items()}
    rows, carried = [], []
    for index, dilemma in enumerate(held_out_dilemmas(target, other, trait, seed)):
        for action in ("to_do", "not_to_do"):
            own, opposite = dilemma.to_do, dilemma.not_to_do
            if action == "not_to_do":
                own, opposite = opposite, own
            item = {"item_id": f"{index}-{action}", "dilemma_id": str(index), "action_type": action}
            item["prompt"] = dilemma_prompt(dilemma.situation, own.text)
            law = {k: law_log_odds(own.values, opposite.values, who) for k, who in personas.items()}
            rows.append(item | {"values": list(own.values)} | law)
            carried.append([f"Value/{value}" for value in own.values])
    return add_labels(pl.DataFrame(rows), carried)
