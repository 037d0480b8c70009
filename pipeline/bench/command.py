"""The command: measure, show one table, write JSON and its page where asked."""

from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from pipeline.bench import page
from pipeline.bench.breakdown import EVALUATION, TRAINING, breakdown
from pipeline.bench.decoding import decoding
from pipeline.bench.evaluation import COEFFICIENTS, evaluation, scored
from pipeline.bench.extraction import extraction
from pipeline.bench.lora import Lora
from pipeline.bench.memory import memory
from pipeline.bench.ratios import Figure, Timer
from pipeline.bench.subject import SHAPES, Subject, prepare
from pipeline.bench.training import Ours, Peft, training
from pipeline.support.errors import InputError
from pipeline.support.files import write_json
from pipeline.support.git import git
from pipeline.support.threads import cores


def main(
    model: str,
    dtype: str | None,
    device: str,
    repeats: int,
    dilemmas: int | None,
    length: int,
    tokens: int,
    pairs: int | None,
    out: str | None,
) -> None:
    least = {"repeats": 1, "dilemmas": 4, "length": 1, "tokens": 2, "pairs": 2}
    for name, given in zip(least, (repeats, dilemmas, length, tokens, pairs), strict=True):
        if given is not None and given < least[name]:
            raise InputError(f"{name} {given} is too few: give at least {least[name]}")
    subject = prepare(model, dtype, device, dilemmas, length, pairs)
    figures, parts = measure(subject, repeats, tokens)
    about = described(subject, model, repeats, tokens)
    Console().print(table(figures, f"{about['shape']}, {about['dtype']}, on {about['device']}"))
    if out:
        file = Path(out) / about["device"] / f"{about['shape']}-{about['dtype']}.json"
        rows = [figure.record() for figure in figures]
        write_json(file, about | {"figures": rows, "breakdown": parts})
        page.main(out)


def measure(subject: Subject, repeats: int, tokens: int) -> tuple[list[Figure], dict[str, Any]]:
    """Return all rows of the table, and the breakdowns by what they are of."""
    device = subject.base.device
    timer, lora, ours = Timer(device, repeats), Lora(subject), Ours(subject)
    peft = Peft(subject, ours, lora)
    figures = [
        *evaluation(subject, timer, lora),
        *training(ours, peft, timer),
        *extraction(subject, timer),
        *decoding(subject, timer, tokens),
        *memory(subject, ours, peft),
    ]
    whole = scored(subject, len(subject.items))
    parts = {
        "evaluation": breakdown(whole, EVALUATION, device),
        "training step": breakdown(ours, TRAINING, device),
    }
    return figures, parts


def described(subject: Subject, model: str, repeats: int, tokens: int) -> dict[str, Any]:
    """Return what was measured, where, and with what."""
    base, config = subject.base, subject.base.model.config.get_text_config()
    ids = base.tokenizer([item["prompt"] for item in subject.items])["input_ids"]
    return {
        "shape": Path(model).name,
        "weights": "random" if model in SHAPES else model,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": config.vocab_size,
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "device": device_kind(base.device),
        "threads": torch.get_num_threads(),
        "commit": (git("describe", "--always", "--dirty") or "unknown").strip(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "repeats": repeats,
        "dilemmas": len(subject.items) // 2,
        "tokens_per_prompt": round(sum(map(len, ids)) / len(ids)),
        "coefficients": len(COEFFICIENTS),
        "rows_per_pass": base.batch_size,
        "pairs_per_step": subject.params.training.batch_size,
        "rank": subject.params.rank,
        "tokens_decoded": tokens,
    }


def device_kind(device: torch.device) -> str:
    """Return the kind of a device as a folder's name, such as nvidia-h100-80gb-hbm3."""
    if device.type == "cuda":
        return "-".join(torch.cuda.get_device_name(device).lower().split())
    return f"cpu-{cores()}-cores" if device.type == "cpu" else device.type


def table(figures: list[Figure], title: str) -> Table:
    drawn = Table(title=title)
    for name in ("measure", "median", "range", "aim", ""):
        drawn.add_column(name, justify="left" if name == "measure" else "right")
    for one in figures:
        span = "" if one.low is None or one.high is None else f"{one.low:.3g} to {one.high:.3g}"
        verdict = {True: "met", False: "missed", None: one.why or ""}[one.met]
        value = "" if one.value is None else f"{one.value:.3g}"
        drawn.add_row(one.name, value, span, one.aim, verdict)
    return drawn
