"""Local files that params.yaml names, through DVC: every change is seen, and remedies work."""

import shutil

import pytest
from ruamel.yaml import YAML

from tests.conftest import make_tiny
from tests.project import RUNNING, Project, make_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project whose model lies beside its checkout."""
    folder = tmp_path_factory.mktemp("sources") / "project"
    folder.mkdir()
    made = make_project(folder, ["innerpissa"], ["mean_diff"])
    make_tiny(folder.parent / "mine", seed=1)
    yaml, file = YAML(), folder / "params.yaml"
    params = yaml.load(file)
    params["models"]["reference"]["source"] = "../mine"
    yaml.dump(params, file)
    made.run("git", "commit", "-qam", "mine")
    made.run("dvc", "repro", "pairs")
    return made


def ran(project: Project, *command: str) -> list[str]:
    return RUNNING.findall(project.run(*command, INNERPISSA_TRACKING="off"))


def test_without_a_change_nothing_runs_but_the_look_at_the_sources(project):
    assert ran(project, "dvc", "repro", "pairs") == []


def test_a_changed_template_and_changed_weights_are_seen(project):
    mine = project.folder.parent / "mine"
    template = mine / "chat_template.jinja"
    template.write_text(
        template.read_text(encoding="utf-8").replace("<|im_end|>", "<|im_end|> "), encoding="utf-8"
    )
    said = project.run("python", "-m", "pipeline", "pairs", code=2, INNERPISSA_TRACKING="off")
    assert "words of the chat template in ../mine are now" in said
    assert "run `dvc repro`" in said
    assert ran(project, "dvc", "repro", "pairs") == ["model", "pairs"]
    make_tiny(mine, seed=2)
    project.run("dvc", "repro", "svd")
    make_tiny(mine, seed=3)
    said = project.run("python", "-m", "pipeline", "svd", code=2, INNERPISSA_TRACKING="off")
    assert "weights in ../mine are now" in said
    assert ran(project, "dvc", "repro", "svd") == ["model", "svd"]
    project.run("python", "-m", "pipeline", "svd", INNERPISSA_TRACKING="off")


def test_a_path_beside_the_checkout_is_found_from_a_temporary_workspace(project):
    mine = project.folder.parent / "other"
    shutil.copytree(project.folder.parent / "mine", mine)
    options = ("--temp", "-n", "elsewhere", "-S", "models.reference.source=../other", "pairs")
    assert "pairs" in ran(project, "dvc", "exp", "run", *options)
