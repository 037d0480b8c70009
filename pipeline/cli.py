"""The command line: one command per DVC stage, and the reference model's own. Heavy imports happen inside the commands."""

import sys
from importlib import import_module
from typing import Annotated

import typer

from pipeline.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train reversible adapters in a model's SVD basis and measure whether they steer. Usually called by `dvc repro`.",
)
reference = typer.Typer(no_args_is_help=True, help="The bundled synthetic reference model.")
app.add_typer(reference, name="reference")

Method = Annotated[str, typer.Argument(help="A method id of params.yaml.")]
Seed = Annotated[int, typer.Argument(help="A seed of params.yaml.")]
Adapter = Annotated[str, typer.Option(help="A saved adapter: a folder such as models/adapters/innerpissa/seed0, or a hub id.")]
Base = Annotated[str | None, typer.Option("--model", help="An id of params.yaml, a folder or a hub id; else the adapter's own.")]
Tokens = Annotated[int, typer.Option(help="The longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token; above 0 tokens are drawn.")]
Draws = Annotated[int, typer.Option(help="The seed of the draws.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def call(module: str, function: str, *arguments) -> None:
    getattr(import_module(f"pipeline.{module}"), function)(*arguments)


@app.command()
def model() -> None:
    """Resolve the model id to weights with a hash."""
    call("stages.model", "main")


@app.command()
def pairs() -> None:
    """Write the contrast pairs."""
    call("stages.pairs", "main")


@app.command()
def svd() -> None:
    """Decompose the target modules."""
    call("stages.svd", "main")


@app.command()
def evalset() -> None:
    """Write the evaluation items."""
    call("stages.evalset", "main")


@app.command()
def methods() -> None:
    """Write each method's section in full and the hashes of its code."""
    call("stages.methods", "main")


@app.command()
def train(method: Method, seed: Seed) -> None:
    """Train one learned method with one seed."""
    call("stages.train", "main", method, seed)


@app.command()
def baselines(method: Method) -> None:
    """Fit one method that needs no training."""
    call("stages.baselines", "main", method)


@app.command()
def base() -> None:
    """Score the untouched model."""
    call("stages.evaluate", "main_base")


@app.command()
def evaluate(method: Method, seed: Seed) -> None:
    """Score one trained adapter at all coefficients."""
    call("stages.evaluate", "main", method, seed)


@app.command()
def evaluate_baselines(method: Method) -> None:
    """Score one baseline, all its seeds, at all coefficients."""
    call("stages.evaluate", "main_baselines", method)


@app.command()
def composition() -> None:
    """Attach two adapters at once and measure how they interfere."""
    call("stages.composition", "main")


@app.command()
def effects() -> None:
    """Turn scores into effects, intervals and p-values."""
    call("stages.effects", "main")


@app.command()
def report() -> None:
    """Render tables, figures and the HTML page."""
    call("stages.report", "main")


@app.command()
def compare(
    revisions: Annotated[list[str], typer.Argument(help="DVC experiments, git revisions, or `workspace`.")],
    out: Annotated[str, typer.Option(help="The folder to write.")] = "reports/comparison",
    method: Annotated[list[str], typer.Option(help="Only this method; repeat for several.")] = [],  # noqa: B006
) -> None:
    """Render one table and one figure across experiments."""
    call("compare", "main", revisions, out, method)


@app.command()
def steer(
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    adapter: Adapter,
    coefficients: Annotated[list[float], typer.Option("-c", help="A coefficient; repeat for several.")] = [-1.0, 0.0, 1.0],  # noqa: B006
    model: Base = None,
    max_new_tokens: Tokens = 64,
    temperature: Temperature = 0.0,
    seed: Draws = 0,
    device: Device = "auto",
) -> None:
    """Answer one prompt side by side at several coefficients."""
    call("chat", "main_steer", prompt, coefficients, adapter, model, device, max_new_tokens, temperature, seed)


@app.command()
def chat(
    adapter: Adapter,
    coefficients: Annotated[
        list[float], typer.Option("-c", help="One sets the dial: -c, 0 and c; several are shown as they are.")
    ] = [1.0],  # noqa: B006
    model: Base = None,
    max_new_tokens: Tokens = 256,
    temperature: Temperature = 0.0,
    seed: Draws = 0,
    device: Device = "auto",
) -> None:
    """Talk to the steered model in the terminal."""
    call("chat", "main_chat", coefficients, adapter, model, device, max_new_tokens, temperature, seed)


@reference.command()
def build(
    out: Annotated[str, typer.Option(help="The folder to write.")] = "models/reference",
    steps: Annotated[int | None, typer.Option(help="Fewer optimiser steps, for a trial.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Pretrain the bundled model from nothing (about an hour on 2 cores)."""
    call("reference.build", "main", out, steps, device)


@reference.command()
def measure(folder: Annotated[str, typer.Argument(help="The model's folder.")] = "models/reference") -> None:
    """Measure the bundled model's criteria and write its card."""
    call("reference.build", "card", folder)


def main() -> None:
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
