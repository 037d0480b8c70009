"""The hashes of the code against what really runs, and DVC's reruns after an edit."""

import inspect
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.steering import METHODS
from pipeline.study.code import CALM, STAGES, Code, entry
from tests.conftest import ROOT, make_tiny
from tests.edits import change, find, move, redocument
from tests.project import Project, make_project, shrink

pytestmark = pytest.mark.slow
LEARNED = [name for name, method in METHODS.items() if method.learned]
PLAIN = [name for name in METHODS if name not in LEARNED]
GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
MATRIX = {"${methods}": LEARNED, "${baselines}": PLAIN, None: [None]}
CELLS = [
    (stage, method)
    for stage in GRAPH
    if stage in STAGES
    for method in MATRIX[GRAPH[stage].get("matrix", {}).get("method")]
]
MODULES = {
    str(file): ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "pipeline").rglob("*.py")
}


LAUNCHERS = ("pipeline.cli", "pipeline.stages.launch")


class Called:
    """Collects the project's definitions that run outside of the calm modules."""

    def __init__(self):
        self.codes: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        module = MODULES.get(code.co_filename)
        if event != "call" or code in self.codes or module in (None, *LAUNCHERS):
            return
        if not code.co_flags & inspect.CO_OPTIMIZED:  # a module or a class that is being made
            return
        callers = [frame]
        while callers[-1].f_back:
            callers.append(callers[-1].f_back)
        if not any(CALM.fullmatch(MODULES.get(f.f_code.co_filename, "")) for f in callers):
            self.codes.add(code)


def defined(code: CodeType, modules: Code) -> set[tuple[str, str]]:
    """Return the module and the names of the statement that holds a function, e.g. a lambda."""
    module, line = MODULES[code.co_filename], code.co_firstlineno
    if code.co_qualname != "<lambda>":
        return {(module, code.co_qualname.partition(".")[0])}
    return {
        (module, name)
        for name, statements in modules.module(module).statements.items()
        if any(one.lineno <= line <= one.end_lineno for one in statements)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("profiled")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "data/raw", folder / "data/raw")
    make_tiny(folder / "models/reference")
    shrink(folder / "params.yaml", LEARNED, PLAIN)
    return folder


def test_every_definition_that_runs_is_hashed(folder, monkeypatch):
    """One study with every method: what each cell calls is in the files that it depends on."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("INNERPISSA_TRACKING", "off")
    for name in MODULES.values():
        if not name.endswith("__main__"):
            import_module(name)  # what a module runs when it is imported is none of the calls
    import_module("pipeline.stages.code").main()
    code, missing = Code(), {}
    for stage, method in CELLS:
        wanted = [("stages", stage)]
        wanted += [("methods", method)] if method else []
        wanted += [("methods", "innerpissa")] if stage == "composition" else []
        wanted += [("evalsets", "reference")] if stage == "evalset" else []
        hashed = {key for each in wanted for key in code.closure(entry(*each))}
        command = GRAPH[stage]["cmd"].replace("${item.method}", str(method))
        words, called = command.replace("${item.seed}", "0").split()[3:], Called()
        sys.setprofile(called)
        try:
            CliRunner().invoke(app, words, catch_exceptions=False)
        finally:
            sys.setprofile(None)
        names = [defined(each, code) for each in called.codes]
        if left := [each for each in names if not each & hashed]:
            missing[stage, method] = left
        if (stage, method) == ("train", "innerpissa"):
            assert "cayley" in {name for each in names for _, name in each}
    assert missing == {}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp("reruns") / "project"
    project = make_project(folder, ["innerpissa"], ["mean_diff", "pca"])
    params = YAML().load(folder / "params.yaml")
    params["composition"]["behaviours"] = []
    YAML().dump(params, folder / "params.yaml")
    project.repro(INNERPISSA_TRACKING="off")
    return project


@pytest.mark.parametrize(
    ("edit", "reruns"),
    [
        (lambda root: redocument(find(root, "cayley")[0]), []),
        (lambda root: move(root, "cayley"), []),
        (lambda root: change(root, "tracked"), []),
        (lambda root: change(root, "Pca"), ["baselines@pca", "evaluate_baselines@pca"]),
        (lambda root: change(root, "clustered_slope"), ["effects"]),
    ],
)
def test_dvc_reruns_what_an_edit_concerns(project, edit, reruns):
    """The edits change no number, so that what reads the numbers alone need not run again."""
    edit(project.folder)
    assert sorted(project.repro(INNERPISSA_TRACKING="off")) == sorted(["code", *reruns])


def test_a_stage_by_hand_refuses_other_code_than_the_hashes_are_of(project):
    change(project.folder, "cayley")
    command = ("python", "-m", "pipeline", "train", "innerpissa", "0")
    said = project.run(*command, code=2, INNERPISSA_TRACKING="off")
    assert "innerpissa.json is of another version of the project: run `dvc repro code`" in said
