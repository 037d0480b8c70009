"""Free-generation coherence: what a steered model writes to open prompts, and how likely the base
model finds it.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.batches import in_batches
from pipeline.lm.forward import last_hidden, scattered, tails, token_nll
from pipeline.lm.prompts import open_turn, pad_left, tokenize
from pipeline.scoring.writing import write
from pipeline.steering.base import Attachable


def free_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], steering: Attachable | None,
    coefficients: list[float], batch_size: int, options: dict[str, Any], count: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one record per prompt and coefficient: the text, its tokens and the base model's NLL
    of them (nats per token).

    The NLL includes an end of text (EOS) where there is one; `tokens` do not. For every method the
    base model reads the text after the prompt as the user put it, without a persona.
    """
    keys = [(index, c) for index in range(len(prompts)) for c in coefficients]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    asked = [
        open_turn(tokenizer, steering.rewrite(chats[i], c) if steering else chats[i], options)
        for i, c in keys
    ]
    own = [c for _, c in keys]
    found = write(
        model, tokenizer, asked, own, steering, batch_size, count, lambda _: False, "free texts"
    )
    plain = tokenize(tokenizer, [open_turn(tokenizer, chat, options) for chat in chats])
    nll = base_nll(
        model, [(plain[i], text.ids) for (i, _), text in zip(keys, found, strict=True)], batch_size
    )
    return [
        {
            "prompt_id": index, "prompt": prompts[index], "coefficient": c, "text": text.text,
            "tokens": text.ids[:-1] if text.ended else text.ids, "ended": text.ended, "base_nll": value,
        }
        for (index, c), text, value in zip(keys, found, nll, strict=True)
    ]  # fmt: skip


@torch.no_grad()
def base_nll(
    model: PreTrainedModel, texts: list[tuple[list[int], list[int]]], batch_size: int
) -> list[float]:
    """Return the mean NLL (nats per token) of each continuation's ids after its prompt's ids; the
    model is not steered.
    """
    order = sorted(range(len(texts)), key=lambda index: sum(map(len, texts[index])))

    def work(part: list[int]) -> Tensor:
        ids, mask = pad_left([texts[index][0] + texts[index][1] for index in part], 0, model.device)
        lengths = [len(texts[index][1]) for index in part]
        places = tails(lengths, ids.shape[1], ids.device)
        flat = token_nll(model, last_hidden(model, ids, mask), ids, places)
        return scattered(ids.shape, places, flat).sum(-1).cpu() / torch.tensor(lengths)

    values = dict(zip(order, in_batches(order, batch_size, work, "base NLL").tolist(), strict=True))
    return [values[index] for index in range(len(texts))]
