"""Chat texts and answer tokens."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError

Message = dict[str, str]


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: list[Message], reply: str, options: dict[str, Any]) -> str:
    """Render a chat that ends inside the assistant's unfinished `reply`."""
    chat = [*messages, {"role": "assistant", "content": reply}]
    return tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True, **options)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Tokenise rendered chats. The template has written BOS, so the tokenizer must not add a second one."""
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def pad_left(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack rows of ids to [b, t] with the attention mask [b, t]; the last column is every row's last token."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(width).expand(len(rows), -1) >= width - lengths[:, None]
    return ids.to(device), mask.long().to(device)


@lru_cache(maxsize=4)  # reading a whole vocabulary takes seconds where it is large
def answer_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Return the ids of every token that is exactly Yes, or No, up to case, white space, quotes and markdown marks."""
    sets: dict[str, list[int]] = {"yes": [], "no": []}
    for token in range(len(tokenizer)):
        word = tokenizer.decode([token]).strip(" \t\r\n*_`\"'").lower()
        if word in sets:
            sets[word].append(token)
    if not all(sets.values()):
        missing = " and ".join(word for word, ids in sets.items() if not ids)
        raise InputError(f"the tokenizer has no single token for {missing}: this model's answers cannot be scored")
    return sets
