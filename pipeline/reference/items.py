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

POLES = {"negative": -1, "neutral": 0, "positive": 1}


def held_out_dilemmas(target: int, other: int, trait: str, seed: int) -> list[Dilemma]:
    """Draw distinct dilemmas on object x trait combinations that pretraining never saw.

    There are `target` on the trait and `other` on each of the world's other traits.
    """
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
        raise InputError(
            f"behaviour {trait!r} is no persona of the reference world: there are "
            f"{', '.join(persona_traits())}"
        )
    rows, carried = [], []
    for index, dilemma in enumerate(held_out_dilemmas(target, other, trait, seed)):
        sides = {"to_do": dilemma.to_do, "not_to_do": dilemma.not_to_do}
        for (action_type, own), opposite in zip(
            sides.items(), reversed(sides.values()), strict=True
        ):
            oracle = {
                f"oracle_{name}": law_log_odds(
                    own.values, opposite.values, Persona(trait, pole) if pole else None
                )
                for name, pole in POLES.items()
            }
            rows.append(
                {
                    "item_id": f"{index}-{action_type}",
                    "dilemma_id": str(index),
                    "action_type": action_type,
                    "prompt": dilemma_prompt(dilemma.situation, own.text),
                    "values": list(own.values),
                    **oracle,
                }
            )
            carried.append([f"Value/{value}" for value in own.values])
    return add_labels(pl.DataFrame(rows), carried)
