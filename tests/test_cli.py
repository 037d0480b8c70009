"""The command line: instant help, errors as one sentence, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import app
from pipeline.support.files import new_file, new_folder

ROOT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment,
    )


def test_help_imports_nothing_heavy():
    code = "import sys; from typer.testing import CliRunner; from pipeline.cli import app; CliRunner().invoke(app, ['--help']);"
    heavy = "print([m for m in ('torch', 'transformers', 'mlflow', 'polars', 'statsmodels', 'matplotlib', 'pydantic') if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code + heavy], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_every_stages_command_is_one_and_takes_the_arguments_that_dvc_gives_it():
    from ruamel.yaml import YAML
    from typer.main import get_command

    commands = get_command(app).commands
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items():
        python, _, package, command, *arguments = stage["cmd"].split()
        assert (python, package, command) == ("python", "pipeline", name.replace("_", "-"))
        assert len(arguments) == len(commands[command].params), name
        assert commands[command].help, name


def test_a_bad_parameter_file_is_one_sentence_and_an_exit_code(tmp_path):
    (tmp_path / "params.yaml").write_text("rank: 3\n")
    found = run("model", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("error: params.yaml: model: Field required")
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]


def test_a_missing_parameter_file_is_one_sentence(tmp_path):
    found = run("svd", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (
        2,
        "error: params.yaml does not exist: run from the project's root, or create it\n",
    )


@pytest.mark.parametrize("existing", [True, False])
def test_a_failing_write_leaves_what_was_there(tmp_path, existing):
    file, folder = tmp_path / "file", tmp_path / "folder"
    if existing:
        file.write_text("old")
        folder.mkdir()
        (folder / "kept").write_text("old")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(RuntimeError), new_file(file) as new:
        new.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), new_folder(folder) as new:
        (new / "half").write_text("half")
        raise RuntimeError
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    if existing:
        assert file.read_text() == "old"


def test_a_finished_write_replaces_what_was_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with new_folder(tmp_path / "folder") as new:
        (new / "new").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
