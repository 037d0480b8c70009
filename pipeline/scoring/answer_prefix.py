"""Which words a model's reply should begin with, so that it answers Yes or No: tried on it.

The questions (data/raw/prompts/prefix.json) have the form of a dilemma and are no evaluation items.
"""

from dataclasses import replace
from typing import Any

from pipeline.lm.base import Base
from pipeline.scoring.score import score
from pipeline.scoring.wording import dilemma_prompt
from pipeline.steering.untouched import Untouched

AUTO = "auto"
CANDIDATES = (
    "My choice:", "My choice is:", "My choice: **", "Answer:", "My answer:",
    "My answer is", "",
)  # fmt: skip


def questions(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return items of every situation and action of the file."""
    asked = [(entry["situation"], action) for entry in entries for action in entry["actions"]]
    return [
        {"item_id": str(index), "prompt": dilemma_prompt(*each)} for index, each in enumerate(asked)
    ]


def choice_masses(
    base: Base, entries: list[dict[str, Any]], wanted: str, reuse: bool
) -> dict[str, float]:
    """Return prefix -> mean probability of Yes and No, largest first; AUTO tries all of them."""
    items = questions(entries)
    masses = {}
    for prefix in CANDIDATES if wanted == AUTO else (wanted,):
        records = score(replace(base, answer_prefix=prefix), items, Untouched(), [0.0], reuse=reuse)
        masses[prefix] = sum(record["choice_mass"] for record in records) / len(records)
    return dict(sorted(masses.items(), key=lambda each: -each[1]))
