"""The terminal: one prompt side by side, the chat's dial and history, and refusals in one sentence."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from pipeline.app import chat
from pipeline.app.chat import HELP, Chat, dial
from pipeline.app.opening import Opened, listed
from pipeline.cli import app
from pipeline.steering.base import Sign
from pipeline.steering.direction import Direction
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.saved import save_steering
from pipeline.support.errors import InputError
from tests.conftest import ROOT


class Talk:
    """A chat whose model says its coefficient and how many messages it was given, in two tokens."""

    def __init__(self, coefficients=(-1.0, 0.0, 1.0)):
        self.asked, self.out = [], io.StringIO()
        self.chat = Chat(self.answer, Console(file=self.out, width=100), list(coefficients))

    def answer(self, messages, coefficients):
        self.asked.append((messages, coefficients))
        if messages[-1]["content"] == "break":
            raise InputError("the chat is too long")
        if messages[-1]["content"] == "stop":
            raise KeyboardInterrupt
        yield [f"{c:g}" for c in coefficients]
        yield [f"{c:g} [b]of {len(messages)}" for c in coefficients]

    def run(self, *lines) -> str:
        self.chat.run(iter(lines))
        return self.out.getvalue()


def test_answers_stand_side_by_side_in_whole():
    shown = Talk().run("hello").splitlines()
    assert [cell.strip() for cell in shown[1].strip("┃").split("┃")] == ["c = -1", "c = 0", "c = 1"]
    assert [cell.strip() for cell in shown[3].strip("│").split("│")] == [
        "-1 [b]of 1",
        "0 [b]of 1",
        "1 [b]of 1",
    ]


def test_the_conversation_goes_on_from_the_last_coefficient():
    talk = Talk()
    talk.run("hello", "/c -1", "and you?")
    said = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "1 [b]of 1"},
        {"role": "user", "content": "and you?"},
    ]
    assert talk.asked[1] == (said, [1.0, 0.0, -1.0])
    assert talk.chat.messages == [*said, {"role": "assistant", "content": "-1 [b]of 3"}]


@pytest.mark.parametrize(("line", "coefficients"), [
    ("/c -1", [1.0, 0.0, -1.0]), ("/c 0.5", [-0.5, 0.0, 0.5]), ("/c 0", [0.0]), ("/c -1 0 1", [-1.0, 0.0, 1.0]),
    ("/c 2 1", [2.0, 1.0]), ("/c 1 1", [1.0]), ("/c", [-1.0, 0.0, 1.0]),
])  # fmt: skip
def test_the_dial(line, coefficients):
    talk = Talk()
    said = talk.run(line)
    assert talk.chat.coefficients == coefficients
    assert (
        said
        == f"coefficients {', '.join(f'{c:g}' for c in coefficients)}; the conversation goes on from the last\n"
    )


def test_minus_nought_is_nought():
    assert list(map(str, dial(("0",)))) == ["0.0"]


@pytest.mark.parametrize(("line", "said"), [
    ("/c up", "/c takes numbers, not up: say /c -1, or /c -1 0 1\n"),
    ("/c 1 nan", "/c takes finite numbers, not 1 nan: say /c -1, or /c -1 0 1\n"),
    ("/dial 1", "there is no command /dial: /help lists them\n"),
    ("/reset now", "/reset takes no words after it: /help says how it is used\n"),
    ("break", "the chat is too long\n"),
])  # fmt: skip
def test_what_cannot_be_done_is_answered_in_one_sentence(line, said):
    talk = Talk()
    assert talk.run(line) == said
    assert talk.chat.coefficients == [-1.0, 0.0, 1.0]
    assert talk.chat.messages == []


def test_reset_forgets_and_empty_lines_say_nothing():
    talk = Talk()
    talk.run("hello", "", "   ", "/reset", "hello")
    assert [len(messages) for messages, _ in talk.asked] == [1, 1]


def test_help_and_quit():
    talk = Talk()
    assert talk.run("/help", "/quit", "hello") == HELP + "\n"
    assert talk.asked == []


def test_ctrl_c_leaves_and_keeps_what_was_said():
    talk = Talk()
    talk.run("hello", "stop", "never")
    assert len(talk.asked) == 2
    assert len(talk.chat.messages) == 2


@pytest.fixture(scope="module")
def place(tmp_path_factory, manifest, tiny_folder) -> Path:
    """Make a project's root whose params.yaml lists the tiny model, with adapters for it and for others."""
    root = tmp_path_factory.mktemp("place")
    text = (
        (ROOT / "params.yaml")
        .read_text()
        .replace("source: models/reference", f"source: {tiny_folder}", 1)
    )
    (root / "params.yaml").write_text(text)
    prompting = Prompting(
        "Pretend you're an honest person.", "Pretend you're a dishonest person.", "user"
    )
    about = {"model": "reference", "weights_sha256": manifest["weights_sha256"]}
    save_steering(root / "own", "prompting", prompting, about)
    save_steering(root / "unlisted", "prompting", prompting, about | {"model": "elsewhere"})
    save_steering(root / "other", "prompting", prompting, about | {"weights_sha256": "a" * 64})
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken/steering.json").write_text(json.dumps({"method": "prompting"}))
    return root


def invoke(place, monkeypatch, *arguments, **settings):
    monkeypatch.chdir(place)
    return CliRunner().invoke(
        app, [*arguments, "--max-new-tokens", "6", "--device", "cpu"], **settings
    )


def test_steer_prints_one_column_per_coefficient(place, monkeypatch):
    found = invoke(
        place,
        monkeypatch,
        "steer",
        "Who are you?",
        "--adapter",
        "own",
        "-c",
        "-1",
        "-c",
        "0",
        "-c",
        "0.5",
        "-c",
        "2",
    )
    assert found.exit_code == 0, found.output
    table = found.stdout[found.stdout.index("┏") :]
    assert [cell.strip() for cell in table.splitlines()[1].strip("┃").split("┃")] == [
        "c = -1",
        "c = 0",
        "c = 0.5",
        "c = 2",
    ]
    assert table.endswith("┘\n")


def test_a_base_may_be_named(place, monkeypatch, tiny_folder):
    found = invoke(
        place,
        monkeypatch,
        "steer",
        "Who are you?",
        "--adapter",
        "unlisted",
        "--model",
        str(tiny_folder),
    )
    assert found.exit_code == 0, found.output
    assert [cell.strip() for cell in found.stdout.splitlines()[1].strip("┃").split("┃")][
        0
    ] == "c = -1"


def test_a_listed_model_is_found_by_its_id_and_by_its_source(place, monkeypatch, tiny_folder):
    monkeypatch.chdir(place)
    assert listed("reference") == listed(str(tiny_folder)) is not None
    assert listed("Qwen/Qwen3-0.6B").template_options == {"enable_thinking": False}
    assert listed("elsewhere") is None
    monkeypatch.chdir(place / "empty")
    assert listed("reference") is None


def test_chat_reads_lines_until_they_end(place, monkeypatch):
    lines = "hello\n/c 0\nhello\n/nope\n"
    found = invoke(place, monkeypatch, "chat", "--adapter", "own", input=lines)
    assert found.exit_code == 0, found.output
    assert (
        "coefficients -1, 0, 1; of this adapter's coefficient only the sign counts; /help lists the commands"
        in " ".join(found.stdout.split())
    )
    assert [found.stdout.count(head) for head in ("c = -1", "c = 0", "c = 1")] == [1, 2, 1]
    assert "there is no command /nope: /help lists them" in found.stdout


@pytest.mark.parametrize(("arguments", "said"), [
    (["missing/a/b"], "adapter 'missing/a/b' is neither a folder nor a hub id: correct its name"),
    (["no/such"], "adapter 'no/such' is not in the local cache and the hub cannot be reached: connect, or give a local folder"),
    (["empty"], "empty holds no steering.json: fit the method first (`dvc repro`)"),
    (["broken"], "broken/steering.json does not say which model it was made for: name the base with --model"),
    (["unlisted"], "unlisted was made for elsewhere, which is neither in params.yaml nor a folder here: name its folder or hub id as the base (--model)"),
    (["own", "--model", "own"], "own holds no config.json, so it is no model: name a model's folder or a hub id"),
    (["own", "-c", "nan"], "coefficients [nan] cannot be used: give one or more finite numbers, e.g. -1, 0 and 1"),
])  # fmt: skip
def test_bad_arguments_are_refused(place, monkeypatch, arguments, said):
    found = invoke(place, monkeypatch, "steer", "Hello", "--adapter", *arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.endswith(f"error: {said}\n")


def test_a_refusal_is_one_sentence_and_exit_code_2(place):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pipeline", "chat", "--adapter", "no/such"]
    found = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert found.stderr.startswith("error: adapter 'no/such' is not in the local cache")


def test_another_base_is_refused(place, monkeypatch):
    found = invoke(place, monkeypatch, "steer", "Hello", "--adapter", "other")
    assert found.exit_code == 2
    assert (
        "other was fitted on weights aaaaaaaaaaaa of reference, this base model has" in found.stderr
    )


@pytest.mark.parametrize("raw", [False, True])
def test_the_unit_and_the_raw_coefficient(raw, monkeypatch):
    steering = Direction(["layer"], torch.ones(1, 2))
    steering.budget_reached = False
    monkeypatch.setattr(chat, "load_adapter", lambda *_, **__: Opened(None, steering))
    asked = []
    monkeypatch.setattr(chat, "answers", lambda *given: asked.append(given) or iter([["yes"]]))
    arguments = ["steer", "Hello", "--adapter", "a", "-c", "2", *(["--raw"] if raw else [])]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0
    assert asked[0][3:] == ([2.0], 64, 0.0, 0, 1.0, raw)
    assert "c = 1 or c = -1 does not cost the budget" in found.stdout


def test_an_undecided_sign_is_said_before_anything_is_answered(monkeypatch, capsys):
    steering = Direction(["layer"], torch.ones(1, 2))
    opened = Opened(None, steering)
    monkeypatch.setattr(chat, "load_adapter", lambda *_, **__: opened)
    chat.open_answer(["a"], None, "cpu", None, [])
    assert capsys.readouterr().out == ""
    steering.sign = Sign(False, "the behaviour has no probes")
    chat.open_answer(["a"], None, "cpu", None, [])
    assert "the sign is undecided: the behaviour has no probes" in capsys.readouterr().out
