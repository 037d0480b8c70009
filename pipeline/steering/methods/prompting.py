"""Prompting: say the persona. Positive c puts the positive words, negative c the negative ones, 0
none; size has no meaning.

The words are the persona sentence that the contrast pairs use, or the behaviour's long engineered
prompt (as AxBench's).
"""

from typing import Any, Self

import polars as pl
from torch import Tensor

from pipeline.lm.prompts import Message
from pipeline.steering.base import Context, Hooked, Pairs
from pipeline.study.sections import PromptingParams
from pipeline.support.errors import InputError


class Prompting(Hooked):
    graded = False
    history: pl.DataFrame | None = None

    def __init__(self, positive: str, negative: str, placement: str):
        self.positive, self.negative, self.placement = positive, negative, placement
        self.summary: dict[str, float] = {}

    @classmethod
    def fit(
        cls, model, tokenizer, train: Pairs, calibration: Pairs, context: Context, seed: int
    ) -> Self:
        section = context.section
        assert isinstance(section, PromptingParams)
        if section.wording == "persona":
            return cls(*context.personas[0], section.placement)
        if not context.engineered:
            raise InputError(
                "the behaviour has no engineered prompts: add `engineered` to its file, or take "
                "wording: persona"
            )
        return cls(*context.engineered, section.placement)

    def rewrite(self, messages: list[Message], coefficient: float) -> list[Message]:
        if coefficient == 0:
            return messages
        sentence = self.positive if coefficient > 0 else self.negative
        if self.placement == "system":
            return [{"role": "system", "content": sentence}, *messages]
        first = next(i for i, message in enumerate(messages) if message["role"] == "user")
        told = {"role": "user", "content": f"{sentence} {messages[first]['content']}"}
        return [*messages[:first], told, *messages[first + 1 :]]

    def touched(self) -> list[str]:
        return []

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def metadata(self) -> dict[str, Any]:
        return {"positive": self.positive, "negative": self.negative, "placement": self.placement}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        return cls(**metadata)
