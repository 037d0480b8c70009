"""doctor: nothing wrong in a whole set-up, and every planted fault named with its remedy."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.app import doctor
from tests.conftest import ROOT
from tests.test_bad_input_stages import cut, edit
from tests.test_bad_input_stages import delete as delete_file

Usage = namedtuple("Usage", "total used free")
CHECKS = {check.__name__: check for check in doctor.CHECKS}


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A clone's files, committed, with an identity of its own."""
    folder = tmp_path_factory.mktemp("doctor") / "project"
    folder.mkdir()
    for name in ("pyproject.toml", "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    for name in ("data/raw", "models/reference"):
        shutil.copytree(ROOT / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "-q")
        git("config", "user.name", "Test")
        git("config", "user.email", "test@example.org")
        git("add", "-A")
        git("commit", "-qm", "start")
    return folder


@pytest.fixture
def here(template, tmp_path, monkeypatch) -> Path:
    """A copy to spoil, with only this Python's environment on the path and no settings of the user's."""
    folder = shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in (
        "MLFLOW_TRACKING_URI",
        "INNERPISSA_TRACKING",
        "GIT_COMMITTER_NAME",
        "GIT_COMMITTER_EMAIL",
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_a_whole_set_up_has_nothing_wrong(here, capsys):
    doctor.main()
    states = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert [name for state, name in states if state == "ok"] == list(CHECKS)
    assert "wrong" not in dict(states)


def test_doctor_imports_nothing_heavy(here):
    # On a machine with a GPU `auto` would ask torch.
    edit(here / "params.yaml", lambda params: params.update(device="cpu"))
    code = "import sys; from pipeline.app.doctor import main; main();"
    heavy = "print([m for m in ('transformers', 'mlflow', 'dvc') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "INNERPISSA_TRACKING": "off"}
    found = subprocess.run(
        [sys.executable, "-c", code + heavy],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_missing_package_is_a_finding_and_the_other_checks_go_on(here):
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'polars', 'transformers'));"
        "from pipeline.app.doctor import main; main()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment
    )
    assert done.returncode == 1, done.stderr
    for line in ("ok    packages", "ok    dvc", "wrong study", "ok    tracking"):
        assert f"{line} – " in done.stdout

    def broken() -> doctor.Rows:
        yield True, "well so far", ""
        raise ImportError("No module named 'torch'", name="torch")

    [finding] = doctor.examine(broken)
    assert finding.state == "wrong"
    assert "package torch cannot be loaded" in finding.said
    assert "pip install" in finding.remedy


@pytest.mark.parametrize("name", ["torch", "pydantic", "psutil", "packaging", "ruamel.yaml", "git"])
def test_doctor_names_the_missing_package_whichever_it_is(here, name, monkeypatch):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if name == "git":
        environment["PATH"] = "/nowhere"
    code = (
        f"import sys; sys.modules[{name!r}] = None; from pipeline.app import doctor; doctor.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment
    )
    assert done.returncode == 1, done.stderr
    assert name in done.stdout
    assert "Traceback" not in done.stderr


def test_a_locale_without_the_tables_characters_ends_no_command(here):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | locale | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "doctor"], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "–" in done.stdout.decode("utf-8")


def test_the_remedy_for_a_repository_of_another_owner_works(here, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    [found] = doctor.examine(doctor.repository)
    assert "belongs to another user" in found.said
    subprocess.run(found.remedy.strip("`"), shell=True, check=True)
    assert [found.state for found in doctor.examine(doctor.repository)] == ["ok"]


def replace(name: str, old: str, new: str):
    def spoil(folder: Path, patch) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return spoil


def delete(name: str):
    return lambda folder, _: delete_file(name)(folder)


def put(name: str, content: str):
    def spoil(folder: Path, patch) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return spoil


def variable(name: str, value: str):
    return lambda _, patch: patch.setenv(name, value)


def database(*statements: str):
    def spoil(folder: Path, patch) -> None:
        connection = sqlite3.connect(folder / "mlflow.db")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return spoil


def without_git(folder: Path, patch) -> None:
    shutil.rmtree(folder / ".git")
    patch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))


def conflict(folder: Path, patch) -> None:
    for branch, text in (("one", "1"), ("two", "2")):
        git("checkout", "-qb", branch, "HEAD" if branch == "one" else "HEAD~1")
        (folder / "params.yaml").write_text(text)
        git("commit", "-qam", branch)
    subprocess.run(["git", "merge", "one"], capture_output=True)


def shards(folder: Path, patch) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "models/reference/model.safetensors.index.json").write_text(json.dumps(index))


def qwen(folder: Path, patch, **changes) -> None:
    edit(
        folder / "params.yaml",
        lambda p: (p.update(model="qwen3-600m"), p["models"]["qwen3-600m"].update(changes)),
    )


FAULTS = [
    ("packages", replace("pyproject.toml", ">=3.11,<3.14", ">=3.99"), "wrong", r"python is .*, needed is >=3\.99", r"\.venv"),
    ("packages", delete("pyproject.toml"), "wrong", r"pyproject\.toml does not exist", "project's root"),
    ("packages", replace("pyproject.toml", "safetensors>=0.6", "safetensors>=99"), "wrong", r"safetensors is .*, needed is >=99", "pip install"),
    ("packages", replace("pyproject.toml", '"safetensors>=0.6', '"no-such-package>=1'), "wrong", "package no-such-package cannot be loaded", "pip install"),
    ("dvc", lambda _, patch: patch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(1, 1, 2**20)), "wrong", r"0\.0 GiB free", "dvc gc"),
    ("study", lambda _, patch: patch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**28)), "wrong", r"0\.2 GiB of memory free, needed are about 1\.0", "smaller"),
    ("study", replace("params.yaml", "device: auto", "device: abacus"), "wrong", "asks for 'abacus'", "device: auto"),
    ("study", replace("params.yaml", "device: auto", "device: spread"), "ok", "device spread", ""),
    ("repository", lambda _, patch: patch.setenv("PATH", "/nowhere"), "wrong", "git is not on the PATH", "install git"),
    ("repository", without_git, "wrong", "in no git repository", "git clone"),
    ("repository", lambda *_: git("update-ref", "-d", "HEAD"), "wrong", "has no commit", "git commit"),
    ("repository", lambda *_: git("config", "--unset", "user.email"), "wrong", r"user\.email not set", "git config user.email"),
    ("repository", conflict, "wrong", r"unresolved conflicts in params\.yaml", "git add"),
    ("repository", put(".git/index.lock", ""), "wrong", "locked", r"rm .*index\.lock"),
    ("repository", put("pipeline/new.py", ""), "note", r"not in git: pipeline/new\.py", "git add"),
    ("dvc", delete(".dvc/config"), "wrong", r"no \.dvc/config", r"git checkout \.dvc"),
    ("dvc", variable("PATH", "/usr/bin:/bin"), "wrong", "stages would run elsewhere, or not at all", "activate"),
    ("dvc", put(".dvc/cache", "a file"), "wrong", r"\.dvc/cache cannot be written", "dvc cache dir"),
    ("dvc", put(".dvc/config.local", "[cache]\n    dir = /proc/version/cache\n"), "wrong", "/proc/version/cache cannot be written", "dvc cache dir"),
    ("dvc", put(".dvc/tmp/rwlock", "{"), "wrong", "is damaged", r"rm \.dvc/tmp/rwlock"),
    ("dvc", put("data/scores/.base.new1999999999/half", ""), "note", r"1 half-written, such as data/scores/\.base\.new", "dvc repro"),
    ("dvc", put(".dvc/tmp/scratch/train@lora-0-0123456789abcdef/training-1.pt", "x" * 2**20), "note", r"1 keep 1\.0 MiB .*train@lora-0-0123", r"goes on; .* 30 days, or by `rm -r \.dvc/tmp/scratch`"),
    ("study", lambda f, _: edit(f / "params.yaml", lambda p: p.update(methods="innerpissa")), "wrong", r"methods: .*'innerpissa'.*-S 'methods=\[innerpissa\]'", "correct"),
    ("study", replace("params.yaml", "rank: 64", "rnak: 64"), "wrong", "Field required|rnak", "correct"),
    ("study", lambda f, _: cut("models/reference/model.safetensors")(f), "wrong", r"model\.safetensors is not whole", "git checkout models/reference"),
    ("study", delete("models/reference/model.safetensors"), "wrong", r"holds no \*\.safetensors", "copy"),
    ("study", delete("models/reference/tokenizer.json"), "wrong", r"holds no tokenizer\.json", "copy"),
    ("study", shards, "wrong", r"holds no model-2\.safetensors", "copy"),
    ("study", put("models/reference/._model.safetensors", "of a foreign system"), "ok", "models/reference", ""),
    ("study", qwen, "note", "no file or folder here", "downloads"),
    ("tracking", variable("INNERPISSA_TRACKING", "off"), "note", "off", "unset"),
    ("tracking", variable("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"), "wrong", "does not answer", "make ui"),
    ("tracking", variable("MLFLOW_TRACKING_URI", "./mlruns"), "wrong", "no server and no sqlite store", "unset"),
    ("tracking", variable("MLFLOW_TRACKING_URI", "sqlite:////proc/version/all.db"), "wrong", "cannot be written", "owner"),
    ("tracking", put("mlflow.db", "no database, but long enough to be looked at as one" * 40), "wrong", "is no database", "move"),
    ("tracking", database("create table alembic_version (version_num text)", "create table runs (a int)"), "wrong", "half-migrated", "move"),
    ("tracking", database("create table runs (a int)", "create table _alembic_tmp_latest_metrics (a int)"), "wrong", "half-migrated", "move"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "spoil", "state", "said", "remedy"),
    FAULTS,
    ids=[f"{i}-{fault[0]}" for i, fault in enumerate(FAULTS)],
)
def test_a_planted_fault_is_named_with_its_remedy(
    here, monkeypatch, check, spoil, state, said, remedy
):
    spoil(here, monkeypatch)
    findings = list(doctor.examine(CHECKS[check]))
    [found] = [found for found in findings if re.search(said, found.said)]
    assert found.state == state, found
    assert re.search(remedy, found.remedy), found


def test_every_check_has_a_planted_fault():
    assert {fault[0] for fault in FAULTS} == set(CHECKS)


def test_what_is_wrong_decides_the_exit_code_and_stands_in_the_table(monkeypatch, capsys):
    def odd() -> doctor.Rows:
        yield False, "[odd] markup", "wait", "note"

    def broken() -> doctor.Rows:
        yield False, "broken", "mend it"
        raise AssertionError("what is wrong ends a check")

    monkeypatch.setattr(doctor, "CHECKS", [odd])
    doctor.main()
    monkeypatch.setattr(doctor, "CHECKS", [odd, broken])
    with pytest.raises(SystemExit) as left:
        doctor.main()
    assert left.value.code == 1
    shown = capsys.readouterr().out
    assert "[odd] markup" in shown
    assert "mend it" in shown
