"""Where a user's text names a model or a data set: variables, home, and the project's own root."""

from pathlib import Path

import pytest

from pipeline.support import paths
from pipeline.support.paths import resolve_source


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A temporary workspace of a queue beside the user's checkout, which alone holds `mine`."""
    for folder in ("checkout/mine", "beside", "temporary/.dvc"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "temporary")
    return tmp_path


def test_a_relative_path_is_found_from_a_temporary_workspace(workspace):
    assert resolve_source("mine").samefile(workspace / "checkout/mine")
    assert resolve_source("../beside").samefile(workspace / "beside")
    assert resolve_source("org/name") is None


def test_what_the_workspace_itself_holds_comes_first(workspace):
    (workspace / "temporary/mine").mkdir()
    assert resolve_source("mine").samefile(workspace / "temporary/mine")


def test_home_and_variables_expand(workspace, monkeypatch):
    monkeypatch.setenv("HOME", str(workspace))
    monkeypatch.setenv("MODELS", str(workspace / "checkout"))
    assert resolve_source("~/beside") == workspace / "beside"
    assert resolve_source("$MODELS/mine") == workspace / "checkout/mine"
    assert resolve_source("${MODELS}/none") is None
