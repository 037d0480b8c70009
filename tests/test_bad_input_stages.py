"""Bad files between the stages, by the command line itself: one sentence, exit code 2, nothing else touched."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from pipeline.cli import main
from tests.conftest import ROOT, make_tiny
from tests.project import shrink
from tests.refusals import check_sentence

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
CELL = {
    "train": "innerpissa",
    "evaluate": "innerpissa",
    "baselines": "mean_diff",
    "evaluate_baselines": "mean_diff",
}
ADAPTER, BASELINE = "models/adapters/innerpissa/seed0", "models/adapters/mean_diff/seed0"


def arguments(stage: str) -> list[str]:
    command = (
        STAGES[stage]["cmd"]
        .replace("${item.method}", CELL.get(stage, ""))
        .replace("${item.seed}", "0")
    )
    return command.split()[3:]


def run(monkeypatch, folder: Path, words: list[str]) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pipeline", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A project after all of its stages, run in this process."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "data/raw", folder / "data/raw")
    (folder / "pipeline").symlink_to(ROOT / "pipeline")
    make_tiny(folder / "models/reference")
    shrink(folder / "params.yaml", ["innerpissa"], ["mean_diff"])
    edit(folder / "params.yaml", lambda p: p["composition"].update(behaviours=[]))
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            assert run(patch, folder, arguments(stage)) == 0
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "project", symlinks=True)


def contents(folder: Path) -> dict[str, str]:
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and "pipeline" not in path.relative_to(folder).parts
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def edit(file: Path, change) -> None:
    """Change a YAML or JSON file's content."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    else:
        content = YAML().load(file)
        change(content)
        YAML().dump(content, file)


def delete(name: str):
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def cut(name: str):
    """Keep the first half of a file, as an interrupted copy does."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def change(name: str, how):
    return lambda folder: edit(folder / name, how)


def table(name: str, how):
    def spoil(folder: Path) -> None:
        how(pl.read_parquet(folder / name)).write_parquet(folder / name)

    return spoil


def tensors(name: str, how):
    def spoil(folder: Path) -> None:
        found = load_file(folder / name)
        how(found)
        save_file(found, folder / name, metadata={"format": "pt"})

    return spoil


def first(found: dict, ending: str) -> str:
    return next(key for key in found if key.endswith(ending))


def params(how):
    return change("params.yaml", how)


def other_model(folder: Path) -> None:
    make_tiny(folder / "models/reference", seed=1)


def charm(folder: Path) -> None:
    file = folder / "data/raw/behaviours/charm.yaml"
    shutil.copy(folder / "data/raw/behaviours/honesty.yaml", file)
    edit(file, lambda b: b.pop("targets"))


def charm_alone(folder: Path) -> None:
    charm(folder)
    edit(
        folder / "params.yaml",
        lambda p: (
            p.update(behaviour="charm"),
            p["evalsets"]["reference"].update(other_dilemmas=0),
        ),
    )


def charm_with_honesty(folder: Path) -> None:
    charm(folder)
    edit(folder / "params.yaml", lambda p: p["composition"].update(behaviours=["honesty", "charm"]))


def hub(**changes):
    return params(
        lambda p: (
            p.update(evalset="daily_dilemmas"),
            p["evalsets"]["daily_dilemmas"].update(changes),
        )
    )


PAIRS, ITEMS, SCORES = (
    "data/pairs/pairs.parquet",
    "data/items/items.parquet",
    "data/scores/innerpissa-seed0/scores.parquet",
)
WEIGHTS, STEERING = "models/reference/model.safetensors", f"{ADAPTER}/steering.safetensors"
DOWN = "models/svd/model.layers.1.mlp.down_proj.safetensors"
CASES = [
    ("model", cut("models/reference/config.json"), r"config\.json is not valid JSON: copy or download"),
    ("model", delete("models/reference/config.json"), r"holds no config\.json, so it is no model: name"),
    ("model", delete("models/reference/chat_template.jinja"), r"no chat template: take"),
    ("model", cut("models/reference/tokenizer.json"), r"the tokenizer in .* cannot be read \(.*: copy or download"),
    ("model", lambda f: [p.unlink() for p in (f / "models/reference").glob("token*")], r"holds no tokenizer: copy or download"),
    ("model", delete(WEIGHTS), r"holds no model\*\.safetensors: save"),
    ("model", params(lambda p: p["models"]["reference"].update(source="models/nowhere/at/all")), r"is neither a folder nor a hub id: correct"),
    ("model", delete("params.yaml"), r"params\.yaml does not exist: run from the project's root"),
    ("model", delete("dvc.yaml"), r"dvc\.yaml does not exist: run from the project's root"),
    ("model", write("dvc.yaml", ""), r"dvc\.yaml has no stage 'model': restore"),
    ("pairs", delete("models/base/manifest.json"), r"manifest\.json does not exist: run `dvc repro model`"),
    ("pairs", cut("models/base/manifest.json"), r"manifest\.json is not valid JSON \(.*: run `dvc repro model`"),
    ("pairs", change("models/base/manifest.json", lambda m: m.update(model="qwen")), r"is of 'qwen', params\.yaml says 'reference': run"),
    ("pairs", delete("data/raw/behaviours/honesty.yaml"), r"'honesty' has no file .*: take one of courage"),
    ("pairs", write("data/raw/suffixes/reference/world.json", "["), r"world\.json is not valid JSON"),
    ("pairs", params(lambda p: p["pairs"].update(calibration_share=0.01)), r"1 for calibration, both need 2: add"),
    ("svd", params(lambda p: p["modules"].update(from_depth=0.01, to_depth=0.02)), r"matches no linear module in the chosen layers.*, or widen modules\.from_depth"),
    ("svd", params(lambda p: p["modules"].update(target=["qproj"])), r"\['qproj'\] matches no linear module .*down_proj"),
    ("svd", params(lambda p: p["modules"].update(target="(")), r"no valid regex: "),
    ("svd", params(lambda p: p["modules"].update(n_modules=500)), r"n_modules 500 is above the \d+ modules that match: lower it"),
    ("svd", params(lambda p: p.update(device="abacus")), r"device 'abacus' cannot be used here: take auto"),
    ("svd", other_model, r"the weights in models/reference are now \w+, the manifest says \w+: run `dvc repro`"),
    ("evalset", charm_alone, r"behaviour 'charm' is no persona of the reference world: "),
    ("evalset", hub(source="nowhere/at/all"), r"'nowhere/at/all' is neither a folder nor reachable on the hub: connect"),
    ("composition", charm_with_honesty, r"composition\.behaviours: .*charm\.yaml has no target for 'reference', so no"),
    ("evalset", change("data/raw/behaviours/honesty.yaml", lambda b: b["targets"]["reference"].update(label="Value/candour")), r"'Value/candour' under targets is no label of 'reference': take one of Value/"),
    ("train", delete(PAIRS), r"pairs\.parquet does not exist: run `dvc repro pairs`"),
    ("train", cut(PAIRS), r"pairs\.parquet cannot be read as a table \(.*: run `dvc repro pairs`"),
    ("train", table(PAIRS, lambda t: t.drop("neutral")), r"pairs\.parquet has no column 'neutral'"),
    ("train", table(PAIRS, lambda t: t.with_columns(pair_id=pl.col("pair_id").cast(pl.String))), r"column 'pair_id' is String, must be Int64"),
    ("train", delete(DOWN), r"model\.layers\.1\.mlp\.down_proj is not in the SVD cache models/svd: run `dvc repro svd`"),
    ("train", cut(DOWN), r"down_proj\.safetensors cannot be read \(.*: run `dvc repro svd`"),
    ("train", params(lambda p: p.update(rank=65)), r"rank 65 is above the 64 cached singular"),
    ("train", delete("models/code/methods/innerpissa.json"), r"innerpissa\.json does not exist: name 'innerpissa' in methods"),
    ("train", cut("models/code/methods/innerpissa.json"), r"innerpissa\.json is not valid JSON|innerpissa\.json is of another version"),
    ("train", write("models/code/methods/innerpissa.json", "{}"), r"innerpissa\.json is of another version of the project: run"),
    ("base", delete("models/code/stages/base.json"), r"stages/base\.json does not exist: run `dvc repro code`"),
    ("base", change("models/code/stages/base.json", lambda c: c["code"].update(run_cells="0")), r"stages/base\.json is of another version of the project: run"),
    ("train mean_diff 0", lambda f: None, r"method 'mean_diff' is no learned one: "),
    ("train innerpisa 0", lambda f: None, r"innerpisa\.json does not exist: name 'innerpisa'"),
    ("baselines innerpissa", lambda f: None, r"method 'innerpissa' is a learned one: "),
    ("base", cut(ITEMS), r"items\.parquet cannot be read as a table \(.*: run `dvc repro evalset`"),
    ("base", table(ITEMS, lambda t: t.head(0)), r"items\.parquet holds no items: "),
    ("base", table(ITEMS, lambda t: t.head(3)), r"must have one to_do and one not_to_do row"),
    ("base", table(ITEMS, lambda t: t.drop(pl.selectors.starts_with("label_"))), r"has no label_"),
    ("evaluate", delete(f"{ADAPTER}/steering.json"), r"holds no steering\.json: fit the method first"),
    ("evaluate", cut(f"{ADAPTER}/steering.json"), r"steering\.json is not valid JSON"),
    ("evaluate", change(f"{ADAPTER}/steering.json", lambda s: s.update(method="magic")), r"the method 'magic', which is none of innerpissa.*: fit"),
    ("evaluate", change(f"{ADAPTER}/steering.json", lambda s: s.update(weights_sha256="b" * 64)), r"was fitted on weights bbbbbbbbbbbb of reference .*, this base model has \w+: load"),
    ("evaluate", change(f"{ADAPTER}/steering.json", lambda s: s.pop("metadata")), r"lacks weights_sha256, method, metadata or unit: fit"),
    ("evaluate", cut(STEERING), r"steering\.safetensors cannot be read \(.*: fit"),
    ("evaluate", delete(STEERING), r"steering\.safetensors cannot be read"),
    ("evaluate", tensors(STEERING, lambda t: t[first(t, ".U")].fill_(float("nan"))), r"tensor .*\.U is not finite: fit"),
    ("evaluate", tensors(STEERING, lambda t: t.update({first(t, ".scale"): torch.ones(3)})), r"do not fit together \(.*: fit"),
    ("evaluate", tensors(STEERING, lambda t: t.pop(first(t, ".S"))), r"do not fit together|fit the method again"),
    ("evaluate", tensors(STEERING, lambda t: t.update({k: v[:5].contiguous() for k, v in t.items() if k.endswith(".U")})), r"seed0 does not fit Qwen3ForCausalLM \(.*: fit"),
    ("evaluate_baselines", tensors(f"{BASELINE}/steering.safetensors", lambda t: t.update(vectors=torch.ones(2, 5))), r"seed0 does not fit Qwen3ForCausalLM \(.*: fit"),
    ("evaluate_baselines", change(f"{BASELINE}/steering.json", lambda s: s["metadata"].update(sites=["model.blocks.1", "model.blocks.2"])), r"does not fit Qwen3ForCausalLM"),
    ("effects", delete(SCORES), r"scores\.parquet does not exist: run `dvc repro effects`"),
    ("effects", cut(SCORES), r"scores\.parquet cannot be read as a table \(.*: run `dvc repro effects`"),
    ("effects", table(SCORES, lambda t: t.rename({"log_odds": "logratio"})), r"scores\.parquet has no column 'log_odds'"),
    ("effects", table(SCORES, lambda t: t.with_columns(nll=pl.lit(float("nan")))), r"column 'nll' holds null or not finite values: "),
    ("report", delete("reports/effects.csv"), r"effects\.csv does not exist: run `dvc repro effects"),
    ("report", write("reports/values.csv", ""), r"values\.csv cannot be read as a table"),
    ("report", cut(f"{ADAPTER}/certificate.json"), r"certificate\.json is not valid JSON \(.*: run `dvc repro train`"),
    ("report", cut(f"{ADAPTER}/history.parquet"), r"history\.parquet cannot be read as a table \(.*: run `dvc repro train`"),
    ("report", delete("reports/oracle.json"), r"oracle\.json does not exist: run `dvc repro effects`"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "spoil", "said"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_one_sentence_and_nothing_touched(folder, monkeypatch, capsys, stage, spoil, said):
    spoil(folder)
    before = contents(folder)
    capsys.readouterr()
    code = run(monkeypatch, folder, arguments(stage) if stage in STAGES else stage.split())
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1)
    check_sentence(errors[0].removeprefix("error: "), said)
    after = contents(folder)
    assert {name: digest for name, digest in after.items() if before.get(name) != digest} == {}
    assert before.keys() == after.keys()


def with_manifest(spoil):
    """Spoil the weights and let the manifest say so, as a model would that came broken."""

    def both(folder: Path) -> None:
        spoil(folder)
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        edit(folder / "models/base/manifest.json", lambda m: m.update(weights_sha256=digest))

    return both


@pytest.mark.parametrize(("spoil", "said"), [
    (cut(WEIGHTS), r"the weights in models/reference cannot be read \(.*: copy or download"),
    (tensors(WEIGHTS, lambda t: t.pop(first(t, "down_proj.weight"))), r"the weights in models/reference lack model\.layers\.0\.mlp\.down_proj\.weight: copy"),
    (tensors(WEIGHTS, lambda t: t.update({k: v[:, :5].contiguous() for k, v in t.items() if "down_proj" in k})), r"the weights in models/reference cannot be read"),
])  # fmt: skip
def test_weights_that_are_not_whole(folder, monkeypatch, capsys, spoil, said):
    with_manifest(spoil)(folder)
    assert run(monkeypatch, folder, ["svd"]) == 2
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    check_sentence(found[0].removeprefix("error: "), said)
