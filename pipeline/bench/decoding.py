"""Decoding with the adapter attached against the base model, and what the adapter holds in
memory.
"""

import resource
import sys
from collections.abc import Callable

import torch

from pipeline.app.answers import answers
from pipeline.app.use import steer
from pipeline.bench.ratios import Figure, ratio
from pipeline.bench.subject import Subject
from pipeline.steering.compose import Composed

PROMPT = "Who are you, and what would you do with a lamp that is not yours?"


def decoding(subject: Subject, repeats: int, tokens: int) -> list[Figure]:
    """Return ratios of tokens per second, steered over base: `generate`, and our side-by-side
    answers at three coefficients.
    """
    model, tokenizer, device = subject.model, subject.tokenizer, subject.model.device
    chat = [{"role": "user", "content": PROMPT}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(device)

    def generated(adapter) -> None:
        with torch.no_grad(), steer(model, adapter, 1.0):
            model.generate(
                **encoded,
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=tokenizer.pad_token_id,
            )

    def answered(adapter, counts: list[int]) -> Callable[[], None]:
        return lambda: counts.append(
            sum(1 for _ in answers(model, tokenizer, adapter, chat, [-1.0, 0.0, 1.0], tokens))
        )

    none, own, other = Composed([]), list[int](), list[int]()
    side_by_side = ratio("", answered(none, other), answered(subject.adapter, own), repeats, device)
    per_token = (
        own[0] / other[0]
    )  # answers may end at different lengths; greedy ones always at the same
    low, high = side_by_side.low or 0.0, side_by_side.high or 0.0
    value, low, high = (per_token * found for found in (side_by_side.value, low, high))
    return [
        ratio(
            "generate, tokens/s steered / base", lambda: generated(none), lambda: generated(subject.adapter), repeats, device,
            at_least=0.95,
        ),
        Figure("side-by-side answers, tokens/s steered / base", value, low, high, at_least=0.95),
    ]  # fmt: skip


def memory(subject: Subject) -> list[Figure]:
    """Return the adapter's bytes over the base model's, and the process's (on CUDA the device's)
    peak so far in MiB.
    """
    held = sum(
        tensor.numel() * tensor.element_size() for tensor in subject.adapter.tensors().values()
    )
    base = sum(
        parameter.numel() * parameter.element_size() for parameter in subject.model.parameters()
    )
    found = [Figure("adapter tensors / base weights, bytes", held / base)]
    if subject.model.device.type == "cuda":
        return [
            *found,
            Figure(
                "peak device memory, MiB",
                torch.cuda.max_memory_allocated(subject.model.device) / 2**20,
            ),
        ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return [
        *found,
        Figure(
            "peak memory of the process, MiB", peak / (2**20 if sys.platform == "darwin" else 2**10)
        ),
    ]
