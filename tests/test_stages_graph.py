"""dvc.yaml against the code: dependencies complete, parameters declared."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.steering import METHODS
from pipeline.study.code import closure, code_hashes, file_of
from pipeline.study.declared import stage_params
from pipeline.study.params import load_params

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# What every stage runs through but no result depends on: parsing, paths, files, progress, tracking.
CALM = frozenset({
    "pipeline.support.errors", "pipeline.support.files", "pipeline.study.declared", "pipeline.study.params", "pipeline.support.paths", "pipeline.support.progress", "pipeline.support.scratch", "pipeline.support.section", "pipeline.study.sections",
    "pipeline.study.store", "pipeline.study.tracking", "pipeline.support.usage", "pipeline.stages.stage", "pipeline.stages.base", "pipeline.steering", "pipeline.evalsets", "pipeline.lm",
    "pipeline.stages", "pipeline.support", "pipeline.study", "pipeline.scoring", "pipeline.steering.training", "pipeline.steering.methods", "pipeline.metrics", "pipeline.reference", "pipeline", "pipeline.support.schemas",
})  # fmt: skip
MODULE = {"base": "evaluate", "evaluate_baselines": "evaluate"}


def declared(stage: str, method: str | None, evalset: str) -> set[Path]:
    fills = {"${item.method}": method or "", "${evalset}": evalset}
    found: set[Path] = set()
    for dep in STAGES[stage]["deps"]:
        for key, value in fills.items():
            dep = dep.replace(key, value)
        path = ROOT / dep
        found |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return found


def cells() -> list[tuple[str, str | None, str]]:
    learned = [name for name, method in METHODS.items() if method.learned]
    plain = [name for name in METHODS if name not in learned]
    by_stage = {
        "train": learned,
        "evaluate": learned,
        "baselines": plain,
        "evaluate_baselines": plain,
    }
    return [
        (stage, method, "reference") for stage in STAGES for method in by_stage.get(stage, [None])
    ] + [("evalset", None, "daily_dilemmas")]


@pytest.mark.parametrize(("stage", "method", "evalset"), cells())
def test_every_module_that_computes_is_a_dependency(stage, method, evalset):
    needed = closure(f"pipeline.stages.{MODULE.get(stage, stage)}", ROOT, CALM)
    if stage == "evalset":
        needed |= closure(f"pipeline.evalsets.{evalset}", ROOT, CALM)
    missing = {file_of(module, ROOT) for module in needed} - declared(stage, method, evalset)
    assert not missing, sorted(str(path.relative_to(ROOT)) for path in missing)
    if method:
        assert ROOT / f"models/methods/{method}.json" in declared(stage, method, evalset)


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_file_hashes_its_own_code_and_what_that_imports(method):
    module = METHODS[method].code.split(":")[0]
    found = code_hashes(module, ROOT)
    assert f"pipeline/steering/methods/{module}.py" in found
    assert "pipeline/steering/base.py" in found
    assert ("pipeline/steering/training/optimise.py" in found) == METHODS[method].learned
    assert "pipeline/steering/__init__.py" not in found


def test_another_methods_code_changes_no_hash(tmp_path):
    import shutil

    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    before = {
        name: code_hashes(method.code.split(":")[0], tmp_path) for name, method in METHODS.items()
    }
    for name in ("dora", "pca"):
        file = tmp_path / f"pipeline/steering/methods/{name}.py"
        file.write_text(file.read_text() + "\n# changed\n")
    (tmp_path / "pipeline/steering/methods/new.py").write_text(
        "from pipeline.steering.base import Steering\n"
    )
    after = {
        name: code_hashes(method.code.split(":")[0], tmp_path) for name, method in METHODS.items()
    }
    assert {name for name in METHODS if before[name] != after[name]} == {"dora", "pca"}


def test_every_dependency_exists():
    made = {
        out if isinstance(out, str) else next(iter(out))
        for stage in STAGES.values()
        for out in stage.get("outs", []) + stage.get("metrics", [])
    }
    for name, stage in STAGES.items():
        for dep in stage["deps"]:
            if "${" not in dep and not any(
                dep == out or out.startswith(dep + "/") or dep.startswith(out + "/") for out in made
            ):
                assert (ROOT / dep).exists(), f"{name}: {dep}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_declared_parameters_exist(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load_params()
    item = {
        "method": (params.methods if stage in ("train", "evaluate") else params.baselines)[0],
        "seed": "0",
    }
    assert stage_params(stage, item)


def test_the_rank_concerns_training_alone():
    assert [name for name, stage in STAGES.items() if "rank" in stage["params"]] == [
        "train",
        "composition",
    ]


def test_the_quantisation_reaches_every_stage_that_runs_the_model_through_the_manifest():
    assert [name for name, stage in STAGES.items() if "quantisation" in stage["params"]] == [
        "model"
    ]
    assert all(
        "models/base" in stage["deps"] for stage in STAGES.values() if "device" in stage["params"]
    )
