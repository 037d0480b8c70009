"""What scoring runs: each distinct text under each coefficient once, two texts with a common
beginning in one row.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.lm.bundles import Bundle, Rows, bundle, bundle_hidden, lay_out, pair_up
from pipeline.lm.trunk import on_trunk, run_trunk
from pipeline.steering.base import Attachable

Text = tuple[int, ...]
Span = tuple[
    int, int
]  # the NLL is over the last (first number) tokens of a text, without the very last (second number)


@dataclass(frozen=True)
class Unit:
    """One forward row: one or two texts under one coefficient, and the part of each that enters the
    NLL.
    """

    texts: tuple[Text, ...]
    bundle: Bundle
    spans: list[Span]
    coefficient: float

    def apart(self) -> list["Unit"]:
        """Return its texts as units of their own."""
        return [
            Unit((text,), bundle([list(text)]), [span], self.coefficient)
            for text, span in zip(self.texts, self.spans, strict=True)
        ]


def plan(
    rows: list[tuple[list[int], Span, float]], reuse: bool
) -> tuple[list[Unit], list[tuple[int, int]]]:
    """Return units sorted by length, and where the text of each row (ids, span, coefficient) is:
    its unit, its place in it.
    """
    spans = {tuple(ids): span for ids, span, _ in rows}
    units: list[Unit] = []
    for c in dict.fromkeys(c for _, _, c in rows):
        texts = list(dict.fromkeys(tuple(ids) for ids, _, own in rows if own == c))
        groups = (
            pair_up([list(text) for text in texts])
            if reuse
            else [[index] for index in range(len(texts))]
        )
        for group in groups:
            members = tuple(texts[index] for index in group)
            units.append(
                Unit(
                    members,
                    bundle([list(text) for text in members]),
                    [spans[text] for text in members],
                    c,
                )
            )
    units.sort(key=lambda unit: (len(unit.bundle), unit.texts))
    where = {
        (text, unit.coefficient): (i, k)
        for i, unit in enumerate(units)
        for k, text in enumerate(unit.texts)
    }
    return units, [where[tuple(ids), c] for ids, _, c in rows]


def unit_rows(part: list[Unit], pad_id: int, device: torch.device) -> tuple[Rows, Tensor]:
    """Return the distinct bundles of units as rows, and each unit's row among them [n]."""
    distinct = {unit.texts: unit.bundle for unit in part}
    numbers = {texts: number for number, texts in enumerate(distinct)}
    index = torch.tensor([numbers[unit.texts] for unit in part], device=device)
    return lay_out(list(distinct.values()), pad_id, device), index


def unit_states(
    model: PreTrainedModel,
    steering: Attachable | None,
    part: list[Unit],
    rows: Rows,
    index: Tensor,
    depth: int,
) -> Tensor:
    """Return the units' final hidden states [n, w, d]; the first `depth` layers run once per
    distinct bundle.
    """
    shared = depth and len(rows.ids) < len(part)
    held = run_trunk(model, depth, lambda: bundle_hidden(model, rows)) if shared else None
    coefficients = torch.tensor([unit.coefficient for unit in part])
    with (
        steering.steer(model, coefficients) if steering else nullcontext(),
        nullcontext() if held is None else on_trunk(model, depth, held, index),
    ):
        return bundle_hidden(model, rows.take(index))
