"""How a model answers a dilemma: log-odds, choice mass and the NLL of the prompt.

ANSWERS asks Yes or No about one action. LIKELIHOOD reads how likely each action's own text is as
the reply to an open question, for models that hardly say Yes. Its log-odds of an action is the mean
log-probability per token of its text, less that of the dilemma's other action.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.lm.base import Base
from pipeline.lm.batches import in_batches
from pipeline.lm.forward import check_length, state_nll, to_logits
from pipeline.lm.prefix_cache import PrefixCache
from pipeline.lm.prefixes import Rows, rounding
from pipeline.lm.prompts import answer_tokens
from pipeline.lm.trunk import trunk_depth
from pipeline.scoring.rows import (
    ForwardRow,
    Prompt,
    Replies,
    Span,
    common_prefix,
    final_states,
    forward_rows,
    lay_out_rows,
    make_prompts,
)
from pipeline.steering.base import Attachable
from pipeline.steering.hooks import check_acts
from pipeline.support.errors import InputError
from pipeline.support.schemas import ANSWERS, LIKELIHOOD
from pipeline.support.scratch import Scratch

FIGURES = ("log_odds", "choice_mass", "nll", "reply_nll")


@torch.no_grad()
def score(
    base: Base, items: list[dict[str, Any]], steering: Attachable, coefficients: list[float], *,
    replies: Replies | None = None, reuse: bool = True, scratch: Scratch | None = None,
    forms: Sequence[str] = (ANSWERS,),
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a record per form, item and coefficient: log_odds, choice_mass, nll.

    log_odds is in nats, of LIKELIHOOD in nats per token. There the two actions are all that may be
    chosen, and choice_mass is 1. nll is in nats per token of the dilemma's own text. With `replies`
    (from `reason`) the answer is read after them. Rows are sorted by length, so a batch holds all
    coefficients of a dilemma and little padding. With `reuse` two texts share the row of their
    common beginning, the prefix of all texts runs once per coefficient, and layers below the first
    steered one run once per text. Raises InputError for texts too long and scores not finite.
    """
    check_acts(base.model, steering.hooks(base.model, max(coefficients, key=abs)))
    records: list[dict[str, Any]] = []
    for form in forms:
        prompts = make_prompts(base, items, steering, coefficients, replies, form)
        whole = run_prompts(base, steering, prompts, reuse, scratch)
        records += [
            {"form": form, "item_id": prompt.item_id, "coefficient": prompt.coefficient}
            | dict(zip(FIGURES, own, strict=True))
            for prompt, own in zip(prompts, whole.tolist(), strict=True)
        ]
    if bad := {r["coefficient"] for r in records if not all(math.isfinite(r[k]) for k in FIGURES)}:
        raise InputError(f"scores are not finite at coefficients {sorted(bad)}: take smaller ones")
    if LIKELIHOOD in forms:
        compare_actions(records, items)
    for record in records:
        del record["reply_nll"]
    return records


def run_prompts(
    base: Base, steering: Attachable, prompts: list[Prompt], reuse: bool, scratch: Scratch | None
) -> Tensor:
    """Return the figures [n, 4] of n prompts of one form, on the CPU."""
    model, form = base.model, prompts[0].form
    check_length(model, max(len(prompt.ids) for prompt in prompts))
    prefix = common_prefix(prompts) if reuse else ()
    rows, places = forward_rows(prompts, reuse, prefix)
    depth = trunk_depth(model, steering.touched()) if reuse else 0
    most, answers = max(len(row.texts) for row in rows), answer_ids(base)
    cache = None
    if most > 1 or depth or prefix:
        with refused(model):
            cache = cached(base, steering, rows, prefix) if prefix else None
            tried = rows[:1] + rows[-2:]  # the shortest is padded beside the longest
            check_reuse(base, steering, tried, depth, prefix, cache)

    def work(part: list[ForwardRow]) -> Tensor:
        distinct, index = lay_out_rows(part, base.pad_id, base.device)
        hidden = final_states(model, steering, part, distinct, index, depth, cache)
        spans = [row.spans for row in part]
        values = figures(model, hidden, distinct.take(index), spans, answers)
        return F.pad(values, (0, 0, 0, most - values.shape[1]), value=math.nan).cpu()

    size = max(1, base.batch_size // most)
    whole = in_batches(rows, size, work, f"scoring {form}", scratch)
    return whole[tuple(torch.tensor(places).T)]


def cached(
    base: Base, steering: Attachable, rows: list[ForwardRow], prefix: tuple[int, ...]
) -> PrefixCache:
    coefficients = list(dict.fromkeys(row.coefficient for row in rows))
    with steering.steer(base.model, torch.tensor(coefficients)):
        return PrefixCache.of(base.model, list(prefix), coefficients)


def compare_actions(records: list[dict[str, Any]], items: list[dict[str, Any]]) -> None:
    """Set the LIKELIHOOD records' log-odds: of an action's text against the other action's."""
    dilemmas = {item["item_id"]: item["dilemma_id"] for item in items}
    sides: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["form"] == LIKELIHOOD:
            sides[dilemmas[record["item_id"]], record["coefficient"]].append(record)
    for both in sides.values():
        whole = sum(record["reply_nll"] for record in both)
        for record in both:
            record |= {"log_odds": whole - 2 * record["reply_nll"], "choice_mass": 1.0}


def answer_ids(base: Base) -> dict[str, Tensor]:
    """Return the token ids of Yes and of No on the model's device."""
    sets = answer_tokens(base.tokenizer)
    return {word: torch.tensor(ids, device=base.device) for word, ids in sets.items()}


@contextmanager
def refused(model: PreTrainedModel) -> Iterator[None]:
    """Refuse a model that cannot share beginnings, as ALiBi, which knows no such mask."""
    try:
        yield
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        said = f"{type(model).__name__} cannot run texts that share their beginning ({error})"
        raise InputError(f"{said}: set scoring.reuse false") from None


def check_reuse(
    base: Base, steering: Attachable, part: list[ForwardRow], depth: int,
    prefix: tuple[int, ...], cache: PrefixCache | None,
) -> None:  # fmt: skip
    """Refuse a model whose states are not those of its texts one by one, without a trunk."""
    model = base.model
    distinct, index = lay_out_rows(part, base.pad_id, base.device)
    rows = distinct.take(index)
    together = final_states(model, steering, part, distinct, index, depth, cache)
    for i, row in enumerate(part):
        for number, alone in enumerate(row.apart(prefix), start=1):
            own = lay_out_rows([alone], base.pad_id, base.device)
            expected = final_states(model, steering, [alone], *own, depth=0)[0].float()
            expected = expected[len(prefix) :]
            states = together[i, rows.of_text(number)[i]].float()
            distance = ((states - expected).norm() / expected.norm()).item()
            if not distance < rounding(model) and expected.isfinite().all():
                raise InputError(
                    f"{type(model).__name__} computes other states (by {distance:.2g}) when texts "
                    "share their beginning and layers are run once for all coefficients: set "
                    "scoring.reuse false"
                )


def figures(
    model: PreTrainedModel, hidden: Tensor, rows: Rows, spans: list[tuple[Span, ...]],
    answers: dict[str, Tensor],
) -> Tensor:  # fmt: skip
    """Return log_odds, choice_mass, nll and the reply's nll [b, k, 4] of up to k texts per row.

    The last is 0 for texts whose reply is not read. `hidden` [b, w, d] are final states; `answers`
    holds the token ids of Yes and No.
    """
    last = hidden.gather(1, rows.last[..., None].expand(-1, -1, hidden.shape[-1]))
    log_p = to_logits(model, last).log_softmax(-1)
    yes, no = (log_p[..., answers[word]].logsumexp(-1) for word in ("yes", "no"))
    texts = rows.last.shape[1]
    padded = [[*own, *[(0, 0, 0)] * (texts - len(own))] for own in spans]
    counts, said, replied = torch.tensor(padded, device=hidden.device).unbind(-1)
    numbers = torch.arange(1, texts + 1, device=hidden.device)[:, None]
    own = (rows.branch[:, None] == 0) | (rows.branch[:, None] == numbers)  # [b, k, w]
    left = rows.positions.gather(1, rows.last)[..., None] - rows.positions[:, None]
    dilemma = own & (left < counts[..., None]) & (left >= said[..., None])
    reply = own & (left >= 0) & (left < replied[..., None])
    row, column = (dilemma | reply).any(1).nonzero(as_tuple=True)
    flat = state_nll(model, hidden[row, rows.before[row, column]], rows.ids[row, column])
    nll = torch.zeros(rows.ids.shape, device=hidden.device).index_put((row, column), flat)[:, None]
    of_text = (nll * dilemma).sum(-1) / (counts - said)
    of_reply = (nll * reply).sum(-1) / replied.clamp(min=1)
    return torch.stack([yes - no, yes.exp() + no.exp(), of_text, of_reply], dim=-1)
