"""Named studies are valid changes of params.yaml, in a workspace that leaves the checkout alone; progress without a terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.app import study
from pipeline.app.study import STUDIES, main, merged, prepare
from pipeline.study.params import Params, load_params
from pipeline.support import progress
from pipeline.support.errors import InputError
from pipeline.support.progress import track
from pipeline.support.section import parse, read_yaml
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", sorted(file.stem for file in STUDIES.glob("*.yaml")))
def test_each_study_is_valid_and_all_its_keys_are_params(name):
    whole, changes = read_yaml("params.yaml"), read_yaml(STUDIES / f"{name}.yaml")
    parsed = parse(Params, merged(whole, changes), name)
    assert parsed.methods == changes["methods"] and parsed.seeds == changes["seeds"]
    assert parsed.model == changes.get("model", whole["model"])


def test_a_workspace_sees_a_local_model(tmp_path):
    params = read_yaml("params.yaml")
    prepare(tmp_path, params | {"models": {"reference": {"source": "data/raw/prompts"}}})
    assert (tmp_path / "data/raw/prompts/open.json").exists()
    prepare(tmp_path, params | {"models": {"reference": {"source": "tests/conftest.py"}}})
    assert (tmp_path / "tests/conftest.py").samefile(ROOT / "tests/conftest.py")


def test_mappings_are_merged_and_all_else_is_replaced():
    assert merged({"a": {"b": 1, "c": [1, 2]}, "d": 3}, {"a": {"c": [3]}}) == {
        "a": {"b": 1, "c": [3]},
        "d": 3,
    }


def test_a_workspace_has_its_own_params_and_keeps_what_it_had(tmp_path):
    before = (ROOT / "params.yaml").read_bytes()
    params = merged(read_yaml("params.yaml"), {"rank": 7})
    (tmp_path / "models/adapters").mkdir(parents=True)
    prepare(prepare(tmp_path, params), params)
    assert load_params(tmp_path / "params.yaml").rank == 7
    assert (tmp_path / "pipeline/cli.py").exists() and (tmp_path / "models/adapters").exists()
    assert (ROOT / "params.yaml").read_bytes() == before


def test_a_workspace_shares_the_cache_of_the_checkout(tmp_path):
    prepare(tmp_path, read_yaml("params.yaml"))
    said = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=tmp_path, capture_output=True, text=True
    )
    assert Path(said.stdout.strip()).resolve() == (ROOT / ".dvc/cache").resolve()


def test_an_unknown_study_is_refused():
    with pytest.raises(InputError, match="take ablations, full, quick"):
        main("small", None, None, [])


def test_a_study_that_fails_says_so_by_its_code_and_copies_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "WORKSPACES", tmp_path)
    failed = subprocess.CompletedProcess([], 3)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit) as left:
        main("quick", None, str(tmp_path / "kept"), ["rank=7"])
    assert left.value.code == 3
    assert load_params(tmp_path / "quick/params.yaml").rank == 7
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("override", ["rnak=7", "rank", "rank=many"])
def test_a_wrong_override_is_refused_before_anything_is_written(override, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "WORKSPACES", tmp_path)
    with pytest.raises(InputError, match=override):
        main("quick", None, None, [override])
    assert not list(tmp_path.iterdir())


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0)
    assert list(track([5, 6], "training")) == [5, 6]
    assert capsys.readouterr().out == "training 1/2, 0 s left\ntraining 2/2, 0 s left\n"
    monkeypatch.setattr(progress, "SECONDS", 60)
    list(track([5, 6], "training"))
    assert capsys.readouterr().out == ""


def test_hidden_files_are_no_studies(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.app.study.STUDIES", tmp_path)
    for name in ("own.yaml", "._own.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="take own$"):
        main("._own", None, None, [])
