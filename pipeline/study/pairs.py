"""Incomplete contrast pairs: the same unfinished reply under two personas that differ in the
persona words only.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from pipeline.lm.prompts import chat_text
from pipeline.study.behaviours import Behaviour
from pipeline.study.sections import PairsParams
from pipeline.support.errors import InputError
from pipeline.support.schemas import PAIRS, check

FEWEST = 2  # pairs in a split: with one there is no spread, so no sign that can be trusted


def load_suffixes(folder: Path) -> dict[str, list[str]]:
    """Return the suffixes of every JSON file in the folder, each a flat list of strings."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            rows = json.loads(file.read_text())
        except ValueError as error:
            raise InputError(f"{file} is not valid JSON ({error}): correct it") from None
        if not isinstance(rows, list) or not rows:
            raise InputError(
                f"{file} must be a non-empty list of strings: write unfinished replies there, or "
                "take it away"
            )
        if odd := [row for row in rows if not isinstance(row, str) or not row.strip()]:
            raise InputError(
                f"{file} holds {odd[0]!r}, must be a list of strings that are not blank: correct "
                "or drop it"
            )
        found[file.stem] = rows
    if not found:
        raise InputError(f"{folder} holds no *.json: put lists of unfinished replies there")
    return found


def mix(files: dict[str, list[str]], count: int, seed: int) -> list[str]:
    """Shuffle each file, take suffixes from all files in turn, drop repetitions, stop at
    `count`.
    """
    queues = [
        random.Random(f"{seed} {name}").sample(rows, len(rows))
        for name, rows in sorted(files.items())
    ]
    turns = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    return list(dict.fromkeys(turns))[:count]


def renderer(
    tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]
) -> Callable[[str, str], str]:
    """Return render(user, suffix): the model's chat with one user turn, whose reply stops after the
    suffix.
    """
    return lambda user, suffix: chat_text(
        tokenizer, [{"role": "user", "content": user}], suffix, options
    )


def build_pairs(
    behaviour: Behaviour,
    files: dict[str, list[str]],
    params: PairsParams,
    render: Callable[[str, str], str],
) -> pl.DataFrame:
    """Return the pairs. `render(user, suffix)` gives a chat whose reply stops after the suffix.

    Persona pairs take turns; each suffix occurs once, so that a split by suffix leaves no suffix on
    both sides.
    """
    suffixes, sentences = mix(files, params.max_pairs, params.seed), behaviour.sentences()
    held = max(1, round(params.calibration_share * len(suffixes)))
    order = list(range(len(suffixes)))
    random.Random(params.seed).shuffle(order)
    calibration = set(order[:held])
    if min(held, len(suffixes) - held) < FEWEST:
        raise InputError(
            f"{len(suffixes)} different suffixes at pairs.calibration_share "
            f"{params.calibration_share} are "
            f"{len(suffixes) - held} pairs for training and {held} for calibration, both need "
            f"{FEWEST}: add suffixes, "
            "raise pairs.max_pairs or change the share"
        )
    rows = [
        {
            "pair_id": index, "split": "calibration" if index in calibration else "train", "suffix": suffix,
            "positive": render(sentences[index % len(sentences)][0], suffix),
            "negative": render(sentences[index % len(sentences)][1], suffix),
            "neutral": render("", suffix),
        }
        for index, suffix in enumerate(suffixes)
    ]  # fmt: skip
    return check(pl.DataFrame(rows), PAIRS, "the table of pairs")
