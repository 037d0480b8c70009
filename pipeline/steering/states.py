"""What the base model makes of the pairs: outputs of chosen modules, and the residual stream."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.forward import ROWS, check_length, layer_output, read_layers
from pipeline.lm.layers import decoder_layers
from pipeline.lm.prefixes import Laid, lay_texts, rows_hidden, shares_rows, states_at
from pipeline.lm.prompts import tokenize
from pipeline.steering.base import Pairs
from pipeline.steering.hooks import check_batched
from pipeline.support.errors import InputError


def lay_all(base: Base, texts: list[str], last_tokens: int = 1) -> Iterator[Laid]:
    """Yield `ROWS` texts at a time, in order; those that begin alike run that beginning once."""
    tokens = tokenize(base.tokenizer, texts)
    check_length(base.model, max(map(len, tokens), default=0))
    if (shortest := min(map(len, tokens), default=last_tokens)) < last_tokens:
        raise InputError(f"a text has only {shortest} tokens: lower last_tokens ({last_tokens})")
    together = shares_rows(base.model, tokens, base.pad_id)
    for start in range(0, len(tokens), ROWS):
        yield lay_texts(tokens[start : start + ROWS], base.pad_id, base.device, together)


@torch.no_grad()
def site_states(
    base: Base, texts: list[str], sites: list[str], last_tokens: int
) -> list[Float[Tensor, "n _"]]:
    """Return the texts' outputs of each module, mean over the last tokens, float32."""
    parts = []
    modules = [base.model.get_submodule(site) for site in sites]
    for laid in lay_all(base, texts, last_tokens):
        with read_layers(modules) as seen:
            rows_hidden(base.model, laid.rows)
        for hidden in seen:
            check_batched(hidden)
        ends = [at[-last_tokens:] for at in laid.at]
        states = [states_at(hidden[None], ends)[0] for hidden in seen]
        parts.append([each.float().mean(1).to(base.device) for each in states])
    return [torch.cat(site) for site in zip(*parts, strict=True)]


def pair_differences(
    base: Base, pairs: Pairs, sites: list[str], last_tokens: int
) -> Float[Tensor, "n k d"]:
    """Return positive minus negative states at k sites of one width, mean over the last tokens."""
    positive = site_states(base, pairs.positive, sites, last_tokens)
    negative = site_states(base, pairs.negative, sites, last_tokens)
    widths = {states.shape[-1] for states in positive}
    if len(widths) > 1:
        raise InputError(
            f"{sites[0]} to {sites[-1]} have outputs of {sorted(widths)} dimensions: choose sites "
            "of one width"
        )
    return torch.stack(positive, dim=1) - torch.stack(negative, dim=1)


@torch.no_grad()
def residual_stream(base: Base, pairs: Pairs, places: list[int]) -> Float[Tensor, "n 2 k d"]:
    """Return the residual stream at the texts' last token, float32, as (positive, negative).

    Place l of the k places is the input of decoder layer l. The number of layers stands for the
    output of the last one, not yet normalised. Raises InputError if there are no pairs or a
    state is not finite.
    """
    texts = [text for pair in zip(pairs.positive, pairs.negative, strict=True) for text in pair]
    if not texts:
        raise InputError(
            "there are no pairs in a split: raise pairs.max_pairs or change pairs.calibration_share"
        )
    parts = []
    for laid in lay_all(base, texts):
        with read_stream(base, places, [at[-1] for at in laid.at]) as seen:
            rows_hidden(base.model, laid.rows)
        parts.append(torch.stack([seen[place] for place in places], dim=1))
    states = torch.cat(parts).unflatten(0, (-1, 2))
    if not states.isfinite().all():
        raise InputError(
            "the base model's states are not finite: set models.<id>.dtype to bfloat16 or float32"
        )
    return states


def entering_states(base: Base, pairs: Pairs, layers: list[int]) -> dict[int, Tensor]:
    """Return, for each decoder layer, what enters it at the texts' last token: [n, 2, d]."""
    return dict(zip(layers, residual_stream(base, pairs, layers).unbind(2), strict=True))


@contextmanager
def read_stream(base: Base, places: list[int], last: list[int]) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that a forward pass fills with the states [n, d] at `last` [n] of its rows."""
    layers = decoder_layers(base.model)
    seen: dict[int, Tensor] = {}

    def keep(place: int, hidden: Tensor) -> None:
        seen[place] = states_at(hidden[None], last)[0].to(base.device, torch.float32)

    def entering(place: int):
        def hook(_module, args, kwargs):
            keep(place, args[0] if args else kwargs["hidden_states"])

        return hook

    def leaving(_module, _inputs, output):
        keep(len(layers), layer_output(output))

    with ExitStack() as attached:
        for place in places:
            if place < len(layers):
                handle = layers[place].register_forward_pre_hook(entering(place), with_kwargs=True)
            else:
                handle = layers[-1].register_forward_hook(leaving)
            attached.callback(handle.remove)
        yield seen
