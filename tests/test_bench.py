"""The bench runs on a tiny model and shows every row; its ratios are those of the work it is given."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from pipeline.bench import ratios
from pipeline.bench.evaluation import COEFFICIENTS, Bare, plain_rows
from pipeline.bench.ratios import Figure
from pipeline.bench.subject import prepare
from pipeline.cli import app
from pipeline.lm.layers import decoder_layers
from pipeline.scoring.rows import lay_out_rows
from tests.architectures import CPU
from tests.conftest import ROOT

ROWS = [
    "evaluation / bare forward",
    "evaluation / bare forward with answers and NLL",
    "evaluation, reuse on / off",
    "time per item, 2n / n",
    "time per item, 4n / n",
    "time per coefficient, 3 / 1",
    "time per coefficient, 7 / 1",
    "training step / peft LoRA step",
    "generate, tokens/s steered / base",
    "side-by-side answers, tokens/s steered / base",
    "adapter tensors / base weights, bytes",
    "peak memory of the process, MiB",
]


@pytest.mark.parametrize("shape", [[], ["--layers", "4", "--width", "64"]])
def test_every_row_is_shown_and_written(shape, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = [
        "--model",
        str(tiny_folder),
        "--device",
        "cpu",
        "--repeats",
        "1",
        "--dilemmas",
        "4",
        "--tokens",
        "2",
    ]
    found = CliRunner().invoke(
        app,
        ["bench", *options, *shape, "--out", str(tmp_path / "bench.json")],
        env={"COLUMNS": "200"},
    )
    assert found.exit_code == 0, found.output
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in written["figures"]] == ROWS
    assert all(row["value"] > 0 for row in written["figures"])
    assert all(name in found.output for name in ROWS)
    assert ("random model" in written["title"]) == bool(shape)


def test_options_out_of_range_are_one_sentence(monkeypatch):
    monkeypatch.chdir(ROOT)
    for options in (["--repeats", "0"], ["--layers", "2", "--width", "100"]):
        found = CliRunner().invoke(app, ["bench", *options])
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
        assert found.stderr.startswith("error: ")


def test_a_ratio_is_that_of_runs_in_turn(monkeypatch):
    took, order = iter([9.0, 9.0, 6.0, 2.0, 3.0, 3.0, 4.0, 2.0]), []
    monkeypatch.setattr(ratios, "seconds", lambda work, device: (order.append(work), next(took))[1])
    assert ratios.ratio("x", "A", "B", 3, CPU, 10) == Figure("x", 20.0, 10.0, 30.0)
    assert "".join(order) == "ABABABAB"


def test_a_goal_is_met_or_missed():
    assert Figure("x", 1.0).met is None
    assert [Figure("x", value, at_most=1.15).met for value in (1.15, 1.16)] == [True, False]
    assert [Figure("x", value, at_least=0.95).met for value in (0.95, 0.94)] == [True, False]


def test_the_bare_forward_runs_the_tokens_that_sharing_leaves(tiny_folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    subject = prepare(str(tiny_folder), None, 64, "cpu", 4)
    subject = replace(subject, base=replace(subject.base, batch_size=64))
    bare, tokens = Bare(subject, nll=False), []
    assert bare.depth == 1
    for layer in decoder_layers(subject.base.model)[:2]:
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
