"""The adapter in the repository: found where none is trained, renewed by one command, stale when what it came from changes."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from pipeline.app.bundled import BUNDLED, FITTED, default_adapter, fitted, stale
from pipeline.cli import app
from pipeline.support.errors import InputError
from pipeline.support.paths import adapter_folder
from tests.conftest import ROOT

OWN = adapter_folder("innerpissa", 0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what an adapter is fitted from, and no results."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("behaviours", "suffixes"):
        shutil.copytree(ROOT / "data/raw" / name, tmp_path / "data/raw" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.support.paths.ROOT", tmp_path)
    return tmp_path


def test_the_trained_one_comes_before_the_bundled_one(place):
    with pytest.raises(InputError, match="no adapter is trained here"):
        default_adapter()
    for folder in (BUNDLED, OWN):
        folder.mkdir(parents=True)
        (folder / "steering.json").touch()
        assert default_adapter() == str(folder)


def test_chat_without_an_adapter_says_what_to_do(place):
    found = CliRunner().invoke(app, ["chat"])
    assert found.exit_code == 2
    assert "no adapter is trained here" in found.output


def test_bundle_refuses_what_is_not_trained_by_this_code(place):
    found = CliRunner().invoke(app, ["bundle"])
    assert found.exit_code == 2 and "dvc repro code" in found.output
    assert not BUNDLED.exists()


def test_it_is_stale_when_parameters_code_or_sources_change(place):
    BUNDLED.mkdir(parents=True)
    kept = fitted()
    (BUNDLED / FITTED).write_text(json.dumps(kept))
    assert stale() == []
    text = (place / "params.yaml").read_text()
    (place / "params.yaml").write_text(text.replace("rank: 64", "rank: 32", 1))
    file = place / "data/raw/behaviours/honesty.yaml"
    file.write_text(file.read_text() + "\n")
    assert stale() == ["params: rank", "files: data/raw/behaviours/honesty.yaml"]
    kept["code"]["Adapter"] = "older"
    (BUNDLED / FITTED).write_text(json.dumps(kept))
    assert "code: Adapter" in stale()


@pytest.mark.skipif(not (ROOT / BUNDLED / FITTED).exists(), reason="none is bundled yet")
def test_the_bundled_adapter_is_what_this_code_and_these_parameters_give(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert stale() == [], "run `make bundle` and commit models/bundled"
    for name in ("steering.safetensors", "certificate.json", "README.md"):
        assert (BUNDLED / name).exists()
