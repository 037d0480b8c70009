"""The base model of a study with all that is needed to run it, as one object."""

from dataclasses import dataclass, field
from typing import Any

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
