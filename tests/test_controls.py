"""Control items: sums and preferences without labels, scored beside a set and never as its items."""

import json
import operator
import re
import shutil

import polars as pl
import pytest

from pipeline.evalsets.controls import build_controls
from pipeline.support.errors import InputError
from pipeline.support.paths import CONTROLS
from pipeline.support.schemas import ITEMS, labels
from tests.conftest import ROOT, make_tiny
from tests.project import shrink
from tests.test_bad_input_stages import STAGES, arguments, edit, run

TABLES = ("scores", "controls")
SIGNS = {"+": operator.add, "-": operator.sub, "x": operator.mul}


def test_the_shipped_controls_are_40_sums_and_40_preferences_of_two_sides():
    found = build_controls(True, ROOT / CONTROLS)
    assert found.schema == pl.Schema(ITEMS)
    assert not labels(found)
    assert found["values"].value_counts().sort("count")["count"].to_list() == [80, 80]
    assert found["prompt"].is_unique().all()
    assert found["item_id"].is_unique().all()
    sides = found.group_by("dilemma_id").agg(pl.col("action_type").sort())
    assert sides["action_type"].to_list() == [["not_to_do", "to_do"]] * 80


def test_the_right_result_is_right_and_stands_on_either_side():
    table = pl.read_csv(ROOT / CONTROLS).filter(pl.col("kind") == "sum")
    assert table["right"].value_counts()["count"].to_list() == [20, 20]
    checked = 0
    for row in table.to_dicts():
        if sum_ := re.search(r"(\d+) ([-+x]) (\d+)", row["situation"]):
            result = SIGNS[sum_[2]](int(sum_[1]), int(sum_[3]))
            other = {"to_do": "not_to_do", "not_to_do": "to_do"}[row["right"]]
            assert f" {result}" in row[row["right"]]
            assert not re.search(rf"\b{result}\b", row[other])
            checked += 1
    assert checked >= 15


def test_a_set_without_controls_has_none():
    assert build_controls(False).is_empty()
    assert build_controls(False).schema == pl.Schema(ITEMS)


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "controls.csv"
    rows = "c,feeling,You sit.,Stand,Sit\n"
    file.write_text("id,kind,situation,to_do,not_to_do\n" + rows)
    with pytest.raises(InputError, match="row 1: column 'kind' holds 'feeling', must be sum or"):
        build_controls(True, file)
    file.write_text("id,kind,situation,to_do,not_to_do\n" + 2 * "c,sum,You sit.,Stand,Sit\n")
    with pytest.raises(InputError, match="row 2: column 'id' holds 'c', which an earlier row has"):
        build_controls(True, file)


def test_a_study_scores_controls_beside_the_set_and_counts_them_in_no_effect(tmp_path, monkeypatch):
    """The everyday set on a tiny random model, by the stages' own commands."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "data/raw", tmp_path / "data/raw")
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    make_tiny(tmp_path / "models/reference")
    shrink(tmp_path / "params.yaml", [], ["mean_diff"])

    def small(params) -> None:
        params.update(evalset="everyday")
        params["composition"].update(behaviours=[])
        params["scoring"].update(form="both")
        params["evalsets"]["everyday"].update(max_dilemmas=8)

    edit(tmp_path / "params.yaml", small)
    for stage in STAGES:
        if stage not in ("train", "evaluate"):
            assert run(monkeypatch, tmp_path, arguments(stage)) == 0
    about = json.loads((tmp_path / "data/items/source.json").read_text(encoding="utf-8"))
    assert (about["evalset"], about["split"]) == ("everyday", "report")
    assert (about["dilemmas"], about["controls"]) == (8, 160)
    for cell, count in (("base", 1), ("mean_diff", 2)):
        tables = [pl.read_parquet(tmp_path / f"data/scores/{cell}/{n}.parquet") for n in TABLES]
        assert [table.height for table in tables] == [2 * 16 * count, 2 * 160 * count]
        assert tables[1]["item_id"].str.contains("^(sum|preference)-").all()
        assert tables[0]["item_id"].str.contains(r"^\d+-").all()
    likelihood = pl.read_parquet(tmp_path / "data/scores/base/scores.parquet").filter(
        form="likelihood"
    )
    mirrored = likelihood.group_by("dilemma_id").agg(pl.col("log_odds").sum())
    assert mirrored["log_odds"].abs().max() < 1e-4 < likelihood["log_odds"].abs().min()
    effects = pl.read_csv(tmp_path / "reports/effects.csv")
    assert effects["n_dilemmas"].max() <= 8
    flips = pl.read_csv(tmp_path / "reports/flips.csv")
    assert (flips["control_change"] > 0).all()
    shown = pl.read_csv(tmp_path / "reports/tables/flips.csv")
    assert "Controls moved (nats)" in shown.columns
    equal = pl.read_csv(tmp_path / "reports/tables/equal_cost.csv")
    assert {"Effect", "Effect (log-odds)", "Effect (likelihood)"} <= set(equal.columns)
    page = (tmp_path / "reports/report.html").read_text(encoding="utf-8")
    assert "data/raw/everyday, 8 dilemmas" in page
