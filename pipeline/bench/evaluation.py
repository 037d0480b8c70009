"""Scoring against the bare forward passes of its tokens, and how it grows.

Bare passes run, once per dilemma, the beginning that its two actions share, and both ends. Layers
below the first adapted one run on these once, the others once per coefficient. There are no
adapter, no tokenising and no checks, and logits at the last position alone. No way of scoring
could run fewer tokens.
"""

from collections.abc import Callable

import torch

from pipeline.bench.ratios import Figure, Timed
from pipeline.bench.subject import Subject
from pipeline.lm.forward import to_logits
from pipeline.lm.prefixes import Rows
from pipeline.lm.trunk import trunk_depth
from pipeline.scoring.rows import final_states, forward_rows, lay_out_rows, make_prompts
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

    def __init__(self, subject: Subject, nll: bool):
        base = subject.base
        self.model = base.model
        self.depth = trunk_depth(base.model, subject.adapter.touched())
        self.nll = nll
        self.answers = answer_ids(base)
        prompts = make_prompts(base, subject.items, subject.adapter, COEFFICIENTS)
        rows, _ = forward_rows(prompts, reuse=True)
        count = max(1, base.batch_size // max(len(row.texts) for row in rows))
        parts = [rows[start : start + count] for start in range(0, len(rows), count)]
        self.parts = [(part, *lay_out_rows(part, base.pad_id, base.device)) for part in parts]

    @torch.no_grad()
    def __call__(self) -> None:
        for part, rows, index in self.parts:
            plain = plain_rows(rows)
            hidden = final_states(self.model, Untouched(), part, plain, index, self.depth)
            if self.nll:
                spans = [row.spans for row in part]
                figures(self.model, hidden, rows.take(index), spans, self.answers)
            else:
                to_logits(self.model, hidden[:, -1])


def evaluation(subject: Subject, timed: Timed) -> list[Figure]:
    def scored(
        count: int, coefficients: list[float] = COEFFICIENTS, reuse: bool = True
    ) -> Callable[[], object]:
        items = subject.items[:count]
        return lambda: score(subject.base, items, subject.adapter, coefficients, reuse=reuse)

    every = len(subject.items)
    n = 2 * max(1, every // 8)
    whole, few, one = scored(every), scored(n), scored(every, [1.0])
    three, plain = scored(every, COEFFICIENTS[1:4]), scored(every, reuse=False)
    return [
        timed("evaluation / bare forward", whole, Bare(subject, nll=False), at_most=1.15),
        timed("evaluation / bare forward with answers and NLL", whole, Bare(subject, nll=True)),
        timed("evaluation, reuse on / off", whole, plain),
        timed("time per item, 2n / n", scored(2 * n), few, scale=1 / 2),
        timed("time per item, 4n / n", scored(4 * n), few, scale=1 / 4),
        timed("time per coefficient, 3 / 1", three, one, scale=1 / 3),
        timed("time per coefficient, 7 / 1", whole, one, scale=1 / 7),
    ]
