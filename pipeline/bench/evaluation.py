"""Scoring against the bare forward passes of its tokens, and how it grows.

Bare: of every dilemma the beginning that its two actions share, once, and both ends; the layers
below the first adapted one run on these once, the others once per coefficient; no adapter, logits
at the last position alone, no tokenising, no checks. No way of scoring could run fewer tokens.
"""

import torch
from torch import Tensor

from pipeline.bench.ratios import Figure, ratio
from pipeline.bench.subject import Subject
from pipeline.lm.bundles import Rows
from pipeline.lm.forward import to_logits
from pipeline.lm.prompts import answer_tokens
from pipeline.lm.trunk import trunk_depth
from pipeline.scoring.score import figures, make_rows, score
from pipeline.scoring.units import Unit, plan, unit_rows, unit_states

COEFFICIENTS = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0]


def plain_rows(rows: Rows) -> Rows:
    """Return the same tokens as ordinary texts, one per row, which need no mask of their own."""
    real = rows.branch >= 0
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    return rows._replace(branch=real.long() - 1, positions=positions, last=rows.last[:, -1:])


class Bare:
    """The bare forward passes of some items, laid out beforehand; with `nll` also the figures that
    scoring makes of them.
    """

    def __init__(self, subject: Subject, items: list[dict], nll: bool, size: int):
        self.model, self.depth, self.nll = (
            subject.model,
            trunk_depth(subject.model, subject.adapter.touched()),
            nll,
        )
        self.answers = {
            k: torch.tensor(v, device=self.model.device)
            for k, v in answer_tokens(subject.tokenizer).items()
        }
        pad, device = subject.tokenizer.pad_token_id, subject.model.device
        rows = make_rows(subject.tokenizer, items, subject.adapter, COEFFICIENTS, {})
        units, _ = plan([(row.ids, (row.scored, row.said), row.coefficient) for row in rows], True)
        count = max(1, size // max(len(unit.spans) for unit in units))
        self.parts: list[tuple[list[Unit], Rows, Tensor]] = []
        for start in range(0, len(units), count):
            part = units[start : start + count]
            laid, index = unit_rows(part, pad, device)
            self.parts.append((part, laid, index))

    @torch.no_grad()
    def __call__(self) -> None:
        for part, laid, index in self.parts:
            hidden = unit_states(self.model, None, part, plain_rows(laid), index, self.depth)
            if not self.nll:
                to_logits(self.model, hidden[:, -1])
            else:
                figures(
                    self.model,
                    hidden,
                    laid.take(index),
                    [unit.spans for unit in part],
                    self.answers,
                )


def evaluation(subject: Subject, repeats: int) -> list[Figure]:
    params = subject.params
    size, device = params.models[params.model].batch_size, subject.model.device

    def scored(items, coefficients, reuse=True):
        return lambda: score(
            subject.model,
            subject.tokenizer,
            items,
            subject.adapter,
            coefficients,
            size,
            {},
            reuse=reuse,
        )

    n = 2 * max(1, len(subject.items) // 8)
    whole, ones = scored(subject.items, COEFFICIENTS), scored(subject.items, [1.0])
    few = scored(subject.items[:n], COEFFICIENTS)
    return [
        ratio(
            "evaluation / bare forward",
            whole,
            Bare(subject, subject.items, False, size),
            repeats,
            device,
            at_most=1.15,
        ),
        ratio(
            "evaluation / bare forward with answers and NLL",
            whole,
            Bare(subject, subject.items, True, size),
            repeats,
            device,
        ),
        ratio(
            "evaluation, reuse on / off",
            whole,
            scored(subject.items, COEFFICIENTS, False),
            repeats,
            device,
        ),
        ratio(
            "time per item, 2n / n",
            scored(subject.items[: 2 * n], COEFFICIENTS),
            few,
            repeats,
            device,
            1 / 2,
        ),
        ratio(
            "time per item, 4n / n",
            scored(subject.items[: 4 * n], COEFFICIENTS),
            few,
            repeats,
            device,
            1 / 4,
        ),
        ratio(
            "time per coefficient, 3 / 1",
            scored(subject.items, COEFFICIENTS[1:4]),
            ones,
            repeats,
            device,
            1 / 3,
        ),
        ratio("time per coefficient, 7 / 1", whole, ones, repeats, device, 1 / 7),
    ]
