"""The bench runs on a tiny model and shows every row; its ratios are those of the work it is given."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import Qwen3Config
from typer.testing import CliRunner

from pipeline.bench import breakdown, extraction, ratios, subject
from pipeline.bench.breakdown import CHECKS, REST, Stopwatch, launches
from pipeline.bench.evaluation import COEFFICIENTS, Bare, plain_rows
from pipeline.bench.memory import peak
from pipeline.bench.page import SIZES, page
from pipeline.bench.ratios import Figure, Timer
from pipeline.bench.subject import SHAPES, prepare, random_model
from pipeline.cli import app
from pipeline.lm.layers import decoder_layers
from pipeline.scoring.rows import lay_out_rows
from tests.architectures import CPU
from tests.conftest import ROOT

ROWS = [
    "evaluation / bare forward",
    "evaluation / bare forward, prefix cached",
    "evaluation / bare forward with answers and NLL",
    "evaluation / peft's",
    "time per item, all / a quarter",
    "time per coefficient, 7 / 1",
    "training step / peft LoRA step",
    "extraction / repeng's",
    "generate, tokens/s steered / base",
    "side-by-side answers, tokens/s steered / base",
    "adapter tensors / base weights, bytes",
    "peak memory over the base, training step / peft's",
    "peak memory over the base, evaluation / peft's",
    "peak memory over the base, training step in 4 bits / peft's",
]
COMMITTED = ROOT / "reports/bench"


def check_written(file):
    written = json.loads(file.read_text())
    rows = {row["name"]: row for row in written["figures"]}
    assert list(rows) == ROWS
    assert all(row["value"] is None or row["value"] > 0 for row in rows.values())
    assert all(row["value"] or row["why"] for row in rows.values())
    assert file.parent.name == written["device"]
    assert file.stem == f"{written['shape']}-{written['dtype']}"
    assert written.keys() >= set(SIZES)
    for part in written["breakdown"].values():
        assert sum(part["shares"].values()) == pytest.approx(1)
        assert part["shares"]["bare forward"] > 0 and part["operations"] > 100
    return written, rows


def test_every_row_is_shown_written_and_on_the_page(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = ["--model", str(tiny_folder), "--device", "cpu", "--repeats", "1", "--tokens", "2"]
    found = CliRunner().invoke(
        app,
        ["bench", *options, "--dilemmas", "4", "--length", "80", "--out", str(tmp_path)],
        env={"COLUMNS": "200"},
    )
    assert found.exit_code == 0, found.output
    [file] = tmp_path.glob("cpu-*-cores/*.json")
    written, rows = check_written(file)
    assert all(name in found.output for name in ROWS)
    assert (written["dilemmas"], written["weights"]) == (4, str(tiny_folder))
    assert 80 <= written["tokens_per_prompt"] < 110
    shown = (tmp_path / "README.md").read_text()
    for name, row in rows.items():
        [line] = [line for line in shown.splitlines() if line.startswith(f"| {name} |")]
        assert (f"{row['value']:.2f}" if row["value"] else row["why"]) in line
        assert ("**" in line) == (row["met"] is False)


def test_the_page_is_that_of_the_files():
    files = list(COMMITTED.glob("*/*.json"))
    assert files
    for file in files:
        written, _ = check_written(file)
        assert "dirty" not in written["commit"] and written["repeats"] >= 5
    assert (COMMITTED / "README.md").read_text() == page(COMMITTED)


def test_a_folder_without_measurements_is_one_sentence(tmp_path):
    found = CliRunner().invoke(app, ["bench-page", str(tmp_path)])
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1)


def test_a_shape_is_made_in_its_own_dtype_and_ends_texts_as_the_tokenizer_does(monkeypatch):
    monkeypatch.chdir(ROOT)
    small = Qwen3Config(
        vocab_size=3000, hidden_size=64, intermediate_size=96, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, dtype="bfloat16",
    )  # fmt: skip
    monkeypatch.setitem(SHAPES, "small", small)
    made = prepare("small", None, "cpu", None, 40, None)
    assert made.base.model.dtype == torch.bfloat16
    assert len(made.items) == 2 * subject.WIDE["cpu"]
    assert made.base.model.config.eos_token_id == made.base.tokenizer.eos_token_id
    assert prepare("small", "float32", "cpu", 5, 40, 4).base.model.dtype == torch.float32
    for name, config in SHAPES.items():  # without memory: as many parameters as the names say
        model = random_model(made.base.tokenizer, config, torch.bfloat16, torch.device("meta"))
        count = sum(parameter.numel() for parameter in model.parameters())
        sizes = {"smollm2-135m": 134.5e6, "qwen3-600m": 596e6, "gemma3-1b": 1.0e9}
        assert name not in sizes or count == pytest.approx(sizes[name], rel=0.01)


def test_options_out_of_range_are_one_sentence(monkeypatch):
    monkeypatch.chdir(ROOT)
    for options in (["--repeats", "0"], ["--dilemmas", "3"], ["--pairs", "1"], ["--dtype", "int4"]):
        found = CliRunner().invoke(app, ["bench", *options])
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
        assert found.stderr.startswith("error: ")


def test_a_ratio_is_that_of_runs_in_turn(monkeypatch):
    took, order = iter([9.0, 9.0, 6.0, 2.0, 3.0, 3.0, 4.0, 2.0]), []
    monkeypatch.setattr(ratios, "seconds", lambda work, device: (order.append(work), next(took))[1])
    times = Timer(CPU, 3)({"first": "A", "second": "B"})
    assert times.ratio("x", "first", "second", 10) == Figure("x", 20.0, 10.0, 30.0)
    assert "".join(order) == "ABABABAB"


def test_a_goal_is_met_or_missed():
    assert Figure("x", 1.0).met is Figure("x", None, at_most=1).met is None
    assert [Figure("x", value, at_most=1.15).met for value in (1.15, 1.16)] == [True, False]
    assert [Figure("x", value, at_least=0.95).met for value in (0.95, 0.94)] == [True, False]


def test_a_peak_is_what_is_held_at_once():
    def work():
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second, torch.zeros(500)

    before = torch.zeros(9)
    assert 8000 <= peak(work, before.device) < 8100


def test_parts_are_timed_without_what_they_call(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 7.0, 8.0, 10.0, 20.0, 21.0])
    monkeypatch.setattr(breakdown, "now", lambda _: next(clock))
    watch = Stopwatch(CPU)
    inner = watch.timed(lambda: None, "inner")
    with watch.part(REST):
        with watch.part("outer"):
            inner()
        with watch.part(CHECKS):
            inner()
    assert watch.parts == {REST: 4.0, "outer": 3.0, "inner": 4.0, CHECKS: 10.0}


def test_operations_within_another_are_not_counted():
    a = torch.ones(3, 3)
    assert launches(lambda: a @ a + 1, CPU)["operations"] == 2


def test_without_repeng_the_row_says_so(monkeypatch):
    monkeypatch.setattr(extraction, "repeng", lambda: None)
    [row] = extraction.extraction(None, None)
    assert (row.value, row.why) == (None, "repeng is not installed")


def test_the_bare_forward_runs_the_tokens_that_sharing_leaves(tiny_folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = prepare(str(tiny_folder), None, "cpu", 4, 1, None)
    found = replace(found, base=replace(found.base, batch_size=64))
    bare, tokens = Bare(found, nll=False), []
    assert bare.depth == 1
    for layer in decoder_layers(found.base.model)[:2]:
        layer.register_forward_pre_hook(
            lambda _module, inputs: tokens.append(inputs[0].shape[:2].numel())
        )
    bare()
    below, above = (
        sum(tokens[::4]),
        sum(tokens[3::4]),
    )  # each batch: layer 0 runs, 1 is passed; then 0 is passed, 1 runs
    assert below * len(COEFFICIENTS) == above
    rows = [row for part, _, _ in bare.parts for row in part]
    assert len(rows) == 4 * len(COEFFICIENTS)
    laid, _ = lay_out_rows(rows[:1], 0, torch.device("cpu"))
    assert (plain_rows(laid).positions[0].max() + 1) == len(rows[0].bundle)
