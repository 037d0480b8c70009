"""What surrounds the pipeline: folders with spaces, locales, taken ports, servers that do not answer."""

import ast
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import make_url

from pipeline.report.manifest import edited
from pipeline.study import store
from pipeline.support.git import git

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


def test_programs_are_called_by_a_list_of_words_and_git_in_one_place():
    calls = [(file, call) for file, call in sources() if "subprocess." in ast.unparse(call.func)]
    assert not [call for _, call in calls if "shell=" in ast.unparse(call)]
    programs = {
        file.name
        for file, call in calls
        if call.args and ast.unparse(call.args[0]).startswith("['git'")
    }
    assert programs == {"git.py"}


def test_what_git_cannot_say_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git("rev-parse", "HEAD") is None
    for words in (["init"], ["add", "-A"], ["commit", "--allow-empty", "-m", "caf\udce9"]):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *words], check=True)
    assert git("log", "--format=%s").startswith("caf")
    monkeypatch.setenv("PATH", "/nowhere")
    assert git("rev-parse", "HEAD") is None
    assert store.commit() == ""
    assert edited() == []


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
    assert [line.partition(": ")[2].split()[0] for line in log[:3]] == ["python"] * 3
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


ODD = "a?b c%20d#e"


@pytest.mark.parametrize(("uri", "database"), [
    ("sqlite:///mlflow.db", "mlflow.db"), ("sqlite:///kept/all runs.db", "kept/all runs.db"),
    ("sqlite:///../beside.db", "../beside.db"), ("sqlite:///{root}/own.db", "own.db"),
    ("sqlite:///{quoted}/own.db", "own.db"), ("sqlite:///{encoded}own.db", "own.db"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["plain", "a b", "a?b", "a%20b", "a#b", ODD])
def test_a_store_is_where_its_address_says_whatever_the_folder_is_called(
    tmp_path, monkeypatch, name, uri, database
):
    root = tmp_path / name
    root.mkdir()
    monkeypatch.setattr(store, "ROOT", root)
    encoded = quote(f"{root}/", safe="")
    given = uri.format(root=root, quoted=quote(str(root)), encoded=encoded)
    found = store.address(given)
    assert make_url(found).database == str(root / database)
    made = Path(found.removeprefix("sqlite:///")).parent
    assert made in (Path(), (root / database).parent)  # MLflow makes this folder
    assert store.address(found) == found
    assert store.address("sqlite:///x.db?timeout=5").endswith("x.db?timeout=5")


@pytest.mark.parametrize(("uri", "said"), [
    ("http://host:5000", "http://host:5000"), ("databricks", "databricks"),
    ("postgresql://me@host/runs", "postgresql://me@host/runs"), ("file:///runs", "file:///runs"),
    ("./runs", "{root}/runs"), ("file:runs", "{root}/runs"), ("sqlite:///:memory:", "sqlite:///:memory:"),
])  # fmt: skip
def test_other_addresses_stay_and_folders_begin_in_the_checkout(monkeypatch, tmp_path, uri, said):
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert store.address(uri) == said.format(root=tmp_path.as_uri())


def test_relative_variables_mean_the_users_checkout_in_every_workspace(tmp_path):
    code = (
        "from pipeline import cli; cli.app = lambda: None; cli.main()\n"
        "import os; from huggingface_hub import constants\n"
        "print(constants.HF_HUB_CACHE, os.environ['MPLCONFIGDIR'], sep='\\n')"
    )
    own = {"DVC_ROOT": str(tmp_path / "project"), "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": "~/m"}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True,
        encoding="utf-8", env=os.environ | own | {"HF_HOME": "../cache", "HOME": str(tmp_path)},
    ).stdout.splitlines()  # fmt: skip
    assert os.path.normpath(said[0]) == str(tmp_path / "cache/hub")
    assert said[1] == str(tmp_path / "m")


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


@pytest.mark.parametrize("uri", [{}, {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}])
def test_runs_and_artifacts_of_a_workspace_go_to_an_oddly_named_checkout(tmp_path, uri):
    root = tmp_path / ODD
    (workspace := root / ".dvc/tmp/exps/one").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", workspace)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "INNER"))}
    code = f"{STAGE}    run.artifact(__import__('pathlib').Path('params.yaml'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace, capture_output=True, encoding="utf-8",
        env=kept | {"DVC_ROOT": str(root), "PYTHONPATH": str(ROOT)} | uri, check=True,
    )  # fmt: skip
    assert "tracking failed" not in done.stdout
    made = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    runs = {name for name in made if "mlflow.db" in name or name.endswith("params.yaml")}
    assert f"{ODD}/mlflow.db" in runs
    assert all(name.startswith(f"{ODD}/") for name in made), made
    assert len([name for name in runs if name.startswith(f"{ODD}/mlartifacts/")]) == 1


def test_a_server_that_is_silent_is_given_up_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="does not answer"):
            store.check_server(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 20
