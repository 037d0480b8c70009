"""Free texts: what a steered model writes to open prompts, and how likely the base finds it."""

from typing import Any

import torch
from torch import Tensor

from pipeline.lm.base import Base, open_turns
from pipeline.lm.batches import in_batches
from pipeline.lm.forward import last_hidden, scattered, tails, token_nll
from pipeline.lm.prompts import pad_left, tokenize, user_chat
from pipeline.scoring.writing import write
from pipeline.steering.base import Attachable


def free_texts(
    base: Base, prompts: list[str], steering: Attachable, coefficients: list[float], count: int
) -> list[dict[str, Any]]:
    """Return a record per prompt and coefficient: the text, its tokens, and the base's NLL of them.

    The NLL (nats per token) includes an end of text (EOS) where there is one; `tokens` do not. For
    every method the base model reads the text after the prompt without a persona.
    """
    keys = [(index, c) for index in range(len(prompts)) for c in coefficients]
    chats = list(map(user_chat, prompts))
    asked = open_turns(base, (steering.rewrite(chats[index], c) for index, c in keys))
    written = write(base, asked, [c for _, c in keys], steering, count, "free texts")
    plain = tokenize(base.tokenizer, open_turns(base, chats))
    nll = base_nll(base, [(plain[i], text.ids) for (i, _), text in zip(keys, written, strict=True)])
    return [
        {
            "prompt_id": index, "prompt": prompts[index], "coefficient": c, "text": text.text,
            "tokens": text.ids[:-1] if text.ended else text.ids, "ended": text.ended,
            "base_nll": value,
        }
        for (index, c), text, value in zip(keys, written, nll, strict=True)
    ]  # fmt: skip


@torch.no_grad()
def base_nll(base: Base, texts: list[tuple[list[int], list[int]]]) -> list[float]:
    """Return the unsteered mean NLL (nats per token) of each text's ids after its prompt's ids."""
    order = sorted(range(len(texts)), key=lambda index: sum(map(len, texts[index])))

    def work(part: list[int]) -> Tensor:
        rows = [texts[index][0] + texts[index][1] for index in part]
        lengths = [len(texts[index][1]) for index in part]
        ids, mask = pad_left(rows, 0, base.device)
        places = tails(lengths, ids.shape[1], ids.device)
        flat = token_nll(base.model, last_hidden(base.model, ids, mask), ids, places)
        return scattered(ids.shape, places, flat).sum(-1).cpu() / torch.tensor(lengths)

    means = in_batches(order, base.batch_size, work, "base NLL").tolist()
    values = dict(zip(order, means, strict=True))
    return [values[index] for index in range(len(texts))]
