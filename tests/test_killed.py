"""kill -9 in every stage, then `dvc repro`: the same hashes as in an undisturbed run of the same commit."""

import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from pipeline.support.files import TEMPORARY, leftovers, new_file, new_folder
from tests.conftest import ROOT
from tests.project import Project, environment, make_project, quick

pytestmark = pytest.mark.slow

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
KILLS = 2
STARTED = re.compile(r"Running stage '([^']+)'")  # `sources`, which always runs, dies too
KILLED = re.compile(
    r"exited with (-9|137)\b"
)  # 137: said by a shell that forks, where $SHELL is not set


@pytest.fixture(scope="module")
def repro(tmp_path_factory):
    """Return repro(project, kills): `dvc repro` with the quick python first on the path."""
    with quick(tmp_path_factory.mktemp("quick")) as path:

        def repro(project: Project, kills: int) -> subprocess.CompletedProcess:
            own = {
                "PATH": path,
                "INNERPISSA_TRACKING": "off",
                "KILLS": str(kills),
                "ATTEMPTS": f"{project.folder}.attempts",
            }
            return subprocess.run(
                ["dvc", "repro"],
                cwd=project.folder,
                env=environment() | own,
                capture_output=True,
                text=True,
            )

        yield repro


@pytest.fixture(scope="module")
def runs(tmp_path_factory, repro) -> tuple[Project, Project, list[str]]:
    """Return an undisturbed project, one whose every cell was killed KILLS times, and the cells in the order of their deaths."""
    calm, killed = (
        make_project(tmp_path_factory.mktemp(name) / "project", ["innerpissa"], ["mean_diff"])
        for name in ("calm", "killed")
    )
    found = repro(calm, 0)
    assert found.returncode == 0, found.stdout + found.stderr
    deaths: list[str] = []
    while (found := repro(killed, KILLS)).returncode:
        assert KILLED.search(found.stderr), found.stdout + found.stderr
        deaths.append(STARTED.findall(found.stdout)[-1])
        assert len(deaths) <= KILLS * 2 * len(STAGES)
    return calm, killed, deaths


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_was_killed_at_each_of_its_first_renames(runs, stage):
    deaths = [cell for cell in runs[2] if cell.partition("@")[0] == stage]
    assert len(deaths) == KILLS


def test_the_killed_study_has_the_undisturbed_ones_hashes(runs):
    """The two clones also are two runs of one commit: every output is deterministic."""
    calm, killed, _ = runs
    locks = [(project.folder / "dvc.lock").read_text() for project in (calm, killed)]
    assert locks[0] == locks[1]
    assert set(YAML(typ="safe").load(locks[0])["stages"]) >= set(STAGES) - {
        stage for stage in STAGES if "matrix" in STAGES[stage]
    }


def test_nothing_half_written_is_left(runs):
    folder = runs[1].folder
    assert [path for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)] == []
    assert runs[1].run("git", "status", "--porcelain", "--", ".", ":!reports", ":!dvc.lock") == ""


def test_what_a_killed_run_left_is_no_part_of_a_dependency(runs):
    calm = runs[0]
    left = [
        calm.folder / name
        for name in (
            "data/scores/.base.new1999999999",
            "models/adapters/mean_diff/.seed0.new1999999999",
        )
    ]
    for folder in left:
        folder.mkdir()
        (folder / "half").touch()
    assert calm.run("dvc", "status").split() == ["sources:", "always", "changed"]
    assert calm.run("git", "status", "--porcelain", "data", "models") == ""
    for folder in left:
        (folder / "half").unlink()
        folder.rmdir()


def test_the_next_write_clears_what_the_dead_left_and_nothing_else(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = process.pid
    names = [
        f".table.new{dead}",
        f"..table.new{dead}.new{dead}",
        f".other.new{dead}",
        ".table.new1",
        ".table.newer",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    assert sorted(path.name for path in leftovers(tmp_path)) == sorted(names[:3])
    with new_folder(tmp_path / "table") as new:
        (new / "row").touch()
    with new_file(tmp_path / "text") as new:
        new.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["table", "text", *names[2:]])
