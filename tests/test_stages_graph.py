"""dvc.yaml and models/code against the code: what a change of the code, or of a number, reruns."""

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline import cli
from pipeline.evalsets import EVALSETS
from pipeline.steering import METHODS
from pipeline.study.code import STAGES, Code, entry
from pipeline.study.declared import stage_params
from pipeline.study.params import load_params
from pipeline.support.files import read_json
from tests.edits import change, move, redocument

ROOT = Path(__file__).parent.parent
GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
CELLS = [
    *(("stages", name) for name in STAGES),
    *(("evalsets", name) for name in EVALSETS),
    *(("methods", name) for name in METHODS),
]
LEARNED = {name for name, method in METHODS.items() if method.learned}
SCORED = {"base", "evaluate", "evaluate_baselines", "composition"}


def hashes(code: Code) -> dict[str, dict[str, str]]:
    return {name: code.hashes(entry(kind, name)) for kind, name in CELLS}


PROJECT = Code(ROOT)
BEFORE = hashes(PROJECT)


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    return tmp_path


def changed(copy: Path) -> set[str]:
    """Return the stages, evaluation sets and methods whose hashes an edited copy changes."""
    code = Code(copy)
    for name, module in PROJECT.modules.items():  # what is not edited need not be read again
        if (
            module
            and (copy / module.file.relative_to(ROOT)).read_bytes() == module.file.read_bytes()
        ):
            code.modules[name] = module
    after = hashes(code)
    return {name for name in BEFORE if BEFORE[name] != after[name]}


def test_comments_docstrings_and_the_order_of_imports_change_no_hash(copy):
    for file in (copy / "pipeline").rglob("*.py"):
        redocument(file)
    assert changed(copy) == set()


def test_a_function_that_moves_to_another_module_changes_no_hash(copy):
    move(copy, "cayley")
    assert changed(copy) == set()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cayley", {"innerpissa", "antipasto"}),
        ("AntiParallelLoss", LEARNED),
        ("Pca", {"pca"}),
        (
            "chat_text",
            {"model", "pairs", "checks", "composition", "base", "evaluate", "evaluate_baselines"},
        ),
        ("score", SCORED | {"checks"}),
        ("clustered_slope", {"effects"}),
        ("forest", {"report"}),
        ("p_value", {"report"}),
        ("write_cache", {"svd"}),
        ("draw_dilemma", {"reference", "composition"}),
        ("tracked", set()),
        ("load_params", set()),
    ],
)
def test_an_edited_definition_changes_exactly_what_uses_it(copy, name, expected):
    change(copy, name)
    assert changed(copy) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("reference/world.yaml", {"reference", "composition", "checks"}),
        ("report/page.html.jinja", {"report"}),
    ],
)
def test_data_beside_the_code_counts_for_what_reads_it(copy, file, expected):
    path = copy / "pipeline" / file
    path.write_text(path.read_text() + "\n# edited\n")
    after = hashes(Code(copy))
    assert {name for name in BEFORE if BEFORE[name] != after[name]} == expected


def test_a_methods_label_counts_for_the_report_alone(copy):
    file = copy / "pipeline/steering/methods/pca.py"
    old = file.read_text()
    file.write_text(old.replace('label = "PCA"', 'label = "components"'))
    assert file.read_text() != old
    assert changed(copy) == {"report"}


def test_a_further_method_changes_no_hash(copy):
    (copy / "pipeline/steering/methods/new.py").write_text("class New:\n    learned = False\n")
    registry = copy / "pipeline/steering/__init__.py"
    registry.write_text(registry.read_text() + "\nMETHODS['new'] = 'new:New'\n")
    assert changed(copy) == set()


HOUSE = {
    "start": """
import math as m
from house import tools
from house.tools import area as surface, Box
LIMIT = 2
TABLE = {}
TABLE['a'] = m.pi
def main(x: int, unused=LIMIT) -> float:
    '''Docstring.'''
    from house.late import late
    return surface(x) + tools.volume(x) + late() + TABLE['a'] + Box().side
def idle():
    return 0
""",
    "tools": """
from pathlib import Path
from house.base import Base
TEXT = Path(__file__).with_name('text.txt')
def area(x): return x * x
def volume(x):
    idle = area(x)
    return idle * x
def idle(): return 1
class Box(Base):
    side: int = 3
    def text(self): return TEXT
""",
    "base": "class Base:\n    def size(self): return helper()\ndef helper(): return 1\n",
    "late": "def late(): return other()\ndef other(): return 2\n",
}


@pytest.fixture
def house(tmp_path) -> Path:
    (tmp_path / "house").mkdir()
    (tmp_path / "house/__init__.py").touch()
    (tmp_path / "house/text.txt").write_text("text")
    for name, text in HOUSE.items():
        (tmp_path / f"house/{name}.py").write_text(text)
    return tmp_path


def test_names_are_followed_through_imports_attributes_bases_defaults_and_constants(house):
    found = Code(house).hashes("house.start.main")
    assert set(found) == {
        "main", "LIMIT", "TABLE", "area", "volume", "late", "other", "Box", "Base", "helper", "TEXT", "text.txt",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("start.py", "m.pi", "m.e", {"TABLE"}),
        ("start.py", "import math as m", "import cmath as m", {"TABLE"}),
        ("start.py", "import math as m", "import math as k", None),
        ("start.py", "area as surface", "volume as surface", {"main"}),
        ("start.py", "unused=LIMIT", "unused=3", {"main", "LIMIT"}),
        ("start.py", "x: int", "x: float", set()),
        ("start.py", "'''Docstring.'''", "'''Other.'''", set()),
        ("start.py", "return 0", "return 1", set()),
        ("tools.py", "side: int", "side: float", {"Box"}),
        ("tools.py", "return TEXT", "return 0", {"Box", "TEXT", "text.txt"}),
        ("tools.py", "def idle(): return 1", "def idle(): return 2", set()),
        ("base.py", "return 1", "return 2", {"helper"}),
        ("late.py", "return 2", "return 3", {"other"}),
        ("text.txt", "text", "other", {"text.txt"}),
    ],
)
def test_an_edit_shows_in_the_hashes_of_what_it_changes(house, file, old, new, expected):
    before, path = Code(house).hashes("house.start.main"), house / "house" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    if expected is None:
        path.write_text(path.read_text().replace("m.pi", "k.pi"))
    after = Code(house).hashes("house.start.main")
    assert {k for k in before | after if before.get(k) != after.get(k)} == (expected or set())


def test_what_cannot_be_followed_is_refused(house):
    (house / "house/base.py").write_text("from house.late import gone\nclass Base: at = gone\n")
    with pytest.raises(ValueError, match=r"house\.late\.gone is nowhere"):
        Code(house).hashes("house.start.main")
    (house / "house/base.py").write_text("class Base: at = open(__file__)\n")
    with pytest.raises(ValueError, match="reads a file beside it"):
        Code(house).hashes("house.start.main")


def test_the_dependencies_are_data_and_the_files_of_the_code():
    assert set(GRAPH) == {"code", "sources", *STAGES}
    assert GRAPH["code"]["deps"] == ["pipeline"]
    for name in STAGES:
        deps, matrix = GRAPH[name]["deps"], GRAPH[name].get("matrix", {})
        own = [dep for dep in deps if dep.startswith(("pipeline", "models/code"))]
        wanted = [f"models/code/stages/{name}.json"]
        wanted += ["models/code/methods/${item.method}.json"] if "method" in matrix else []
        wanted += ["models/code/evalsets/${evalset}.json"] if name == "evalset" else []
        wanted += (
            ["models/code/methods/${composition.method}.json"] if name == "composition" else []
        )
        assert sorted(own) == sorted(wanted)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_command_calls_its_entry(stage, monkeypatch):
    called = []
    for name in ("call", "in_processes"):
        monkeypatch.setattr(
            cli, name, lambda module, function, *_: called.append((module, function))
        )
    arguments = re.findall(r"\$\{item\.(\w+)\}", GRAPH[stage]["cmd"])
    values = ["0" if name == "seed" else "a" for name in arguments]
    assert CliRunner().invoke(cli.app, [stage.replace("_", "-"), *values]).exit_code == 0
    assert [f"pipeline.{module}.{name}" for module, name in called] == [entry("stages", stage)]


def test_the_stage_code_writes_hashes_and_sections(tmp_path, monkeypatch):
    from pipeline.stages.code import main

    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    main()
    params = load_params()
    for kind, name in CELLS[: -len(METHODS)]:
        assert read_json(tmp_path / f"models/code/{kind}/{name}.json") == {"code": BEFORE[name]}
    for name in [*params.methods, *params.baselines]:
        section = params.steering[name]
        written = read_json(tmp_path / f"models/code/methods/{name}.json")
        assert written["section"] == json.loads(json.dumps(section.model_dump()))
        assert written["code"] == BEFORE[section.method]


def test_every_dependency_exists():
    made = {
        out if isinstance(out, str) else next(iter(out))
        for stage in GRAPH.values()
        for out in stage.get("outs", []) + stage.get("metrics", [])
    }
    for name, stage in GRAPH.items():
        for dep in stage.get("deps", []):
            if "${" not in dep and not any(
                dep == out or out.startswith(dep + "/") or dep.startswith(out + "/") for out in made
            ):
                assert (ROOT / dep).exists(), f"{name}: {dep}"


@pytest.mark.parametrize("stage", GRAPH)
def test_the_declared_parameters_exist(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load_params()
    item = {
        "method": (params.methods if stage in ("train", "evaluate") else params.baselines)[0],
        "seed": "0",
    }
    assert stage_params(stage, item)


def test_the_rank_concerns_training_alone():
    assert [name for name, stage in GRAPH.items() if "rank" in stage["params"]] == [
        "train",
        "composition",
    ]


def test_the_quantisation_reaches_every_stage_that_runs_the_model_through_the_manifest():
    assert [name for name, stage in GRAPH.items() if "quantisation" in stage["params"]] == ["model"]
    assert all(
        "models/base" in stage.get("deps", [])
        for stage in GRAPH.values()
        if "device" in stage["params"]
    )
