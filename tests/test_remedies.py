"""Every command and every parameter that a message names is one that there is."""

import ast
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator

import pytest
from dvc.cli import parse_args
from ruamel.yaml import YAML
from typer.main import get_command

from pipeline.cli import app
from pipeline.study.params import load_params
from tests.conftest import ROOT
from tests.project import BIN

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
COMMAND = re.compile(r"`((?:dvc|python -m pipeline|make|git|hf|pip|rm)\b[^`]*)`")
KNOWN = set(load_params(ROOT / "params.yaml").model_dump())
FILES = r"(?!\S*\.(?:json|parquet|csv|py|md|html|safetensors|npy)\b)"
ROOTS = "|".join(sorted(KNOWN))
PARAMETER = re.compile(rf"(?<![\w./-]){FILES}((?:{ROOTS})(?:\.[a-z_§]+)+)(?![\w/])")
PLACE = "§"  # what an f-string fills in


def texts() -> Iterator[tuple[str, str]]:
    """Yield each text of the pipeline with its place; § stands for what is filled in."""
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        inside = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in inside | docs:
                continue
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else PLACE for v in node.values]
                yield where, "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield where, node.value


def stages_named() -> Iterator[tuple[str, str]]:
    """Yield each stage that a reader of files is told to name, `read_json(path, "pairs")`."""
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("read_json", "read_table") and "evalsets" not in file.parts:
                for argument in node.args[1:2]:
                    if isinstance(argument, ast.Constant):
                        yield f"{file.relative_to(ROOT)}:{node.lineno}", argument.value


COMMANDS = sorted({command for _, text in texts() for command in COMMAND.findall(text)})


def test_messages_name_commands_and_parameters():
    assert {command.split()[0] for command in COMMANDS} >= {"dvc", "git", "make", "hf", "pip"}
    assert "dvc repro svd" in COMMANDS
    assert len(list(stages_named())) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_there_is(command, monkeypatch):
    monkeypatch.setattr("sys.argv", ["dvc"])  # which dvc's own parser looks at too
    for part in command.split(" && "):
        program, *words = shlex.split(re.sub("<.*?>", PLACE, part))
        CHECKS[program](words)


def known_to_dvc(words: list[str]) -> None:
    said = parse_args(words)
    if said.cmd == "repro":
        assert set(said.targets) <= {*STAGES, PLACE}


def known_to_python(words: list[str]) -> None:
    assert words[:2] == ["-m", "pipeline"]
    assert words[2] in get_command(app).commands


def known_to_make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, given, _ = word.partition("=")
        assert re.search(
            rf"^{name} \?= " if given else rf"^(?:\S+ )*{name}\b.*:", text, re.MULTILINE
        )


def known_to_git(words: list[str]) -> None:
    said = subprocess.run(["git", words[0], "-h"], capture_output=True, text=True)
    assert f"usage: git {words[0]}" in said.stdout + said.stderr
    if words[0] == "checkout":
        assert words[1] == PLACE or (ROOT / words[1]).exists()


def known_to_the_hub(words: list[str]) -> None:
    subprocess.run([BIN / "hf", *words, "--help"], capture_output=True, check=True)


def known_to_pip(words: list[str]) -> None:
    subprocess.run(
        [BIN / "python", "-m", "pip", *words[:1], "--help"], capture_output=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words[1:]:
        name, _, extra = word.removesuffix("]").partition("[")
        assert word.startswith("--") or (ROOT / name).exists()
        assert not extra or extra in project["optional-dependencies"]


CHECKS = {
    "dvc": known_to_dvc, "python": known_to_python, "make": known_to_make, "git": known_to_git,
    "hf": known_to_the_hub, "pip": known_to_pip, "rm": lambda words: None,
}  # fmt: skip


@pytest.mark.parametrize(("where", "stage"), sorted(set(stages_named())))
def test_a_stage_that_makes_a_missing_file_is_one_of_dvcs(where, stage):
    assert stage in STAGES, where


def test_a_parameter_is_one_that_there_is():
    params, bad = load_params(ROOT / "params.yaml"), []
    for where, text in texts():
        for key in PARAMETER.findall(text):
            found = [params]
            for part in key.split("."):
                found = [down for one in found for down in below(one, part)]
            if not found and " " in text and "\n" not in text:
                bad.append(f"{where}: {key}")
    assert bad == []


def below(value: object, part: str) -> list[object]:
    """Return what a part of a key leads to; § leads everywhere."""
    fields = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return [down for name, down in fields.items() if part in (name, PLACE)]
