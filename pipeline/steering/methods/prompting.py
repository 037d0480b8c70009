"""Prompting: say the persona in words; only the sign of the coefficient counts.

    c > 0: the positive words before the chat,   c < 0: the negative words,   c = 0: none

The words are the contrast pairs' persona sentence, or the behaviour's long engineered prompt.

Source: the InnerPiSSA repository's prompting baselines, and AxBench (Wu et al., arXiv 2501.17148).
"""

from typing import Any, Literal, Self

from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.prompts import Message, user_chat
from pipeline.steering.base import Look, MethodParams, PairSplits, Steering, Study
from pipeline.support.errors import InputError


class PromptingParams(MethodParams):
    wording: Literal["persona", "engineered"]
    """The persona sentence, or the behaviour's long engineered prompt."""
    placement: Literal["user", "system"]
    """Where the persona sentence goes: before the user's text, or in a system turn."""


class Prompting(Steering):
    section = PromptingParams
    label = "prompting"
    source = "InnerPiSSA, M. J. Clark, https://github.com/wassname/InnerPiSSA"
    look = Look("#666666", "X")
    graded = False

    def __init__(self, positive: str, negative: str, placement: str):
        super().__init__()
        self.positive, self.negative, self.placement = positive, negative, placement

    @classmethod
    def fit(
        cls, base: Base, pairs: PairSplits, section: PromptingParams, study: Study, seed: int
    ) -> Self:
        if section.wording == "persona":
            return cls(*study.personas[0], section.placement)
        if not study.engineered:
            raise InputError(
                "the behaviour has no engineered prompts: add `engineered` to its file, or take "
                "wording: persona"
            )
        return cls(*study.engineered, section.placement)

    def rewrite(self, messages: list[Message], coefficient: float) -> list[Message]:
        if coefficient == 0:
            return messages
        sentence = self.positive if coefficient > 0 else self.negative
        if self.placement == "system":
            return [{"role": "system", "content": sentence}, *messages]
        first = next(i for i, message in enumerate(messages) if message["role"] == "user")
        told = user_chat(f"{sentence} {messages[first]['content']}")
        return [*messages[:first], *told, *messages[first + 1 :]]

    def metadata(self) -> dict[str, Any]:
        return {"positive": self.positive, "negative": self.negative, "placement": self.placement}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        return cls(**metadata)
