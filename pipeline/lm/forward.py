"""Forward passes that compute only the logits somebody reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.support.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 4096  # tokens whose logits exist at once,
LOGITS = 1 << 26  # unless they are more than this many: 256 MiB in float32
LIMITS = ("max_position_embeddings", "max_seq_len", "n_positions")  # a config's, by family
ROWS = 64  # texts per forward pass without gradients, where nothing else says how many


class Places(NamedTuple):
    """Tokens of a batch by row and column, each [n]; never a text's first one."""

    row: Tensor
    column: Tensor


def tails(counts: list[int], width: int, device: torch.device) -> Places:
    """Return the last `counts[i]` tokens of each row i, in order; nothing waits for the device."""
    own = torch.tensor(counts)
    row = torch.arange(len(counts)).repeat_interleave(own)
    column = torch.arange(len(row)) + (width - own.cumsum(0))[row]
    return Places(row.to(device, non_blocking=True), column.to(device, non_blocking=True))


def scattered(shape: torch.Size, places: Places, flat: Tensor) -> Tensor:
    """Return values [b, t] at their places and zero elsewhere."""
    return torch.zeros(shape, device=flat.device, dtype=flat.dtype).index_put(tuple(places), flat)


def token_positions(mask: Tensor) -> Tensor:
    """Return position ids [b, t] that count real tokens only: left padding changes nothing."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def last_hidden(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the final normalised hidden states [b, t, d] of left-padded ids [b, t]."""
    check_length(model, ids.shape[1])
    output = model.get_decoder()(
        input_ids=ids, attention_mask=mask, position_ids=token_positions(mask), use_cache=False
    )
    return output.last_hidden_state.to(ids.device)  # of a spread model it may lie elsewhere


def position_limit(model: PreTrainedModel) -> float:
    """Return how many tokens a text may have; infinity where the config names no limit."""
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in LIMITS)
    return next((limit for limit in named if isinstance(limit, int) and limit > 0), math.inf)


def check_length(model: PreTrainedModel, tokens: int) -> None:
    """Refuse a text that is longer than the model has positions for."""
    if tokens > (limit := position_limit(model)):
        raise InputError(
            f"a text of {tokens} tokens is too long for the {limit} positions of "
            f"{type(model).__name__}: shorten it, or take a model with more"
        )


class States(dict[str, Tensor]):
    """A decoder's output with final hidden states and nothing else."""

    def __getitem__(self, key: object) -> Tensor | None:  # type: ignore[override]
        return self.get("last_hidden_state") if key == 0 else self.get(str(key))

    __getattr__ = __getitem__


def to_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return float32 logits [..., v] of final hidden states [..., d].

    The model's own forward pass makes them, over a decoder that only returns the states. Heads
    scale, cap and shift logits in many ways (Gemma 2, Granite, Cohere).
    """
    states = hidden.reshape(1, -1, hidden.shape[-1])
    with skipping([model.get_decoder()], lambda: States(last_hidden_state=states)):
        ids = torch.zeros(states.shape[:2], dtype=torch.long, device=hidden.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=0).logits
    return logits.to(hidden.device).float().reshape(*hidden.shape[:-1], -1)


@contextmanager
def skipping(modules: list[nn.Module], output: Callable[[], object]) -> Iterator[None]:
    """Let modules return `output()` without running; what was set on them before comes back."""
    own = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = lambda *_, **__: output()
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def chunks(model: PreTrainedModel, count: int) -> list[slice]:
    """Return slices of `count` tokens, each small enough that its logits [tokens, v] may exist."""
    size = max(1, min(CHUNK, LOGITS // model.config.get_text_config().vocab_size))
    return [slice(start, start + size) for start in range(0, count, size)]


def in_chunks(model: PreTrainedModel, count: int, work: Callable[[slice], Tensor]) -> Tensor:
    """Join what `work` makes of slices of tokens, [..., tokens], each with few enough logits.

    With gradients, several slices are computed again on the way back, so that none stays in memory.
    """
    parts = chunks(model, count)
    if len(parts) > 1 and torch.is_grad_enabled():
        return torch.cat([checkpoint(work, part, use_reentrant=False) for part in parts], dim=-1)
    return torch.cat([work(part) for part in parts], dim=-1)


def state_nll(model: PreTrainedModel, states: Tensor, targets: Tensor) -> Tensor:
    """Return -log p (nats) [n] of tokens [n], each predicted from a final hidden state [n, d]."""

    def work(part: slice) -> Tensor:
        return F.cross_entropy(to_logits(model, states[part]), targets[part], reduction="none")

    return in_chunks(model, len(targets), work)


def before(hidden: Tensor, places: Places) -> Tensor:
    """Return the states [n, d] of hidden [b, t, d] that predict the tokens at `places`."""
    return hidden[places.row, places.column - 1]


def token_nll(model: PreTrainedModel, hidden: Tensor, ids: Tensor, places: Places) -> Tensor:
    """Return -log p (nats) [n] of the tokens ids[places]; hidden is [b, t, d], ids [b, t]."""
    return state_nll(model, before(hidden, places), ids[places.row, places.column])


def state_shift(
    model: PreTrainedModel, states: Tensor, targets: Tensor, base: Tensor
) -> tuple[Tensor, Tensor]:
    """Return -log p (nats) of tokens, and the total variation 1/2 sum |p - p_base|, [n] each.

    `states` and `base` [n, d] are the final states that predict the tokens `targets` [n].
    """

    def work(part: slice) -> Tensor:
        log_p = to_logits(model, states[part]).log_softmax(-1)
        with torch.no_grad():
            own = to_logits(model, base[part]).softmax(-1)
        loss = F.nll_loss(log_p, targets[part], reduction="none")
        return torch.stack([loss, (log_p.exp() - own).abs().sum(-1) / 2])

    nll, shift = in_chunks(model, len(targets), work)
    return nll, shift


def state_entropy(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Return the entropy (nats) [n] of what final states [n, d] predict."""

    def work(part: slice) -> Tensor:
        log_p = to_logits(model, states[part]).log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    return in_chunks(model, len(states), work)


def token_kl(model: PreTrainedModel, base: Tensor, hidden: Tensor, places: Places) -> Tensor:
    """Return KL(base || steered) in nats [n] of each token's prediction; states [b, t, d]."""
    first = before(base, places)
    second = before(hidden, places)
    parts = []
    for part in chunks(model, len(first)):
        log_p = to_logits(model, first[part]).log_softmax(-1)
        parts.append(kl_of(log_p, to_logits(model, second[part])))
    return torch.cat(parts)


def log_probs(model: PreTrainedModel, states: Tensor) -> list[Tensor]:
    """Return log p of the tokens that states [n, d] predict, float32, in chunks [m, v] of them."""
    parts = chunks(model, len(states))
    return [to_logits(model, states[part]).log_softmax(-1) for part in parts]


def kl_from(model: PreTrainedModel, plain: list[Tensor], states: Tensor) -> Tensor:
    """Return KL(base || steered) in nats [k, n] from the base's `log_probs` of n tokens.

    `states` [k n, d] are those of k steered models, one after the other.
    """
    count = sum(map(len, plain))
    rows = []
    for own in states.split(count):
        parts = zip(plain, own.split(list(map(len, plain))), strict=True)
        rows.append(torch.cat([kl_of(log_p, to_logits(model, part)) for log_p, part in parts]))
    return torch.stack(rows)


def kl_of(log_p: Tensor, logits: Tensor) -> Tensor:
    log_q = logits.log_softmax(-1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def layer_output(output: Tensor | tuple | list) -> Tensor:
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def read_layers(layers: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list that every forward pass refills with the layers' outputs [b, t, d], in order."""
    seen: list[Tensor] = [torch.empty(0)] * len(layers)

    def reader(index: int):
        def hook(_module, _inputs, output):
            seen[index] = layer_output(output)

        return hook

    handles = [layer.register_forward_hook(reader(index)) for index, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
