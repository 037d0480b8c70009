"""The base model of a study with all that is needed to run it, as one object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.lm.prompts import Message, chat_text, open_turn, pad_left, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Base:
    """A frozen base model and its tokenizer, with the study's settings for it."""

    manifest: dict[str, Any]
    """What the stage `model` recorded: source, revision, weights_sha256, shapes."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    options: dict[str, Any] = field(default_factory=dict)
    """Further variables of the chat template."""
    answer_prefix: str = "My choice:"
    """What the reply to a dilemma begins with."""
    batch_size: int = 32
    """Rows per forward pass without gradients, all coefficients counted."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of the weight files, the same for every quantisation."""
        return self.manifest["weights_sha256"]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Tokenise rendered chats to left-padded ids [b, t] and their attention mask [b, t]."""
        return pad_left(tokenize(self.tokenizer, texts), self.pad_id, self.device)


def open_turns(base: Base, chats: Iterable[list[Message]], **options: Any) -> list[str]:
    """Render chats that end where the assistant's turn begins."""
    return [open_turn(base.tokenizer, chat, base.options | options) for chat in chats]


def open_answers(base: Base, chats: Iterable[list[Message]]) -> list[str]:
    """Render chats that end after the answer prefix."""
    return [chat_text(base.tokenizer, chat, base.answer_prefix, base.options) for chat in chats]
