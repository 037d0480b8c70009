"""The layers below the first one that a method touches: run once per text for all coefficients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.lm.forward import layer_output, skipping
from pipeline.lm.layers import decoder_layers, layers_prefix
from pipeline.lm.prefixes import Rows, rows_hidden

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Output = Tensor | tuple


def trunk_depth(model: PreTrainedModel, touched: list[str]) -> int:
    """Return how many layers lie below every named module; 0 for none, or one outside of layers."""
    pattern = re.compile(rf"{re.escape(layers_prefix(model))}\.(\d+)(\.|$)")
    matches = [pattern.match(name) for name in touched]
    return min((int(match[1]) if match else 0 for match in matches), default=0)


def run_trunk(model: PreTrainedModel, depth: int, forward: Callable[[], object]) -> Output:
    """Return what leaves layer `depth` - 1 in `forward()`, in which no layer above runs."""
    layers = list(decoder_layers(model))
    held: list[Output] = []
    handle = layers[depth - 1].register_forward_hook(
        lambda _module, _inputs, output: held.append(output)
    )
    try:
        with skipping(layers[depth:], lambda: held[0]):
            forward()
    finally:
        handle.remove()
    return held[0]


@contextmanager
def on_trunk(model: PreTrainedModel, depth: int, held: Output, index: Tensor) -> Iterator[None]:
    """Let passes over rows `index` [b] of the texts begin at layer `depth`, with their states."""
    states = layer_output(held)
    rows = states[index.to(states.device)]
    whole = (rows, *held[1:]) if isinstance(held, tuple) else rows
    with skipping(list(decoder_layers(model))[:depth], lambda: whole):
        yield


def repeat_rows(model: PreTrainedModel, rows: Rows, repeats: int, depth: int) -> Tensor:
    """Return the final states [repeats, b, w, d] of rows run `repeats` times in one pass.

    What is attached to the model tells the copies apart; the first `depth` layers run once.
    """
    index = torch.arange(len(rows.ids), device=rows.ids.device).repeat(repeats)
    if depth and repeats > 1:
        below = run_trunk(model, depth, lambda: rows_hidden(model, rows))
        with on_trunk(model, depth, below, index):
            hidden = rows_hidden(model, rows.take(index))
    else:
        hidden = rows_hidden(model, rows.take(index))
    return hidden.unflatten(0, (repeats, -1))
