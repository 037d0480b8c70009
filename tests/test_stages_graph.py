"""dvc.yaml against the code: dependencies complete, parameters declared."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.params import load_params, stage_params
from pipeline.steering import METHODS

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# What every stage runs through but no result depends on: parsing, paths, files, progress, tracking.
CALM = {
    "pipeline.errors", "pipeline.files", "pipeline.params", "pipeline.paths", "pipeline.progress", "pipeline.sections",
    "pipeline.tracking", "pipeline.stages.stage", "pipeline.stages.base", "pipeline.steering", "pipeline.evalsets", "pipeline.lm",
    "pipeline.stages", "pipeline.metrics", "pipeline.reference", "pipeline", "pipeline.schemas",
}  # fmt: skip
# Imported by a method but run only when it is fitted; evaluation depends on what the fit has made.
FIT_ONLY = {f"pipeline.steering.{name}" for name in ("contrast", "losses", "optimise", "orient")}
MODULE = {"base": "evaluate", "evaluate_baselines": "evaluate"}


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py" if path.is_dir() else None


def imports(file: Path) -> set[str]:
    """Return the project's modules that a file imports at run time (not for types alone)."""
    found = set()
    tree = ast.parse(file.read_text())
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            for name in node.names:
                submodule = f"{node.module}.{name.name}"
                found.add(submodule if file_of(submodule) else node.module)
    return found


def closure(module: str) -> set[str]:
    todo, seen = [module], set()
    while todo:
        current = todo.pop()
        if current in seen or current in CALM:
            continue
        seen.add(current)
        todo += imports(file_of(current))
    return seen


def declared(stage: str, method: str | None, evalset: str) -> set[Path]:
    fills = {"${item.method}": method or "", "${evalset}": evalset}
    found = set()
    for dep in STAGES[stage]["deps"]:
        for key, value in fills.items():
            dep = dep.replace(key, value)
        path = ROOT / dep
        found |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return found


def cells() -> list[tuple[str, str | None, str]]:
    learned = [name for name, method in METHODS.items() if method.learned]
    plain = [name for name in METHODS if name not in learned]
    by_stage = {"train": learned, "evaluate": learned, "baselines": plain, "evaluate_baselines": plain}
    return [(stage, method, "reference") for stage in STAGES for method in by_stage.get(stage, [None])] + [
        ("evalset", None, "daily_dilemmas")
    ]


@pytest.mark.parametrize(("stage", "method", "evalset"), cells())
def test_every_module_that_computes_is_a_dependency(stage, method, evalset):
    needed = closure(f"pipeline.stages.{MODULE.get(stage, stage)}")
    if method:
        needed |= closure(f"pipeline.steering.{METHODS[method].code.split(':')[0]}")
    if stage == "evalset":
        needed |= closure(f"pipeline.evalsets.{evalset}")
    if stage.startswith("evaluate"):
        needed -= FIT_ONLY
    missing = {file_of(module) for module in needed} - declared(stage, method, evalset)
    assert not missing, sorted(str(path.relative_to(ROOT)) for path in missing)


def test_every_dependency_exists():
    made = {
        out if isinstance(out, str) else next(iter(out))
        for stage in STAGES.values()
        for out in stage.get("outs", []) + stage.get("metrics", [])
    }
    for name, stage in STAGES.items():
        for dep in stage["deps"]:
            if "${" not in dep and not any(dep == out or out.startswith(dep + "/") or dep.startswith(out + "/") for out in made):
                assert (ROOT / dep).exists(), f"{name}: {dep}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_declared_parameters_exist(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load_params()
    item = {"method": (params.methods if stage in ("train", "evaluate") else params.baselines)[0], "seed": "0"}
    assert stage_params(stage, item)


def test_the_rank_concerns_training_alone():
    assert [name for name, stage in STAGES.items() if "rank" in stage["params"]] == ["train"]
