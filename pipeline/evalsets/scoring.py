"""Score how a model answers a question Yes or No: log-odds, choice mass and the NLL of the prompt."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.evalsets.prompt import ANSWER_PREFIX
from pipeline.lm.batches import in_batches
from pipeline.lm.forward import last_hidden, to_logits, token_nll, token_positions
from pipeline.lm.prompts import THINK, Message, answer_tokens, chat_text, open_turn, pad_left
from pipeline.scratch import Scratch
from pipeline.steering.base import Attachable

SCORED_FROM = "\nSituation:"  # the NLL is over the tokens from here on: the same for every method
Replies = Mapping[tuple[str, float], str]  # (item_id, coefficient) -> what the assistant says before the answer prefix


@dataclass(frozen=True)
class Row:
    """One forward row: an item under one coefficient.

    The NLL is over the last `scored` tokens without the very last `said` ones, a reply's (0 where there is none).
    """

    item_id: str
    coefficient: float
    ids: list[int]
    scored: int
    said: int = 0


def make_rows(
    tokenizer: PreTrainedTokenizerBase, items: list[dict[str, Any]], steering: Attachable | None, coefficients: list[float],
    options: dict[str, Any], answer_prefix: str = ANSWER_PREFIX, replies: Replies | None = None,
) -> list[Row]:  # fmt: skip
    """Tokenise each distinct chat once; one row per item and coefficient."""
    texts: dict[str, int] = {}  # each with the length of the part that the NLL may read
    wanted = []
    for item in items:
        chat: list[Message] = [{"role": "user", "content": item["prompt"]}]
        for c in coefficients:
            asked = steering.rewrite(chat, c) if steering else chat
            if replies is None:
                text = own = chat_text(tokenizer, asked, answer_prefix, options)
            else:
                own = open_turn(tokenizer, asked, options | THINK)
                text = own + replies[item["item_id"], c] + answer_prefix
            texts[text] = len(own)
            wanted.append((item["item_id"], c, text))
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    found = {}
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        start = text.rindex(SCORED_FROM, 0, texts[text]) + 1
        found[text] = ids, sum(end > start for _, end in offsets), sum(end > texts[text] for _, end in offsets)
    return [Row(item_id, c, *found[text]) for item_id, c, text in wanted]


def check_head(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> None:
    """Refuse a model whose logits are not what `to_logits` makes of its last hidden states."""
    positions = token_positions(mask)
    own = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1]
    ours = to_logits(model, last_hidden(model, ids, mask)[:, -1])
    if not torch.allclose(own.float(), ours, rtol=1e-2, atol=1e-2):
        raise InputError(f"{type(model).__name__} transforms its logits in a way that scoring does not know")


@torch.no_grad()
def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[dict[str, Any]], steering: Attachable | None,
    coefficients: list[float], batch_size: int, options: dict[str, Any], *, answer_prefix: str = ANSWER_PREFIX,
    replies: Replies | None = None, scratch: Scratch | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one record per item and coefficient: log_odds of Yes (nats), choice_mass, nll (nats per token).

    With `replies` (from `reason`) the answer is read after them; the NLL stays over the dilemma's own text.

    Rows are sorted by length, so that a batch holds all coefficients of an item and little padding. Logits exist at the
    last position and, in chunks, where the NLL needs them.
    """
    rows = make_rows(tokenizer, items, steering, coefficients, options, answer_prefix, replies)
    rows = sorted(rows, key=lambda row: len(row.ids))
    answers = {word: torch.tensor(ids, device=model.device) for word, ids in answer_tokens(tokenizer).items()}
    check_head(model, *pad_left([rows[-1].ids], tokenizer.pad_token_id, model.device))

    def work(part: list[Row]) -> Tensor:
        ids, mask = pad_left([row.ids for row in part], tokenizer.pad_token_id, model.device)
        scored, said = torch.tensor([[row.scored, row.said] for row in part]).T[..., None]
        left = ids.shape[1] - torch.arange(ids.shape[1])
        chosen = ((left <= scored) & (left > said)).to(model.device)
        return score_batch(model, ids, mask, chosen, answers, steering, torch.tensor([row.coefficient for row in part]))

    figures = in_batches(rows, batch_size, work, "scoring", scratch).tolist()
    names = ("log_odds", "choice_mass", "nll")
    records = [
        {"item_id": row.item_id, "coefficient": row.coefficient, **dict(zip(names, values, strict=True))}
        for row, values in zip(rows, figures, strict=True)
    ]
    if not all(math.isfinite(value) for values in figures for value in values):
        bad = sorted({record["coefficient"] for record in records if not math.isfinite(record["log_odds"])})
        raise InputError(f"scores are not finite at coefficients {bad}: take smaller ones")
    return records


def score_batch(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, chosen: Tensor, answers: dict[str, Tensor],
    steering: Attachable | None, coefficients: Tensor,
) -> Tensor:  # fmt: skip
    """Return log_odds, choice_mass and nll as columns [b, 3] of a batch of left-padded rows."""
    if steering is None:
        hidden = last_hidden(model, ids, mask)
    else:
        with steering.steer(model, coefficients):
            hidden = last_hidden(model, ids, mask)
    log_p = to_logits(model, hidden[:, -1]).log_softmax(-1)
    yes, no = (log_p[:, answers[word]].logsumexp(-1) for word in ("yes", "no"))
    flat = token_nll(model, hidden, ids, chosen)
    nll = torch.zeros(ids.shape, device=ids.device).masked_scatter(chosen, flat).sum(-1) / chosen.sum(-1)
    return torch.stack([yes - no, (yes.exp() + no.exp()), nll], dim=1).cpu()
