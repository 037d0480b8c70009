"""Decoding with the adapter attached against the base model, and what the adapter holds."""

import resource
import sys
from collections.abc import Callable

import torch

from pipeline.app.answers import answers
from pipeline.app.use import steer
from pipeline.bench.ratios import Figure, ratio
from pipeline.bench.subject import Subject
from pipeline.lm.prompts import Message, open_turn
from pipeline.steering.base import Attachable
from pipeline.steering.untouched import Untouched

PROMPT = "Who are you, and what would you do with a lamp that is not yours?"


def decoding(subject: Subject, repeats: int, tokens: int) -> list[Figure]:
    """Return tokens/s steered over base: of `generate` and of our answers at three coefficients."""
    base = subject.base
    chat: list[Message] = [{"role": "user", "content": PROMPT}]
    ids, mask = base.encode([open_turn(base.tokenizer, chat, {})])

    def generated(adapter: Attachable) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad(), steer(base.model, adapter, 1.0):
                base.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    min_new_tokens=tokens,
                    max_new_tokens=tokens,
                    pad_token_id=base.pad_id,
                )

        return run

    def answered(adapter: Attachable, counts: list[int]) -> Callable[[], None]:
        stream = (adapter, chat, [-1.0, 0.0, 1.0], tokens)
        return lambda: counts.append(sum(1 for _ in answers(base, *stream)))

    untouched = Untouched()
    plain: list[int] = []
    steered: list[int] = []
    first = answered(untouched, plain)
    beside = ratio("", first, answered(subject.adapter, steered), repeats, base.device)
    # Answers may end at different lengths; greedy ones always at the same.
    per_token = steered[0] / plain[0]
    name = "generate, tokens/s steered / base"
    pair = (generated(untouched), generated(subject.adapter))
    return [
        ratio(name, *pair, repeats, base.device, at_least=0.95),
        Figure(
            "side-by-side answers, tokens/s steered / base",
            per_token * beside.value,
            per_token * (beside.low or 0.0),
            per_token * (beside.high or 0.0),
            at_least=0.95,
        ),
    ]


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
