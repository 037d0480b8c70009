"""Scoring against the bare forward passes of its tokens and against peft, and how it grows.

Bare passes run, once per dilemma, the beginning that its two actions share, and both ends. Layers
below the first adapted one run on these once, the others once per coefficient. There are no
adapter, no tokenising and no checks, and logits at the last position alone. Scoring caches the
prefix of all dilemmas as well; bare passes do so where they are called cached. With peft every
text runs in full, once per coefficient, and transformers' own loss makes the NLL.
"""

from collections.abc import Callable

import torch

from pipeline.bench.lora import Lora
from pipeline.bench.ratios import Figure, Timer, Work
from pipeline.bench.subject import Subject
from pipeline.lm.forward import to_logits
from pipeline.lm.prefix_cache import PrefixCache
from pipeline.lm.prefixes import Rows
from pipeline.lm.prompts import pad_left
from pipeline.lm.trunk import trunk_depth
from pipeline.scoring.rows import (
    common_prefix,
    final_states,
    forward_rows,
    lay_out_rows,
    make_prompts,
)
from pipeline.scoring.score import answer_ids, figures, score
from pipeline.steering.untouched import Untouched

COEFFICIENTS = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0]


def plain_rows(rows: Rows) -> Rows:
    """Return the same tokens as ordinary texts, one per row, which need no mask of their own."""
    real = rows.branch >= 0
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    return rows._replace(branch=real.long() - 1, positions=positions, last=rows.last[:, -1:])


class Bare:
    """The bare forward passes of the items; with `nll` also the figures that scoring makes."""

    def __init__(self, subject: Subject, nll: bool, cached: bool = False):
        base = subject.base
        self.model = base.model
        self.depth = trunk_depth(base.model, subject.adapter.touched())
        self.nll = nll
        self.answers = answer_ids(base)
        prompts = make_prompts(base, subject.items, subject.adapter, COEFFICIENTS)
        self.prefix = common_prefix(prompts) if cached else ()
        rows, _ = forward_rows(prompts, True, self.prefix)
        count = max(1, base.batch_size // max(len(row.texts) for row in rows))
        parts = [rows[start : start + count] for start in range(0, len(rows), count)]
        self.parts = [(part, *lay_out_rows(part, base.pad_id, base.device)) for part in parts]

    @torch.no_grad()
    def __call__(self) -> None:
        cache = PrefixCache.of(self.model, list(self.prefix), COEFFICIENTS) if self.prefix else None
        for part, rows, index in self.parts:
            plain = plain_rows(rows)
            hidden = final_states(self.model, Untouched(), part, plain, index, self.depth, cache)
            if self.nll:
                spans = [row.spans for row in part]
                figures(self.model, hidden, rows.take(index), spans, self.answers)
            else:
                to_logits(self.model, hidden[:, -1])


def with_peft(subject: Subject, lora: Lora) -> Work:
    """Return what scores all items with a LoRA of peft, sorted by length, as many at a time."""
    base = subject.base

    @torch.no_grad()
    def work() -> None:
        prompts = make_prompts(base, subject.items, subject.adapter, COEFFICIENTS)
        prompts.sort(key=lambda prompt: len(prompt.ids))
        for start in range(0, len(prompts), base.batch_size):
            part = [list(prompt.ids) for prompt in prompts[start : start + base.batch_size]]
            ids, mask = pad_left(part, base.pad_id, base.device)
            labels = ids.masked_fill(mask == 0, -100)
            lora.model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)

    return work


def scored(
    subject: Subject, count: int, coefficients: list[float] = COEFFICIENTS
) -> Callable[[], object]:
    items = subject.items[:count]
    return lambda: score(subject.base, items, subject.adapter, coefficients)


def evaluation(subject: Subject, timer: Timer, lora: Lora) -> list[Figure]:
    every = len(subject.items)
    few = 2 * (every // 8)
    times = timer({
        "whole": scored(subject, every),
        "bare": Bare(subject, nll=False),
        "bare, cached": Bare(subject, nll=False, cached=True),
        "bare, NLL": Bare(subject, nll=True),
        "peft": with_peft(subject, lora),
        "few": scored(subject, few),
        "one": scored(subject, every, [1.0]),
    })  # fmt: skip
    return [
        times.ratio("evaluation / bare forward", "whole", "bare", at_most=1.15),
        times.ratio("evaluation / bare forward, prefix cached", "whole", "bare, cached"),
        times.ratio("evaluation / bare forward with answers and NLL", "whole", "bare, NLL"),
        times.ratio("evaluation / peft's", "whole", "peft", at_most=0.2),
        times.ratio("time per item, all / a quarter", "whole", "few", scale=few / every),
        times.ratio("time per coefficient, 7 / 1", "whole", "one", scale=1 / 7),
    ]
