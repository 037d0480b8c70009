"""Decoding with the adapter attached against the base model."""

from functools import partial

import torch

from pipeline.app.answers import answers
from pipeline.app.use import steer
from pipeline.bench.ratios import Figure, Timer
from pipeline.bench.subject import Subject
from pipeline.lm.base import open_turns
from pipeline.lm.prompts import user_chat
from pipeline.steering.base import Attachable
from pipeline.steering.untouched import Untouched

PROMPT = "Who are you, and what would you do with a lamp that is not yours?"
CHAT = user_chat(PROMPT)


def decoding(subject: Subject, timer: Timer, tokens: int) -> list[Figure]:
    """Return tokens/s steered over base: of `generate` and of our answers at three coefficients."""
    base, plain, steered = subject.base, Untouched(), subject.adapter
    ids, mask = base.encode(open_turns(base, [CHAT]))
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens, "pad_token_id": base.pad_id}

    @torch.no_grad()
    def generate(adapter: Attachable) -> None:
        with steer(base.model, adapter, 1.0):
            base.model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **length)

    def answer(adapter: Attachable) -> int:
        return sum(1 for _ in answers(base, adapter, CHAT, [-1.0, 0.0, 1.0], tokens))

    # Answers may end at different lengths; greedy ones always at the same.
    lengths = answer(steered) / answer(plain)
    works = {"generate": (generate, 1.0), "side-by-side answers": (answer, lengths)}
    times = timer({
        f"{name}{kind}": partial(work, adapter)
        for name, (work, _) in works.items()
        for kind, adapter in (("", plain), (", steered", steered))
    })  # fmt: skip
    return [
        times.ratio(
            f"{name}, tokens/s steered / base", name, f"{name}, steered", scale, at_least=0.95
        )
        for name, (_, scale) in works.items()
    ]
