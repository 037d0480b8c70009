"""Chat texts and answer tokens."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.support.errors import InputError, in_a_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
THINK = {"enable_thinking": True}  # Qwen3's variable; templates ignore what they do not know
PROBE = "words of a system turn"
LINES = 'One "line", <b> & it\'s é\nanother one:\n\n- and a part,  with two spaces'
MEND = "mend the template in its folder, or take a model whose template is whole"
CLOSED = "<think>\n\n</think>\n\n"
REASONED = re.compile(r"</think>|\[/THINK\]")  # what ends the reasoning of a reply


def user_chat(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def chat_text(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], reply: str, options: dict[str, Any]
) -> str:
    """Render a chat that ends inside the assistant's unfinished `reply`.

    Where the template would have the model think first, an empty think block stands before it.
    """
    chat = folded(tokenizer, messages, options)
    if not reply.strip():
        return closed(open_turn(tokenizer, messages, options))
    text = continued(tokenizer, chat, reply, options)
    start = text.rfind(reply.strip())
    ends = text.rstrip().endswith(reply.strip())
    if not ends or loses(text[:start], chat):
        raise altered(tokenizer)
    if opens_thinking(tokenizer, options) and not text[:start].rstrip().endswith("</think>"):
        return text[:start] + CLOSED + text[start:]
    return text


def closed(text: str) -> str:
    """Return an opened turn whose think block, if it has one, is empty."""
    begun = text.rstrip()
    return f"{begun}{CLOSED.removeprefix('<think>')}" if begun.endswith("<think>") else text


def open_turn(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], options: dict[str, Any]
) -> str:
    """Render a chat that ends where the assistant's turn begins."""
    chat = folded(tokenizer, messages, options)
    text = rendered(tokenizer, chat, options, add_generation_prompt=True)
    if loses(text, chat):
        raise altered(tokenizer)
    return text


def loses(text: str, chat: list[Message]) -> bool:
    """Return whether a rendered chat lacks the words of a turn, or has turns in another order.

    A system turn may stand anywhere, and an earlier reply may lack its reasoning.
    """
    at = 0
    for turn in chat:
        said = (
            REASONED.split(turn["content"])[-1] if turn["role"] == "assistant" else turn["content"]
        )
        system = turn["role"] == "system"
        place = text.find(said.strip(), 0 if system else at)
        if place < 0:
            return True
        at = at if system else place + len(said.strip())
    return False


def continued(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], reply: str, options: dict[str, Any]
) -> str:
    chat = [*messages, {"role": "assistant", "content": reply}]
    return rendered(tokenizer, chat, options, continue_final_message=True)


def rendered(
    tokenizer: PreTrainedTokenizerBase, chat: list[Message], options: dict[str, Any], **how: bool
) -> str:
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, **how, **options)
    except Exception as error:  # a template is a program, and may fail in any way
        named, remedy = tokenizer.chat_template, MEND
        if isinstance(named, dict) and not named.keys() & {"default", options.get("chat_template")}:
            names = ", ".join(sorted(named))
            remedy = f"name one of {names} as chat_template in the model's template_options"
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} fails ({in_a_line(error)}): {remedy}"
        ) from None
    return str(text)


def altered(tokenizer: PreTrainedTokenizerBase) -> InputError:
    return InputError(
        f"the chat template of {tokenizer.name_or_path} drops or alters the words of a turn: {MEND}"
    )


def check_template(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> None:
    """Refuse a chat template that is missing, fails, or alters a user's turn or a reply."""
    if tokenizer.chat_template is None:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template: take an "
            "instruction-tuned model"
        )
    chat_text(tokenizer, user_chat(LINES), f"Reply: {LINES}", options)
    open_turn(tokenizer, user_chat(LINES), options)


def folded(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], options: dict[str, Any]
) -> list[Message]:
    """Put a system turn before the user's text where the template refuses it, or loses its words.

    Gemma 2 refuses the role. Mistral 7B shows its words only in a user's turn that comes last.
    """
    if messages[0]["role"] != "system":
        return messages
    try:
        probe = [{"role": "system", "content": PROBE}, *user_chat("-")]
        if PROBE in continued(tokenizer, probe, "-", options):
            return messages
    except InputError:
        pass
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [*user_chat(system["content"]), *rest]
    return [*user_chat(f"{system['content']}\n\n{rest[0]['content']}"), *rest[1:]]


def opens_thinking(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> bool:
    """Return whether an answer begins inside a think block."""
    text = rendered(tokenizer, user_chat("-"), options, add_generation_prompt=True)
    return text.rstrip().endswith("<think>")


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Tokenise rendered chats; the template, not the tokenizer, writes BOS."""
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def pad_left(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack rows of ids to [b, t] with their mask [b, t]; the last column holds last tokens."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(width).expand(len(rows), -1) >= width - lengths[:, None]
    return ids.to(device), mask.long().to(device)


@lru_cache(maxsize=4)  # reading a whole vocabulary takes seconds where it is large
def answer_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Return the ids of all tokens that are Yes, or No, up to case, space, quotes and markdown.

    Raises InputError where there is no token for one of the words.
    """
    sets: dict[str, list[int]] = {"yes": [], "no": []}
    for token in range(len(tokenizer)):
        word = tokenizer.decode([token]).strip(" \t\r\n*_`\"'").lower()
        if word in sets:
            sets[word].append(token)
    if not all(sets.values()):
        missing = " and ".join(word for word, ids in sets.items() if not ids)
        raise InputError(
            f"the tokenizer has no single token for {missing}: this model's answers cannot be "
            "scored, take another one"
        )
    return sets
