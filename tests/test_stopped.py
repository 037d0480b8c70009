"""A full disk, a closed one, Ctrl-C: one sentence, an exit code, nothing half-written, what was there before intact."""

import errno
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import guarded
from pipeline.support.errors import InputError
from pipeline.support.files import TEMPORARY
from pipeline.support.scratch import Scratch
from tests.project import Project, environment, make_project

pytestmark = pytest.mark.slow

FULL = "error: the disk is full{}: free some space and run the same command again; what was there before is intact\n"
CLOSED = "error: permission denied{}: let this user read and write there, or move the project\n"
STOPPED = "stopped: the same command goes on from here\n"
UNTRACKED = {"INNERPISSA_TRACKING": "off"}


def said_of(error: BaseException, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left, guarded():
        raise error
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "data/pairs"),
            FULL.format(" (data/pairs)"),
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL.format("")),
        (
            RuntimeError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            FULL.format(""),
        ),
        (
            RuntimeError("parquet: File out of specification: underlying IO error: (os error 122)"),
            FULL.format(""),
        ),
        (OSError(errno.EACCES, "Permission denied", "models"), CLOSED.format(" (models)")),
        (OSError(errno.EPERM, "Operation not permitted"), CLOSED.format("")),
        (OSError(errno.EROFS, "Read-only file system", "reports"), CLOSED.format(" (reports)")),
        (RuntimeError("Permission denied (os error 13)"), CLOSED.format("")),
        (InputError("rank is 0"), "error: rank is 0\n"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, said, capsys):
    assert said_of(error, capsys) == (2, said)


def test_of_several_processes_the_one_that_failed_is_named(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert said_of(OSError(errno.ENOSPC, "full"), capsys) == (
        2,
        FULL.format("").replace("error", "error in process 1"),
    )


def test_ctrl_c_is_one_sentence(capsys):
    assert said_of(KeyboardInterrupt(), capsys) == (130, STOPPED)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        FileNotFoundError(errno.ENOENT, "no"),
        ValueError("28"),
    ],
)
def test_every_other_error_keeps_its_traceback(error):
    with pytest.raises(type(error)) as raised, guarded():
        raise error
    assert raised.value is error


def test_a_checkpoint_that_finds_the_disk_full_leaves_the_last_one(tmp_path, monkeypatch):
    file = Scratch(tmp_path / "kept").file("training")
    file.write({"step": 3})

    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        file.write({"step": 4})
    assert file.read() == {"step": 3}
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [file.path.name]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project with what training reads."""
    project = make_project(
        tmp_path_factory.mktemp("stopped") / "project", ["innerpissa"], ["mean_diff"]
    )
    names = ("code", "sources", "model", "pairs", "svd", "evalset", "checks")
    code = f"from importlib import import_module\nfor name in {names}: import_module('pipeline.stages.' + name).main()"
    project.run("python", "-c", code, PYTHONPATH=str(project.folder), **UNTRACKED)
    return project


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


NAMESPACE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "sh",
    "-ec",
]  # a mount of its own, which needs no rights
SMALL_DISK = """
mount -t tmpfs -o size=64m none "$0"
cp -a "$1"/. "$0"
dd if=/dev/zero of="$0"/filler bs=4k status=none 2>/dev/null || true
code=0
python -m pipeline "$2" || code=$?
rm "$0"/filler
cp -a "$0"/. "$1"
exit $code
"""


@pytest.mark.parametrize(("stage", "folder"), [("pairs", "data"), ("svd", "models")])
def test_a_stage_on_a_full_disk_says_so_and_leaves_what_was_there(project, stage, folder, tmp_path):
    """The parquet comes from one library in Rust, the tensors from another."""
    if subprocess.run(
        [*NAMESPACE, f"mount -t tmpfs none {tmp_path}"], capture_output=True
    ).returncode:
        pytest.skip("this machine lets no user mount a small disk")
    project.run("cp", "-a", f"{folder}/.", str(tmp_path))
    before = contents(tmp_path)
    assert any(name.startswith(f"{stage}/") for name in before)
    said = project.run(*NAMESPACE, SMALL_DISK, folder, str(tmp_path), stage, code=2, **UNTRACKED)
    assert re.search(FULL.format(r"( \(.*\))?").strip(), said), said
    assert "Traceback" not in said
    assert contents(tmp_path) == before
    assert [path for path in tmp_path.rglob("*") if TEMPORARY.fullmatch(path.name)] == []


WAITS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
from pipeline.cli import main
from {module} import {name} as patched
plain = patched.{method}

def waits(*arguments, **named):
    plain(*arguments, **named)
    print("half", flush=True)
    time.sleep(600)

patched.{method} = waits
sys.argv = ["pipeline", *sys.argv[1:]]
main()
"""


def interrupt(project: Project, code: str, *command: str, **extra: str) -> tuple[int, str]:
    """Start a command, press Ctrl-C where it waits, and return its exit code and what it said to stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command], cwd=project.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment() | {"PYTHONPATH": str(project.folder)} | extra,
    )  # fmt: skip
    try:
        assert any(line == "half\n" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    return process.returncode, said


def test_ctrl_c_in_training_keeps_its_checkpoint_and_the_same_command_goes_on(project):
    code = WAITS.format(module="pipeline.support.scratch", name="ScratchFile", method="write")
    found, said = interrupt(project, code, "train", "innerpissa", "0")
    assert (found, said.splitlines(keepends=True)[-1]) == (130, STOPPED)
    assert "Traceback" not in said
    assert not (project.folder / "models/adapters").exists() or not list(
        (project.folder / "models/adapters").rglob("*")
    )
    [kept] = (project.folder / ".dvc/tmp/scratch").iterdir()
    assert [path.name for path in kept.iterdir()] == ["training-1.pt"]
    [parent] = project.parents()
    assert {run.info.status for run in (parent, *project.children(parent).values())} == {"KILLED"}

    said = project.run("python", "-m", "pipeline", "train", "innerpissa", "0")
    assert re.search(r"training goes on after step \d+, kept by an interrupted run", said)
    assert re.search(
        r"^train@innerpissa-0: \d+\.\d s, peak memory [\d,]+ MB, [\d,]+ tokens/s$",
        said,
        re.MULTILINE,
    ), said
    assert list((project.folder / ".dvc/tmp/scratch").iterdir()) == []
    run = project.children(parent)["train@innerpissa-0"]
    assert {"seconds", "peak_memory_mb", "tokens", "tokens_per_second"} <= set(run.data.metrics)
    assert run.info.status == "FINISHED"


def test_ctrl_c_in_the_midst_of_writing_leaves_what_was_there(project):
    before = contents(project.folder / "data")
    code = WAITS.format(module="polars", name="DataFrame", method="write_parquet")
    found, said = interrupt(project, code, "pairs", **UNTRACKED)
    assert (found, said) == (130, STOPPED)
    assert contents(project.folder / "data") == before
