"""The command: measure, show one table, write JSON where asked."""

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.bench.decoding import decoding, memory
from pipeline.bench.evaluation import evaluation
from pipeline.bench.ratios import Figure, ratio
from pipeline.bench.subject import prepare
from pipeline.bench.training import training
from pipeline.support.errors import InputError
from pipeline.support.files import write_json


def main(
    source: str,
    layers: int | None,
    width: int,
    device: str,
    repeats: int,
    dilemmas: int,
    tokens: int,
    out: str | None,
) -> None:
    if repeats < 1 or dilemmas < 4 or tokens < 2:
        said = f"repeats {repeats}, dilemmas {dilemmas}, tokens {tokens}"
        raise InputError(f"{said}: give at least 1, 4 and 2")
    if layers is not None and (layers < 1 or width < 64 or width % 64):
        said = f"a random model of {layers} layers and width {width} cannot be made"
        raise InputError(f"{said}: give 1 or more, and a multiple of 64")
    subject = prepare(source, layers, width, device, dilemmas)
    timed = partial(ratio, repeats=repeats, device=subject.base.device)
    figures = [*evaluation(subject, timed), *training(subject, timed)]
    # Memory last: it is the peak of all before.
    figures += [*decoding(subject, timed, tokens), *memory(subject)]
    config = subject.base.model.config.get_text_config()
    shape = f"{config.num_hidden_layers} layers x {config.hidden_size}, {config.vocab_size} tokens"
    name, device = "random model" if layers else source, str(subject.base.device)
    title = f"{name}, {shape}, on {device}, median of {repeats} pairs of runs"
    Console().print(table(figures, title))
    if out:
        write_json(Path(out), {"title": title, "figures": [one.record() for one in figures]})


def table(figures: list[Figure], title: str) -> Table:
    drawn = Table(title=title)
    for name in ("measure", "median", "range", "goal", ""):
        drawn.add_column(name, justify="left" if name == "measure" else "right")
    for one in figures:
        span = "" if one.low is None or one.high is None else f"{one.low:.3g} to {one.high:.3g}"
        bounds = {"at most": one.at_most, "at least": one.at_least}
        goal = "".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound)
        verdict = {True: "met", False: "missed", None: ""}[one.met]
        drawn.add_row(one.name, f"{one.value:.3g}", span, goal, verdict)
    return drawn
