"""What the base model itself writes to open prompts: the texts on which a dose is measured."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.lm.base import Base
from pipeline.lm.prompts import open_turn, tokenize, user_chat
from pipeline.steering.base import Attachable
from pipeline.support.files import read_json, write_json


class Rollouts(NamedTuple):
    """Short greedy replies of the untouched model."""

    prompts: list[str]
    replies: list[list[int]]
    """Token ids, with the end of text where the model came to one."""
    options: dict[str, Any]
    """Further variables of the chat template."""

    @classmethod
    def read(cls, file: Path) -> "Rollouts":
        return cls(**read_json(file, "checks"))

    def write(self, file: Path) -> None:
        write_json(file, self._asdict())

    def texts(self, base: Base, steering: Attachable, coefficient: float) -> list[list[int]]:
        """Return the ids of each chat as a method puts it, with the reply."""
        chats = [steering.rewrite(user_chat(text), coefficient) for text in self.prompts]
        opened = [open_turn(base.tokenizer, chat, self.options) for chat in chats]
        begun = tokenize(base.tokenizer, opened)
        return [ids + reply for ids, reply in zip(begun, self.replies, strict=True)]
