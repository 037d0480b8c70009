"""Peak memory over the base model, ours against peft's LoRA, and in 4 bits.

Counted are the tensors that torch allocates during the work, and what an adapter holds before.
"""

import tempfile
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.app.use import load_base
from pipeline.bench.evaluation import scored, with_peft
from pipeline.bench.lora import Lora
from pipeline.bench.ratios import Figure, Work, wait
from pipeline.bench.subject import Subject
from pipeline.bench.training import Ours, Peft


def peak(work: Work, device: torch.device) -> int:
    """Return the most bytes that some work held at once, over what was held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = seen.profiler.kineto_results.events()  # in the order of time
    return max(accumulate(each.nbytes() for each in events if each.name() == "[memory]"), default=0)


def held(subject: Subject) -> int:
    """Return the bytes of the adapter's tensors."""
    return sum(tensor.nbytes for tensor in subject.adapter.tensors().values())


def memory(subject: Subject, ours: Ours, peft: Peft) -> list[Figure]:
    """Return what the adapter holds, and our peaks in training and evaluation over peft's."""
    model, device = subject.base.model, subject.base.device
    weights = sum(parameter.nbytes for parameter in model.parameters())
    theirs = sum(parameter.nbytes for parameter in peft.lora.parameters)

    def row(name: str, own: Work, other: Work) -> Figure:
        value = (held(subject) + peak(own, device)) / (theirs + peak(other, device))
        return Figure(f"peak memory over the base, {name} / peft's", value, at_most=0.5)

    return [
        Figure("adapter tensors / base weights, bytes", held(subject) / weights),
        row("training step", fresh(ours), fresh(peft)),
        row("evaluation", scored(subject, len(subject.items)), with_peft(subject, peft.lora)),
        in_4_bits(subject),
    ]


def fresh(step: Ours | Peft) -> Work:
    """Return two steps, gradients and the optimiser's state included."""
    steps = step if isinstance(step, Ours) else step.lora

    def work() -> None:
        steps.optimizer.zero_grad()
        steps.optimizer.state.clear()
        step()
        step()

    return work


def in_4_bits(subject: Subject) -> Figure:
    """Return the same of a training step where the base is held in 4 bits."""
    name = "peak memory over the base, training step in 4 bits / peft's"
    dtype = str(subject.base.model.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        subject.base.model.save_pretrained(Path(folder))
        subject.base.tokenizer.save_pretrained(Path(folder))
        base, other = (
            load_base(folder, dtype, str(subject.base.device), None, "4bit") for _ in range(2)
        )
    small = replace(subject, base=replace(base, batch_size=subject.base.batch_size))
    ours = Ours(small)
    peft = Peft(small, ours, Lora(small, other.model))
    theirs = sum(parameter.nbytes for parameter in peft.lora.parameters)
    own = held(small) + peak(fresh(ours), base.device)
    return Figure(name, own / (theirs + peak(fresh(peft), base.device)), at_most=0.5)
