"""Incomplete contrast pairs: one unfinished reply under two personas that differ in words only."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.lm.prompts import chat_text, user_chat
from pipeline.study.behaviours import Behaviour
from pipeline.support.errors import InputError
from pipeline.support.files import read_json, visible
from pipeline.support.paths import SUFFIXES
from pipeline.support.schemas import PAIRS, check
from pipeline.support.sections import PairsParams

FEWEST = 2  # pairs in a split: with one there is no spread, so no sign that can be trusted

Render = Callable[[str, str], str]  # (user, suffix) -> a chat whose reply stops after the suffix


def load_suffixes(folder: Path, model: str | None = None) -> dict[str, list[str]]:
    """Return the suffixes of every JSON file in the folder, each a flat list of strings.

    A subfolder with the id of a model holds those for this model alone.
    """
    suffixes = {}
    own = visible(folder / model, "*.json") if model else []
    for file in visible(folder, "*.json") + own:
        rows = read_json(file)
        if not isinstance(rows, list) or not rows:
            remedy = "write unfinished replies there, or take it away"
            raise InputError(f"{file} must be a non-empty list of strings: {remedy}")
        if odd := [row for row in rows if not isinstance(row, str) or not row.strip()]:
            said = f"{file} holds {odd[0]!r}, must be a list of strings that are not blank"
            raise InputError(f"{said}: correct or drop it")
        suffixes[file.stem] = rows
    if not suffixes:
        raise InputError(f"{folder} holds no *.json: put lists of unfinished replies there")
    return suffixes


def mix(files: dict[str, list[str]], count: int, seed: int) -> list[str]:
    """Shuffle each file, take suffixes from all in turn without repetition, stop at `count`."""
    queues = [
        random.Random(f"{seed} {name}").sample(rows, len(rows))
        for name, rows in sorted(files.items())
    ]
    turns = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    return list(dict.fromkeys(turns))[:count]


def build_pairs(
    behaviour: Behaviour, files: dict[str, list[str]], params: PairsParams, render: Render
) -> pl.DataFrame:
    """Return the table of pairs; InputError where a split would get too few.

    Persona pairs take turns. Each suffix occurs once, so a split by suffix shares none.
    """
    suffixes = mix(files, params.max_pairs, params.seed)
    count, share, sentences = len(suffixes), params.calibration_share, behaviour.sentences()
    held = max(1, round(share * count))
    order = list(range(count))
    random.Random(params.seed).shuffle(order)
    calibration = set(order[:held])
    if min(held, count - held) < FEWEST:
        raise InputError(
            f"{count} different suffixes at pairs.calibration_share {share} are {count - held} "
            f"pairs for training and {held} for calibration, both need {FEWEST}: add suffixes, "
            "raise pairs.max_pairs or change the share"
        )
    rows = []
    for index, suffix in enumerate(suffixes):
        users = [*sentences[index % len(sentences)], ""]
        split = "calibration" if index in calibration else "train"
        rows.append((index, split, suffix, *(render(user, suffix) for user in users)))
    return check(pl.DataFrame(rows, PAIRS, orient="row"), PAIRS, "the table of pairs")


def draw_pairs(
    behaviour: Behaviour, model: str, params: PairsParams, tokenizer: Any, options: dict[str, Any]
) -> pl.DataFrame:
    """Return the table of pairs for a model, rendered by its chat template with one user turn."""

    def render(user: str, suffix: str) -> str:
        return chat_text(tokenizer, user_chat(user), suffix, options)

    return build_pairs(behaviour, load_suffixes(SUFFIXES, model), params, render)
