"""What scoring runs: each distinct text under each coefficient once, two alike in one row.

The prefix that all texts have, such as the instruction, runs once per coefficient.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.lm.base import Base
from pipeline.lm.prefix_cache import PrefixCache, states_after
from pipeline.lm.prefixes import Bundle, Rows, common_length, lay_out, pair_up
from pipeline.lm.prompts import THINK, Message, chat_text, open_turn, user_chat
from pipeline.lm.trunk import on_trunk, run_trunk
from pipeline.scoring.wording import SITUATION, open_question
from pipeline.steering.base import Attachable
from pipeline.support.schemas import ANSWERS, LIKELIHOOD

SCORED_FROM = SITUATION.rstrip()  # the NLL is over the tokens from here on, for every method
# (item_id, coefficient) -> what the assistant says before the answer prefix
Replies = Mapping[tuple[str, float], str]
# The NLL is over the last (first number) tokens of a text without the very last (second number).
# Of these as many are a reply whose likelihood is read (third number): all of them, or none.
Span = tuple[int, int, int]


@dataclass(frozen=True)
class Prompt:
    """An item under one coefficient, as the model reads it."""

    item_id: str
    coefficient: float
    ids: tuple[int, ...]
    span: Span
    """The dilemma without a reply: its second number counts the reply's tokens."""
    form: str = ANSWERS


def make_prompts(
    base: Base, items: list[dict[str, Any]], steering: Attachable, coefficients: list[float],
    replies: Replies | None = None, form: str = ANSWERS,
) -> list[Prompt]:  # fmt: skip
    """Render and tokenise each distinct chat once; return one prompt per item and coefficient.

    In the form LIKELIHOOD the reply to an open question is the item's own action.
    """
    rendered: dict[str, str] = {}
    ends: dict[str, int] = {}  # of each text: how much of it the NLL may read
    wanted = []
    for item in items:
        question, reply = item["prompt"], base.answer_prefix
        if form == LIKELIHOOD:
            question, reply = open_question(question)
        for c in coefficients:
            asked = steering.rewrite(user_chat(question), c)
            if (key := f"{asked} {reply}") not in rendered:
                rendered[key] = render(base, asked, reply if replies is None else None)
            text = rendered[key]
            end = text.rindex(reply) if form == LIKELIHOOD else len(text)
            if replies is not None:
                text += replies[item["item_id"], c] + base.answer_prefix
            ends[text] = end
            wanted.append((item["item_id"], c, text))
    encoded = base.tokenizer(list(ends), add_special_tokens=False, return_offsets_mapping=True)
    offsets = dict(zip(ends, encoded["offset_mapping"], strict=True))
    ids = {text: tuple(own) for text, own in zip(ends, encoded["input_ids"], strict=True)}
    read = form == LIKELIHOOD
    spans = {text: span_of(text, end, offsets[text], read) for text, end in ends.items()}
    return [Prompt(item_id, c, ids[text], spans[text], form) for item_id, c, text in wanted]


def render(base: Base, chat: list[Message], reply: str | None) -> str:
    """Render a chat up to the end of a reply; without one up to where the model may reason."""
    if reply is None:
        return open_turn(base.tokenizer, chat, base.options | THINK)
    return chat_text(base.tokenizer, chat, reply, base.options)


def span_of(text: str, end: int, offsets: list[tuple[int, int]], read: bool) -> Span:
    """Return the span from the situation to character `end`; offsets are those of the tokens."""
    start = text.rindex(SCORED_FROM, 0, end) + 1
    count, said = (sum(stop > place for _, stop in offsets) for place in (start, end))
    return count, said, said if read else 0


@dataclass(frozen=True)
class ForwardRow:
    """One or two texts under one coefficient, and the span of each that enters the NLL."""

    texts: tuple[tuple[int, ...], ...]
    """Without the prefix of all texts."""
    spans: tuple[Span, ...]
    coefficient: float

    @cached_property
    def bundle(self) -> Bundle:
        return Bundle.of([list(text) for text in self.texts])

    def apart(self, prefix: tuple[int, ...]) -> list["ForwardRow"]:
        """Return its texts as rows of their own, whole again."""
        both = zip(self.texts, self.spans, strict=True)
        return [ForwardRow((prefix + text,), (span,), self.coefficient) for text, span in both]


def common_prefix(prompts: list[Prompt]) -> tuple[int, ...]:
    """Return the tokens that all texts begin with, short of what predicts their NLL's first."""
    texts = {prompt.ids: prompt.span[0] for prompt in prompts}
    first, last = list(min(texts)), list(max(texts))
    until = min(len(ids) - count - 1 for ids, count in texts.items())
    return min(texts)[: max(0, min(until, common_length(first, last)))] if len(texts) > 1 else ()


def forward_rows(
    prompts: list[Prompt], reuse: bool, prefix: tuple[int, ...] = ()
) -> tuple[list[ForwardRow], list[tuple[int, int]]]:
    """Return rows sorted by length, and of each prompt its row and its place in it.

    With `reuse` two texts share the row of their common beginning. Rows leave out `prefix`.
    """
    spans = {prompt.ids: prompt.span for prompt in prompts}
    rows: list[ForwardRow] = []
    for c in dict.fromkeys(prompt.coefficient for prompt in prompts):
        texts = list(dict.fromkeys(prompt.ids for prompt in prompts if prompt.coefficient == c))
        groups = pair_up(list(map(list, texts))) if reuse else [[i] for i in range(len(texts))]
        for group in groups:
            members = [texts[index] for index in group]
            own = tuple(text[len(prefix) :] for text in members)
            rows.append(ForwardRow(own, tuple(spans[text] for text in members), c))
    rows.sort(key=lambda row: (len(row.bundle), row.texts))
    places = {
        (prefix + text, row.coefficient): (index, place)
        for index, row in enumerate(rows)
        for place, text in enumerate(row.texts)
    }
    return rows, [places[prompt.ids, prompt.coefficient] for prompt in prompts]


def lay_out_rows(part: list[ForwardRow], pad_id: int, device: torch.device) -> tuple[Rows, Tensor]:
    """Return the distinct bundles of rows, and the number [n] of each row's bundle among them."""
    distinct = {row.texts: row.bundle for row in part}
    numbers = {texts: number for number, texts in enumerate(distinct)}
    index = torch.tensor([numbers[row.texts] for row in part], device=device)
    return lay_out(list(distinct.values()), pad_id, device), index


def final_states(
    model: PreTrainedModel, steering: Attachable, part: list[ForwardRow], distinct: Rows,
    index: Tensor, depth: int, cache: PrefixCache | None = None,
) -> Tensor:  # fmt: skip
    """Return final hidden states [n, w, d]; the first `depth` layers run once per bundle."""
    coefficients = [row.coefficient for row in part]

    def below() -> Tensor:  # what no coefficient changes, so that any one will do
        one = coefficients[:1] * len(distinct.ids)
        return states_after(model, distinct, cache.at(one) if cache else None)

    shared = depth and len(distinct.ids) < len(part)
    held = run_trunk(model, depth, below) if shared else None
    with (
        steering.steer(model, torch.tensor(coefficients)),
        nullcontext() if held is None else on_trunk(model, depth, held, index),
    ):
        past = cache.at(coefficients) if cache else None
        return states_after(model, distinct.take(index), past)
