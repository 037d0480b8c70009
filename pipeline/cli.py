"""The command line. Heavy imports happen inside the commands, so that --help is instant."""

from importlib import import_module
from typing import Annotated

from typer import Argument, Option, Typer

from pipeline.support.errors import guarded, speak_utf8
from pipeline.support.paths import settle_variables
from pipeline.support.threads import wait_asleep

app = Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train reversible adapters in a model's SVD basis and measure whether they steer. Usually "
    "called by `dvc repro`.",
)
reference = Typer(no_args_is_help=True, help="The bundled synthetic reference model.")
app.add_typer(reference, name="reference")

SAVED = "A saved adapter: a folder such as models/adapters/innerpissa/seed0, or a hub id."
Method = Annotated[str, Argument(help="A method id of params.yaml.")]
Seed = Annotated[int, Argument(help="A seed of params.yaml.")]
SEVERAL = f"{SAVED} Repeat for several at once; else the trained one."
Adapter = Annotated[list[str], Option("--adapter", help=SEVERAL)]
Weights = Annotated[list[float], Option("--weight", help="One per adapter: c is multiplied by it.")]
QUANTISED = "Hold the base as none, 8bit or 4bit; else as it was in the fit."
Held = Annotated[str | None, Option("--quantisation", help=QUANTISED)]
Penalty = Annotated[float, Option(help="Above 1, tokens already written become less likely.")]
Raw = Annotated[bool, Option("--raw", help="Coefficients as trained, not in units of cost.")]
BASE = "An id of params.yaml, a folder or a hub id; else the adapter's own."
Base = Annotated[str | None, Option("--model", help=BASE)]
Tokens = Annotated[int, Option(help="The longest answer, in tokens.")]
Temperature = Annotated[float, Option(help="0 takes the likeliest token, above it one is drawn.")]
Draws = Annotated[int, Option(help="The seed of the draws.")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:N, mps or spread.")]
Out = Annotated[str, Option(help="The folder to write.")]
Force = Annotated[bool, Option("--force", help="Replace what an earlier call has written there.")]
AT_ONCE = "How many cells run at once; by default one per GPU, else per core."
Jobs = Annotated[int | None, Option(help=AT_ONCE)]


def call(module: str, function: str, *arguments) -> None:
    """Import a module of `pipeline` and call its function; its errors are one sentence each."""
    with guarded():
        getattr(import_module(f"pipeline.{module}"), function)(*arguments)


def in_processes(module: str, function: str, *arguments) -> None:
    """Call a stage that several processes may share."""
    call("stages.launch", "in_processes", module, function, *arguments)


def plain(name: str, module: str, text: str) -> None:
    """Add a command without arguments, which calls the main() of a module."""
    app.command(name, help=text)(lambda: call(module, "main"))


plain("code", "stages.code", "Write the hashes of the code that each stage and method runs.")
plain("sources", "stages.sources", "Hash the local files that params.yaml names.")
plain("model", "stages.model", "Resolve the model id to weights with a hash.")
plain("pairs", "stages.pairs", "Write the contrast pairs.")
plain("checks", "stages.checks", "Find what would spoil the study, before anything is fitted.")
plain("svd", "stages.svd", "Decompose the target modules.")
plain("evalset", "stages.evalset", "Write the evaluation items.")


@app.command()
def train(method: Method, seed: Seed) -> None:
    """Train one learned method with one seed."""
    in_processes("stages.train", "main", method, seed)


@app.command()
def baselines(method: Method) -> None:
    """Fit one method that needs no training."""
    call("stages.baselines", "main", method)


@app.command()
def base() -> None:
    """Score the untouched model."""
    in_processes("stages.evaluate", "main", "base")


@app.command()
def evaluate(method: Method, seed: Seed) -> None:
    """Score one trained adapter at all coefficients."""
    in_processes("stages.evaluate", "main", "evaluate", method, seed)


@app.command()
def evaluate_baselines(method: Method) -> None:
    """Score one baseline, all its seeds, at all coefficients."""
    in_processes("stages.evaluate", "main", "evaluate_baselines", method)


plain("composition", "stages.composition", "Measure how two adapters interfere.")
plain("effects", "stages.effects", "Turn scores into effects, intervals and p-values.")
plain("report", "stages.report", "Render tables, figures and the HTML page.")
plain("doctor", "app.doctor", "Say what is wrong with this set-up; exits with 1 then.")
plain("readme", "app.readme", "Fill the blocks of README.md: results, methods, the tree.")
plain("bundle", "app.bundled", "Keep the trained adapter of the bundled model in the repository.")
plain("null-studies", "bench.null_page", "Simulate null studies -> docs/null_studies.md (minutes).")


@app.command()
def params(
    prefix: Annotated[str, Argument(help="Only keys that begin so, e.g. training.")] = "",
) -> None:
    """Print every key of params.yaml: its value, what is allowed, what it means."""
    call("app.parameters", "main", prefix)


@app.command()
def behaviour(
    name: Annotated[str, Argument(help="Its id, such as humour.")],
    positive: Annotated[str, Option(help='The persona of c = +1, such as "a funny".')],
    negative: Annotated[str, Option(help='The persona of c = -1, such as "a serious".')],
    force: Force = False,
) -> None:
    """Write a behaviour from two words: data/raw/behaviours/NAME.yaml."""
    call("app.behaviour", "main", name, positive, negative, force)


@app.command()
def compare(
    revisions: Annotated[
        list[str], Argument(help="DVC experiments, git revisions, or `workspace`.")
    ],
    out: Out = "reports/comparison",
    method: Annotated[list[str], Option(help="Only this method; repeat for several.")] = [],  # noqa: B006
) -> None:
    """Render one table and one figure across experiments."""
    call("app.compare", "main", revisions, out, method)


@app.command()
def steer(
    prompt: Annotated[str, Argument(help="What to ask.")],
    adapter: Adapter = [],  # noqa: B006
    coefficients: Annotated[
        list[float], Option("-c", help="A coefficient; repeat for several.")
    ] = [-1.0, 0.0, 1.0],  # noqa: B006
    model: Base = None,
    max_new_tokens: Tokens = 64,
    temperature: Temperature = 0.0,
    seed: Draws = 0,
    device: Device = "auto",
    quantisation: Held = None,
    weights: Weights = [],  # noqa: B006
    repetition_penalty: Penalty = 1.0,
    raw: Raw = False,
) -> None:
    """Answer one prompt side by side at several coefficients."""
    opened = adapter, model, device, quantisation, weights
    manner = max_new_tokens, temperature, seed, repetition_penalty, raw
    call("app.chat", "main_steer", prompt, coefficients, *opened, *manner)


@app.command()
def chat(
    adapter: Adapter = [],  # noqa: B006
    coefficients: Annotated[
        list[float],
        Option("-c", help="One sets the dial: -c, 0 and c; several are shown as they are."),
    ] = [1.0],  # noqa: B006
    model: Base = None,
    max_new_tokens: Tokens = 256,
    temperature: Temperature = 0.0,
    seed: Draws = 0,
    device: Device = "auto",
    quantisation: Held = None,
    weights: Weights = [],  # noqa: B006
    repetition_penalty: Penalty = 1.0,
    raw: Raw = False,
) -> None:
    """Talk to the steered model in the terminal."""
    opened = adapter, model, device, quantisation, weights
    manner = max_new_tokens, temperature, seed, repetition_penalty, raw
    call("app.chat", "main_chat", coefficients, *opened, *manner)


@app.command()
def export(
    adapters: Annotated[list[str], Argument(help=SAVED + " Several are added up.")],
    to: Annotated[
        str,
        Option(
            help="bake: a checkpoint with the change in its weights. lora: an exact LoRA for peft. "
            "hub: the adapter itself with a model card. vector: control vectors as safetensors. "
            "gguf: the same for llama.cpp."
        ),
    ],
    out: Out,
    coefficient: Annotated[
        float,
        Option("--coefficient", "-c", help="Fixed in the export, in units; hub keeps the dial."),
    ] = 1.0,
    model: Base = None,
    force: Force = False,
    weights: Weights = [],  # noqa: B006
) -> None:
    """Write an adapter in a form that other software reads."""
    call("app.export.command", "main", adapters, to, coefficient, out, model, force, weights)


@app.command()
def bench(
    model: Annotated[
        str,
        Option(
            help="A folder, a hub id, or a shape with random weights: smollm2-135m, qwen3-600m or "
            "gemma3-1b."
        ),
    ] = "models/reference",
    dtype: Annotated[
        str | None, Option(help="float32, bfloat16 or float16; else the shape's own.")
    ] = None,
    device: Device = "auto",
    repeats: Annotated[int, Option(help="Rounds of runs in turn.")] = 5,
    dilemmas: Annotated[
        int | None, Option(help="Dilemmas to score, two actions each; else by the device.")
    ] = None,
    length: Annotated[int, Option(help="Tokens of a dilemma's prompt.")] = 150,
    tokens: Annotated[int, Option(help="Tokens to decode.")] = 32,
    pairs: Annotated[int | None, Option(help="Pairs per training step; else the study's.")] = None,
    out: Annotated[
        str | None, Option(help="The folder of JSON files and their page, such as reports/bench.")
    ] = None,
) -> None:
    """Measure speed and memory as ratios, over rounds of runs in turn in this process.

    Evaluation is held against bare forward passes of its de-duplicated tokens, without adapter, NLL
    or tokenising. A dilemma's common beginning and its two ends run once below the first adapted
    layer, and once per coefficient above. Training is held against a peft LoRA step of 2 forwards
    and 1 backward on the same rows, modules and rank. Extraction is held against repeng's, where
    that is installed, and decoding against the base model.
    """
    given = model, dtype, device, repeats, dilemmas, length, tokens, pairs, out
    call("bench.command", "main", *given)


@app.command()
def bench_page(
    folder: Annotated[str, Argument(help="The folder of the JSON files.")] = "reports/bench",
) -> None:
    """Render the page of what `bench` has measured."""
    call("bench.page", "main", folder)


@app.command()
def repro(jobs: Jobs = None) -> None:
    """Run the study by `dvc repro`, independent cells side by side."""
    call("app.repro", "main", jobs)


@app.command()
def study(
    name: Annotated[str, Argument(help="A file studies/<name>.yaml.")],
    jobs: Jobs = None,
    keep: Annotated[str | None, Option(help="A folder for copies of the tables.")] = None,
    overrides: Annotated[
        list[str], Option("-S", help="A key and its value, as rank=8; repeat.")
    ] = [],  # noqa: B006
) -> None:
    """Run a named study in a workspace of its own and print its table."""
    call("app.study", "main", name, jobs, keep, overrides)


@app.command()
def sweep(
    overrides: Annotated[
        list[str],
        Option("-S", help="A key of params.yaml and its values, as rank=8,16,32; repeat."),
    ],
    on: Annotated[str, Option(help="local: one after another here. ray: a cluster.")] = "local",
    git: Annotated[str, Option(help="A git remote or URL that all workers reach.")] = "origin",
    cpus: Annotated[int, Option(min=1, help="CPUs of each experiment on a worker.")] = 1,
    gpus: Annotated[
        float | None, Option(min=0, help="GPUs of each; by default 1 if the cluster has any.")
    ] = None,
) -> None:
    """Run an experiment per combination of values; those that have finished are not run again."""
    call("app.sweep", "main", overrides, on, git, cpus, gpus)


@app.command()
def bench_load(
    model: Annotated[str, Option(help="A model's folder or a hub id.")] = "models/reference",
    busy: Annotated[int, Option(help="How many processes keep the cores busy.")] = 2,
    steps: Annotated[int, Option(help="How many steps are timed.")] = 10,
) -> None:
    """Measure how much a CPU step slows down beside busy processes."""
    call("bench.load", "main", model, busy, steps)


@reference.command()
def build(
    out: Out = "models/reference",
    steps: Annotated[int | None, Option(help="Fewer optimiser steps, for a trial.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Pretrain the bundled model from nothing (about an hour on 2 cores)."""
    call("app.reference", "build", out, steps, device)


@reference.command()
def measure(
    folder: Annotated[str, Argument(help="The model's folder.")] = "models/reference",
) -> None:
    """Measure the bundled model's criteria and write its card."""
    call("app.reference", "card", folder)


def main() -> None:
    speak_utf8()
    wait_asleep()
    settle_variables()
    app()
