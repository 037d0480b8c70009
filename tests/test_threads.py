"""Threads: one for a small model, a share of the cores for others; explicit settings stay; waiting threads sleep."""

import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.support import threads
from tests.conftest import ROOT

SET = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"}


@pytest.fixture
def chosen(monkeypatch):
    """The number that torch was told, if any, in an environment without settings."""
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    told = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    return told


def test_a_small_model_has_one_thread_and_others_their_share(chosen, monkeypatch):
    threads.choose_threads(threads.SMALL - 1)
    threads.choose_threads(threads.SMALL)
    monkeypatch.setenv(threads.JOBS, "3")
    threads.choose_threads(threads.SMALL)
    threads.choose_threads(threads.SMALL - 1)
    assert chosen == [1, 8, 2, 1]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_an_explicit_number_stays(chosen, monkeypatch, name):
    monkeypatch.setenv(name, "5")
    threads.choose_threads(64)
    assert chosen == []


def test_the_model_is_what_chooses(chosen, manifest):
    from pipeline.lm.load import load_model

    load_model(manifest, "float32", torch.device("cpu"))
    assert chosen == [1]


@pytest.mark.parametrize("given, found", [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])  # fmt: skip
def test_commands_wait_asleep_before_torch_is_there(given, found):
    said = (
        "import os, sys, atexit\n"
        "sys.argv = ['pipeline', '--help']\n"
        "atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules))\n"
        "from pipeline.cli import main\n"
        "main()\n"
    )
    plain = {name: value for name, value in os.environ.items() if name not in SET}
    done = subprocess.run(
        [sys.executable, "-c", said], cwd=ROOT, env=plain | given, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == f"{found} False"


def test_the_load_bench_shows_both_settings(tiny_folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = CliRunner().invoke(
        app, ["bench-load", "--model", str(tiny_folder), "--busy", "1", "--steps", "1"]
    )
    assert found.exit_code == 0, found.output
    assert "this project's" in found.output and "spinning" in found.output


def test_the_load_bench_refuses_nothing_to_do():
    found = CliRunner().invoke(app, ["bench-load", "--busy", "0"])
    assert found.exit_code == 2
    assert "give at least 1 of each" in found.output
