"""The fork server of a `repro`: a stage that it runs cannot be told from one that runs alone, and none outlives it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.app.forkserver import ADDRESS, forkserver
from tests.conftest import ROOT
from tests.project import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no fork server")

COMMAND = [sys.executable, "-m", "pipeline"]
SLOW = "def main():\n    import time\n    print('begun', flush=True)\n    time.sleep(60)\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The project without its results."""
    folder = tmp_path_factory.mktemp("forks") / "project"
    for name in ("pipeline", "data/raw"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """Where the server listens, which all tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in set(os.environ) - set(environment()):
            patch.delenv(name)
        patch.setenv("INNERPISSA_TRACKING", "off")
        with forkserver():
            yield os.environ[ADDRESS]


def start(folder: Path, address: str, *command: str) -> subprocess.Popen:
    own = {"INNERPISSA_TRACKING": "off"} | ({ADDRESS: address} if address else {})
    return subprocess.Popen(
        [*COMMAND, *command], cwd=folder, env=environment() | own, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    said, wrong = process.communicate(timeout=300)
    return process.returncode, said, wrong


@pytest.fixture
def sources(folder):
    """The code of a stage that imports little, to be edited."""
    file = folder / "pipeline/stages/sources.py"
    text = file.read_text()
    yield file
    file.write_text(text)


def served(folder: Path, address: str, *command: str) -> tuple[int, str, str]:
    return ended(start(folder, address, *command))


def test_a_stage_writes_and_says_what_it_does_alone(folder, address):
    found = []
    for place in ("", address):
        code, said, wrong = served(folder, place, "sources")
        files = {file.name: file.read_bytes() for file in (folder / "data/sources").iterdir()}
        shutil.rmtree(folder / "data/sources")
        found.append((code, said.split(":")[0], wrong, files))
    assert found[0] == found[1]
    assert found[0][0] == 0 and len(found[0][3]) > 1


REFUSES = (
    "from pipeline.support.errors import InputError\n\ndef main():\n    raise InputError('seven')\n"
)


@pytest.mark.parametrize(
    "command, expected", [(("sources",), 2), (("train", "innerpissa"), 2), (("--help",), 0)]
)
def test_an_errors_words_and_code_pass_through(folder, address, sources, command, expected):
    sources.write_text(REFUSES)
    alone = served(folder, "", *command)
    assert served(folder, address, *command) == alone
    assert alone[0] == expected and "".join(alone[1:])


def test_the_stage_runs_in_the_server_and_only_the_client_imports_nothing(folder, address, sources):
    sources.write_text("import os, sys\n\ndef main():\n    print(os.getppid(), sys.argv[1:], 'polars' in sys.modules, 'mlflow' in sys.modules, os.listdir('/proc/self/task') == [str(os.getpid())])\n")  # fmt: skip
    process = start(folder, address, "sources")
    code, said, _ = ended(process)
    parent, rest = said.split(" ", 1)
    assert (code, rest) == (0, "['sources'] False True True\n")
    assert int(parent) != process.pid


def test_edited_code_is_what_runs(folder, address, sources):
    for word in ("first", "second"):
        sources.write_text(f"def main():\n    print({word!r})\n")
        assert served(folder, address, "sources") == (0, f"{word}\n", "")


def test_an_unforeseen_error_has_its_traceback(folder, address, sources):
    sources.write_text("def main():\n    raise ValueError('7')\n")
    code, _, wrong = served(folder, address, "sources")
    assert code == 1
    assert wrong.endswith("ValueError: 7\n") and "sources.py" in wrong


def forks_of(address: str) -> list[psutil.Process]:
    """Return the stages that run now: forks of forks of a server."""
    return [
        stage
        for server in psutil.Process().children()
        if "pipeline.app.forkserver" in server.cmdline()
        for attending in server.children()
        for stage in attending.children()
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_client_and_stage(folder, address, sources, number):
    sources.write_text(SLOW)
    process = start(folder, address, "sources")
    assert process.stdout.readline() == "begun\n"
    [stage] = forks_of(address)
    process.send_signal(number)
    assert ended(process)[0] == (130 if number == signal.SIGINT else -number)
    psutil.wait_procs([stage], timeout=60)
    assert not stage.is_running()


def test_a_stages_own_death_is_the_clients(folder, address, sources):
    sources.write_text("import os\n\ndef main():\n    os.kill(os.getpid(), 9)\n")
    assert served(folder, address, "sources")[0] == -signal.SIGKILL


def test_without_an_answer_the_stage_runs_alone(folder, tmp_path, sources):
    sources.write_text("def main():\n    print('alone')\n")
    assert served(folder, str(tmp_path / "nothing"), "sources") == (0, "alone\n", "")


RUNNER = """
import subprocess, sys
from pipeline.app.forkserver import forkserver
with forkserver():
    subprocess.run([sys.executable, "-m", "pipeline", "sources"])
"""


def test_stages_end_when_their_repro_is_killed(folder, sources):
    sources.write_text("def main():\n    import os, time\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n")  # fmt: skip
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER], cwd=folder, stdout=subprocess.PIPE, text=True,
        env=environment() | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    stage = psutil.Process(int(runner.stdout.readline()))
    left = [stage, *stage.parents()[:2], *psutil.Process(runner.pid).children()]
    runner.kill()
    psutil.wait_procs(left, timeout=60)
    assert [process for process in left if process.is_running()] == []
