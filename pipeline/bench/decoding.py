"""Decoding with the adapter attached against the base model, and what the adapter holds."""

import resource
import sys
from functools import partial

import torch

from pipeline.app.answers import answers
from pipeline.app.use import steer
from pipeline.bench.ratios import Figure, Timed
from pipeline.bench.subject import Subject
from pipeline.lm.base import open_turns
from pipeline.lm.prompts import user_chat
from pipeline.steering.base import Attachable
from pipeline.steering.untouched import Untouched

PROMPT = "Who are you, and what would you do with a lamp that is not yours?"
CHAT = user_chat(PROMPT)


def decoding(subject: Subject, timed: Timed, tokens: int) -> list[Figure]:
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

    def row(name: str, work, scale: float = 1.0) -> Figure:
        first, second = partial(work, plain), partial(work, steered)
        return timed(f"{name}, tokens/s steered / base", first, second, scale=scale, at_least=0.95)

    # Answers may end at different lengths; greedy ones always at the same.
    lengths = answer(steered) / answer(plain)
    return [row("generate", generate), row("side-by-side answers", answer, lengths)]


def memory(subject: Subject) -> list[Figure]:
    """Return adapter bytes over base bytes, and the peak so far in MiB (on CUDA, the device's)."""
    model = subject.base.model
    held = sum(tensor.nbytes for tensor in subject.adapter.tensors().values())
    own = Figure(
        "adapter tensors / base weights, bytes", held / sum(p.nbytes for p in model.parameters())
    )
    if model.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(model.device) / 2**20
        return [own, Figure("peak device memory, MiB", peak)]
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return [own, Figure("peak memory of the process, MiB", peak)]
