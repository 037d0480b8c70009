"""What a local source holds: every file that a reader could read, wherever it lies below the folder."""

import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.evalsets.tables import table_files
from pipeline.study import sources
from pipeline.study.sources import fingerprint
from pipeline.support.paths import resolve_source
from tests.conftest import ROOT


@pytest.mark.parametrize("name", [
    "rows.csv", "parts/more/rows.csv", "parts/rows.parquet", "model.safetensors", "tokenizer.json",
    "chat_template.jinja", "additional_chat_templates/rag.jinja", "merges.txt",
])  # fmt: skip
@pytest.mark.parametrize("large", [1, 1 << 26])
def test_a_changed_file_is_seen_though_its_size_and_time_stay(tmp_path, monkeypatch, name, large):
    monkeypatch.setattr(sources, "LARGE", large)
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("one", encoding="utf-8")
    about, before = file.stat(), fingerprint(str(tmp_path))
    assert before.keys() == {name}
    assert fingerprint(str(tmp_path)) == before
    file.write_text("two", encoding="utf-8")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert fingerprint(str(tmp_path)) != before


def test_every_table_that_is_read_is_looked_at_and_nothing_hidden(tmp_path):
    for name in ("a.csv", "deep/b.csv", "._a.csv", ".ipynb_checkpoints/a.csv", "deep/._b.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    read = {str(file.relative_to(tmp_path)) for file in table_files(tmp_path)}
    assert fingerprint(str(tmp_path)).keys() == read == {"a.csv", "deep/b.csv"}


def named(tree: dict, place: str = "") -> dict[str, str]:
    """Return each text in params.yaml that names a file or folder here, by its dotted key."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= named(value, f"{place}{key}.")
        elif isinstance(value, str) and resolve_source(value):
            found[f"{place}{key}"] = value
    return found


def test_only_sources_name_files_so_that_the_stage_sources_sees_them_all(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    stage = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["sources"]
    assert stage["always_changed"]
    assert {"model", "models.${model}", "evalset", "evalsets.${evalset}"} <= set(stage["params"])
    assert named(params).keys() <= {f"models.{name}.source" for name in params["models"]}
    keys = {
        key
        for section in params["evalsets"].values()
        for key in section
        if "/" in str(section[key])
    }
    assert keys == {"source"}
    assert Path(params["models"]["reference"]["source"]).name in str(named(params).values())
