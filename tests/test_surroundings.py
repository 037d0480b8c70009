"""What surrounds the pipeline: folders with spaces, locales, taken ports, servers that do not answer."""

import ast
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.study import store

ROOT = Path(__file__).parent.parent
STUB = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin"; for name in python dvc mlflow; do cp "$0" "$3/bin/$name"; done;;
  "-c "*) exec "{python}" "$@";;
  *) echo "$PWD: ${{0##*/}} $*; $(command -v dvc)" >> log;;
esac
"""


def sources() -> list[tuple[Path, ast.Call]]:
    """Return every call in the pipeline, with its file."""
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    trees = [(file, ast.parse(file.read_text(encoding="utf-8"))) for file in files]
    return [(f, node) for f, tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_every_text_is_read_and_written_in_utf_8_whatever_the_locale():
    bad = []
    for file, call in sources():
        function = call.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        named = {word.arg: ast.unparse(word.value) for word in call.keywords}
        given = [ast.unparse(argument) for argument in call.args]
        text = name in ("read_text", "write_text") and isinstance(function, ast.Attribute)
        text |= name == "open" and any(word in ("'r'", "'w'", "'a'") for word in given)
        text |= isinstance(function, ast.Name) and name == "open" and len(given) == 1
        text |= "True" in (named.get("text"), named.get("universal_newlines"))
        if text and "'utf-8'" not in [*given, named.get("encoding")]:
            bad.append(f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    assert bad == []


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with spaces that `make` can set up with a stub instead of Python."""
    folder = tmp_path / "My Projects" / "inner pissa"
    folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    stub = folder.parent / "stub python"
    stub.write_text(STUB.format(python=sys.executable), encoding="utf-8")
    stub.chmod(0o755)
    return folder


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    python = folder.parent / "stub python"
    command = ["make", *words, f"PYTHON={python}"]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")


def test_make_works_in_a_folder_with_spaces(project):
    for target in ("repro", "repro"):
        done = make(project, target)
        assert done.returncode == 0, done.stderr
    log = (project / "log").read_text(encoding="utf-8").splitlines()
    assert [line.partition(": ")[2].split()[0] for line in log[:3]] == ["python", "dvc", "dvc"]
    assert all(line.startswith(f"{project}: ") for line in log)
    assert f"{project}/.venv/bin/dvc" in log[1]


def test_the_page_of_runs_refuses_a_taken_port_and_takes_another(project):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        refused = make(project, "ui", f"PORT={taken}")
    assert refused.returncode != 0
    assert f"port {taken} is taken" in refused.stderr
    assert "http://" not in refused.stdout
    done = make(project, "ui", f"PORT={taken}")
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{taken}/#/experiments/1" in done.stdout
    log = (project / "log").read_text(encoding="utf-8")
    assert f"--port {taken}" in log


STAGE = """
from pipeline.study.declared import Declared
from pipeline.study.tracking import tracked
with tracked("stage", Declared(rank=4)) as run:
    run.log({"figure": 1.5})
"""
# Under a program called dvc, as stages run.
EXECUTION = "import subprocess, sys; [subprocess.run(sys.argv[1:], check=True) for _ in range(2)]"


def test_a_dead_server_costs_seconds_and_is_tried_once_in_each_execution(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc").write_text(EXECUTION, encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "INNER"))}
    own = {"DVC_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment = kept | own | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    for _ in range(2):
        began = time.monotonic()
        said = subprocess.run(
            [sys.executable, "dvc", sys.executable, "-c", STAGE],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=100,
        ).stdout
        assert time.monotonic() - began < 60
        assert said.count("http://127.0.0.1:9 does not answer") == 1
        assert said.count("did not answer in this execution") == 1


def test_a_server_that_is_silent_is_given_up_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="does not answer"):
            store.check_server(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 20
