"""Score how a model answers a question Yes or No: log-odds, choice mass and the NLL of the
prompt.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.batches import in_batches
from pipeline.lm.bundles import Rows
from pipeline.lm.forward import last_hidden, state_nll, to_logits, token_positions
from pipeline.lm.prompts import THINK, Message, answer_tokens, chat_text, open_turn, pad_left
from pipeline.lm.trunk import trunk_depth
from pipeline.scoring.units import Span, Unit, plan, unit_rows, unit_states
from pipeline.scoring.wording import ANSWER_PREFIX
from pipeline.steering.base import Attachable
from pipeline.support.errors import InputError
from pipeline.support.scratch import Scratch

SCORED_FROM = "\nSituation:"  # the NLL is over the tokens from here on: the same for every method
Replies = Mapping[
    tuple[str, float], str
]  # (item_id, coefficient) -> what the assistant says before the answer prefix


@dataclass(frozen=True)
class Row:
    """An item under one coefficient.

    The NLL is over the last `scored` tokens without the very last `said` ones, a reply's (0 where
    there is none).
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
    """Render and tokenise each distinct chat once; one row per item and coefficient."""
    texts: dict[str, int] = {}  # each with the length of the part that the NLL may read
    rendered: dict[str, str] = {}
    wanted = []
    for item in items:
        chat: list[Message] = [{"role": "user", "content": item["prompt"]}]
        for c in coefficients:
            asked = steering.rewrite(chat, c) if steering else chat
            if (key := str(asked)) not in rendered:
                rendered[key] = (
                    chat_text(tokenizer, asked, answer_prefix, options)
                    if replies is None
                    else open_turn(tokenizer, asked, options | THINK)
                )
            own = rendered[key]
            text = own if replies is None else own + replies[item["item_id"], c] + answer_prefix
            texts[text] = len(own)
            wanted.append((item["item_id"], c, text))
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    found = {}
    for text, ids, offsets in zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        start = text.rindex(SCORED_FROM, 0, texts[text]) + 1
        found[text] = (
            ids,
            sum(end > start for _, end in offsets),
            sum(end > texts[text] for _, end in offsets),
        )
    return [Row(item_id, c, *found[text]) for item_id, c, text in wanted]


def check_head(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> None:
    """Refuse a model whose logits are not what `to_logits` makes of its last hidden states."""
    positions = token_positions(mask)
    own = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=1,
    ).logits[:, -1]
    ours = to_logits(model, last_hidden(model, ids, mask)[:, -1])
    if not torch.allclose(own.float(), ours, rtol=1e-2, atol=1e-2):
        raise InputError(
            f"{type(model).__name__} transforms its logits in a way that scoring does not know"
        )


@torch.no_grad()
def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[dict[str, Any]], steering: Attachable | None,
    coefficients: list[float], batch_size: int, options: dict[str, Any], *, answer_prefix: str = ANSWER_PREFIX,
    replies: Replies | None = None, reuse: bool = True, scratch: Scratch | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one record per item and coefficient: log_odds of Yes (nats), choice_mass, nll (nats
    per token).

    With `replies` (from `reason`) the answer is read after them; the NLL stays over the dilemma's
    own text.

    Forward rows are sorted by length, so that a batch holds all coefficients of a dilemma and
    little padding. With `reuse` two texts share the row of their common beginning, and layers below
    the first steered one run once per batch and text. Logits exist at the last position and, in
    chunks, where the NLL needs them.
    """
    rows = make_rows(tokenizer, items, steering, coefficients, options, answer_prefix, replies)
    units, places = plan(
        [(row.ids, (row.scored, row.said), row.coefficient) for row in rows], reuse
    )
    most, depth = (
        max(len(unit.spans) for unit in units),
        trunk_depth(model, steering.touched()) if reuse and steering else 0,
    )
    answers = {
        word: torch.tensor(ids, device=model.device)
        for word, ids in answer_tokens(tokenizer).items()
    }
    check_head(
        model,
        *pad_left([max((row.ids for row in rows), key=len)], tokenizer.pad_token_id, model.device),
    )
    if most > 1 or depth:
        check_reuse(model, steering, units[-2:], depth, tokenizer.pad_token_id)

    def work(part: list[Unit]) -> Tensor:
        laid, index = unit_rows(part, tokenizer.pad_token_id, model.device)
        hidden = unit_states(model, steering, part, laid, index, depth)
        found = figures(model, hidden, laid.take(index), [unit.spans for unit in part], answers)
        return F.pad(found, (0, 0, 0, most - found.shape[1]), value=math.nan).cpu()

    found = in_batches(units, max(1, batch_size // most), work, "scoring", scratch)
    names = ("log_odds", "choice_mass", "nll")
    records = [
        {
            "item_id": row.item_id,
            "coefficient": row.coefficient,
            **dict(zip(names, found[place].tolist(), strict=True)),
        }
        for row, place in zip(rows, places, strict=True)
    ]
    if bad := sorted(
        {r["coefficient"] for r in records if not all(math.isfinite(r[name]) for name in names)}
    ):
        raise InputError(f"scores are not finite at coefficients {bad}: take smaller ones")
    return records


def check_reuse(
    model: PreTrainedModel, steering: Attachable | None, part: list[Unit], depth: int, pad_id: int
) -> None:
    """Refuse a model whose states are not those of its texts one by one, without a trunk."""
    laid, index = unit_rows(part, pad_id, model.device)
    together, rows = unit_states(model, steering, part, laid, index, depth), laid.take(index)
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    for i, unit in enumerate(part):
        for number, alone in enumerate(unit.apart(), start=1):
            own, one = unit_rows([alone], pad_id, model.device)
            expected = unit_states(model, steering, [alone], own, one, 0)[0].float()
            found = together[i, (rows.branch[i] == 0) | (rows.branch[i] == number)].float()
            error = ((found - expected).norm() / expected.norm()).item()
            if not error < (1e-3 if exact else 0.05) and expected.isfinite().all():
                raise InputError(
                    f"{type(model).__name__} computes other states (by {error:.2g}) when texts "
                    "share their beginning and "
                    "layers are run once for all coefficients: set scoring.reuse false"
                )


def figures(
    model: PreTrainedModel,
    hidden: Tensor,
    rows: Rows,
    spans: list[list[Span]],
    answers: dict[str, Tensor],
) -> Tensor:
    """Return log_odds, choice_mass and nll [b, k, 3] of up to k texts per row, of final states [b,
    w, d].
    """
    log_p = to_logits(
        model, hidden.gather(1, rows.last[..., None].expand(-1, -1, hidden.shape[-1]))
    ).log_softmax(-1)
    yes, no = (log_p[..., answers[word]].logsumexp(-1) for word in ("yes", "no"))
    texts = rows.last.shape[1]
    padded = torch.tensor(
        [own + [(0, 0)] * (texts - len(own)) for own in spans], device=hidden.device
    )
    counts, said = padded.unbind(-1)
    numbers = torch.arange(1, texts + 1, device=hidden.device)[:, None]
    read = (rows.branch[:, None] == 0) | (rows.branch[:, None] == numbers)  # [b, k, w]
    ends = rows.positions.gather(1, rows.last)
    read &= (rows.positions[:, None] > (ends - counts)[..., None]) & (
        rows.positions[:, None] <= (ends - said)[..., None]
    )
    row, column = read.any(1).nonzero(as_tuple=True)
    flat = state_nll(model, hidden[row, rows.before[row, column]], rows.ids[row, column])
    nll = torch.zeros(rows.ids.shape, device=hidden.device).index_put((row, column), flat)
    return torch.stack(
        [yes - no, yes.exp() + no.exp(), (nll[:, None] * read).sum(-1) / (counts - said)], dim=-1
    )
