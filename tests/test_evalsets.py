"""Both evaluation sets, and DailyDilemmas in both schemas; real rows where they are at hand."""

import ast
import os
from pathlib import Path

import polars as pl
import pytest

from pipeline.evalsets import EVALSETS, daily_dilemmas, reference, tables
from pipeline.reference.world import held_out, law_log_odds, world
from pipeline.support.errors import InputError
from pipeline.support.schemas import check_items, labels
from pipeline.support.sections import DailyDilemmasParams, ReferenceParams

REAL = Path(
    os.environ.get("DAILY_DILEMMAS", Path(__file__).parents[2] / "shared/data/daily_dilemmas")
)
has_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real DailyDilemmas rows are not at hand: set DAILY_DILEMMAS"
)


def load(folder: Path, **changes) -> pl.DataFrame:
    section = DailyDilemmasParams(
        source=str(folder), revision="main", max_dilemmas=None
    ).model_copy(update=changes)
    return check_items(daily_dilemmas.build_items(section, "honesty"), "the items")


def test_the_registry_names_modules_with_a_builder():
    from importlib import import_module

    for name in EVALSETS:
        module = import_module(f"pipeline.evalsets.{name}")
        assert callable(module.build_items)
        assert callable(module.origin)


@pytest.fixture
def items():
    section = ReferenceParams(target_dilemmas=12, other_dilemmas=2, seed=0)
    return check_items(reference.build_items(section, "honesty"), "the items")


def test_reference_items_are_held_out_and_labelled(items):
    assert items["dilemma_id"].n_unique() == 12 + 2 * (len(world()["traits"]) - 1)
    assert items["prompt"].n_unique() == items.height
    first = items.filter(pl.col("dilemma_id") == "0")
    assert sorted(first["label_Value/honesty"]) == [-1, 1]
    assert (first["label_Value/honesty"] == -first["label_Value/deception"]).all()
    seen = [thing for thing in world()["objects"] if not held_out(thing, "honesty")]
    own_action = first["prompt"][0].split("Action: ")[1].split(" and ")[0]
    assert not any(own_action.endswith(thing) for thing in seen)


def test_the_oracle_is_the_law(items):
    by_side = {r["action_type"]: r for r in items.filter(pl.col("dilemma_id") == "0").to_dicts()}
    own, other = by_side["to_do"], by_side["not_to_do"]
    expected = law_log_odds(tuple(own["values"]), tuple(other["values"]), None)
    assert own["oracle_neutral"] == pytest.approx(expected) == -other["oracle_neutral"]
    assert own["label_Value/honesty"] * (
        own["oracle_positive"] - own["oracle_negative"]
    ) == pytest.approx(8.0)


def test_an_unknown_behaviour_is_refused():
    with pytest.raises(InputError, match="no persona of the reference world: there are honesty"):
        reference.build_items(ReferenceParams(target_dilemmas=2, other_dilemmas=0, seed=0), "charm")


@has_real
def test_real_rows_load():
    found = load(REAL)
    assert found.height == 8
    report = found.filter(pl.col("item_id") == "55-to_do").to_dicts()[0]
    assert report["label_Virtue/Truthfulness"] == 1
    assert report["label_Value/honesty"] == 1
    assert report["label_Value/tolerance"] == -1
    assert "Should you take initiative and report" in report["prompt"]
    frameworks = {name.split("/")[0] for name in labels(found)}
    assert frameworks == {"Value", "WVS", "MFT", "Virtue", "Emotion", "Maslow"}


def write_hub(folder: Path) -> None:
    """Two dilemmas in the three tables of the hub's dataset."""
    rows = [
        ("7", side, f"Someone asks about case {i}.", act)
        for i in (7, 8)
        for side, act in (("to_do", "Tell"), ("not_to_do", "Hide"))
    ]
    pl.DataFrame({
        "idx": [0, 1, 2, 3], "dilemma_idx": [7, 7, 8, 8], "dilemma_situation": [r[2] for r in rows],
        "action_type": [r[1] for r in rows], "action": [r[3] for r in rows], "values_aggregated": ["[]"] * 4,
    }).write_parquet(folder / "Dilemmas_with_values_aggregated.parquet")  # fmt: skip
    pl.DataFrame({
        "dilemma_idx": [7, 7, 7, 8, 8, 8], "action_type": ["to_do", "not_to_do", "to_do", "to_do", "not_to_do", "not_to_do"],
        "party": ["You", "You", "The boss", "You", "You", "You"], "value": ["Honesty, Trust", "Self", "Self", "Honesty", "Honesty", "Self"],
    }).write_csv(folder / "Action_to_party_to_value.csv")  # fmt: skip
    pl.DataFrame({
        "value": ["honesty", "trust", "self"], "WVS": [None, "Survival", None], "MFT": ["Fairness", "Loyalty", None],
        "Virtue": ["Truthfulness", None, None], "Emotion": ["trust", "trust", None], "Maslow": ["self-esteem"] * 3,
    }).write_csv(folder / "Values.csv")  # fmt: skip


def test_the_hubs_tables_load_and_only_the_agents_own_values_count(tmp_path):
    write_hub(tmp_path)
    found = {r["item_id"]: r for r in load(tmp_path).to_dicts()}
    assert found["7-to_do"]["values"] == ["honesty", "trust"]
    assert (
        found["7-to_do"]["label_Virtue/Truthfulness"]
        == 1
        == -found["7-not_to_do"]["label_Virtue/Truthfulness"]
    )
    assert found["7-to_do"]["label_Value/self"] == -1
    assert found["8-to_do"]["label_Value/honesty"] == 0  # on both sides


def hub_form(authors: pl.DataFrame, values: pl.DataFrame, folder: Path) -> Path:
    """Write the rows of the authors' CSV as the hub's three tables."""
    names = {"idx": "dilemma_idx"}
    rows = authors.rename(names).select("dilemma_idx", *ABOUT)
    rows.write_parquet(folder / "Dilemmas_with_values_aggregated.parquet")
    parties = [
        {"dilemma_idx": row["idx"], "party": party, "value": value} | {c: row[c] for c in ABOUT}
        for row in authors.iter_rows(named=True)
        for kind in daily_dilemmas.KINDS
        for party, value in zip(
            ast.literal_eval(row[f"parties_{kind}"]),
            ast.literal_eval(row[f"values_{kind}"]),
            strict=True,
        )
    ]
    pl.DataFrame(parties).write_csv(folder / "Action_to_party_to_value.csv")
    values.select("value", *daily_dilemmas.FRAMEWORKS.values()).write_csv(folder / "Values.csv")
    return folder


ABOUT = ["dilemma_situation", "action_type", "action"]


def check_same_labels(authors: pl.DataFrame, values: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Both forms of the same rows, the table of parties with situation and action, are alike."""
    authors.write_csv(folder / "detail.csv")
    found = load(folder)
    (folder / "hub").mkdir()
    (folder / "detail.csv").unlink()
    same = load(hub_form(authors, values, folder / "hub"))
    assert found.equals(same.select(found.columns))
    assert set(found.columns) == set(same.columns)
    return found


def test_both_schemas_label_the_agents_own_values_alike(tmp_path):
    write_hub(tmp_path)
    values = pl.read_csv(tmp_path / "Values.csv")
    rows = [
        ("to_do", "Tell", "['You', 'The boss']", "['Honesty, Zeal', 'Self']", "['You']", "['Trust']",
         "['honesty', 'self', 'trust']", "[nan, nan, 'Survival']", "['Fairness', nan, 'Loyalty']", "['Truthfulness', nan, nan]"),
        ("not_to_do", "Hide", "['You', 'You']", "['Self', \"Boss's pride\"]", "[]", "[]", "['self']", "[nan]", "[nan]", "[nan]"),
    ]  # fmt: skip
    columns = [
        "action_type", "action", "parties_direct", "values_direct", "parties_indirect", "values_indirect",
        "values_names", "wvs", "mft", "virtue",
    ]  # fmt: skip
    authors = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        idx=pl.lit("7"),
        dilemma_situation=pl.lit("Someone asks about case 7."),
        emotion=pl.Series(["['trust', nan, 'trust']", "[nan]"]),
        maslow=pl.Series(["['self-esteem', 'self-esteem', 'self-esteem']", "['self-esteem']"]),
    )
    (folder := tmp_path / "own").mkdir()
    found = {r["item_id"]: r for r in check_same_labels(authors, values, folder).to_dicts()}
    assert found["7-to_do"]["values"] == ["honesty", "trust"]
    assert found["7-to_do"]["label_Value/self"] == -1
    assert found["7-to_do"]["label_Virtue/Truthfulness"] == 1


@has_real
def test_both_schemas_label_the_real_rows_alike(tmp_path):
    file = REAL / "dilemmas_with_detail_by_action_test.csv"
    authors = pl.read_csv(file, infer_schema=False)
    assert check_same_labels(authors, pl.read_csv(REAL / "values.csv"), tmp_path).height == 8


def test_hidden_files_are_skipped_and_the_files_that_were_read_are_recorded(tmp_path):
    write_hub(tmp_path)
    (tmp_path / "._Values.csv").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints/Values-checkpoint.csv").write_text("damaged,\n1\n")
    assert load(tmp_path).height == 4
    section = DailyDilemmasParams(source=str(tmp_path), revision="main", max_dilemmas=None)
    about = daily_dilemmas.origin(section)
    assert (about["revision"], about["commit"]) == (None, None)
    assert sorted(about["sha256"]) == sorted(file.name for file in tmp_path.glob("[A-Z]*"))


def test_a_hub_snapshot_is_recorded_by_its_commit(tmp_path, monkeypatch):
    commit = "3" * 40
    (snapshot := tmp_path / "snapshots" / commit).mkdir(parents=True)
    write_hub(snapshot)
    asked = {}
    monkeypatch.setattr(
        tables, "snapshot_download", lambda *_, **how: asked.update(how) or snapshot
    )
    section = DailyDilemmasParams(source="some/set", revision="main", max_dilemmas=None)
    about = daily_dilemmas.origin(section)
    assert (about["source"], about["revision"], about["commit"]) == ("some/set", "main", commit)
    assert asked["revision"] == "main"


def test_max_dilemmas_keeps_whole_dilemmas(tmp_path):
    write_hub(tmp_path)
    assert load(tmp_path, max_dilemmas=1)["item_id"].to_list() == ["7-to_do", "7-not_to_do"]


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda t: t.rename({"action": "deed"}), "lacks action"),
    (lambda t: t.with_columns(action_type=pl.lit("maybe")), "must be to_do or not_to_do"),
    (lambda t: t.with_columns(dilemma_situation=pl.lit(" ")), "'dilemma_situation' holds ' '"),
    (lambda t: t.head(3), "one to_do and one not_to_do"),
    (lambda t: pl.concat([t, t]), "occurs twice"),
])  # fmt: skip
def test_bad_hub_tables_are_refused_by_name(tmp_path, spoil, said):
    write_hub(tmp_path)
    file = tmp_path / "Dilemmas_with_values_aggregated.parquet"
    spoil(pl.read_parquet(file)).write_parquet(file)
    with pytest.raises(InputError, match=said):
        load(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [("no/such/folder/here", "neither a folder nor reachable"), ("", "holds no CSV")],
)
def test_a_missing_source_is_refused(tmp_path, source, said):
    with pytest.raises(InputError, match=said):
        load(Path(source) if source else tmp_path)


def test_a_blank_source_is_no_folder():
    with pytest.raises(InputError, match="'' is neither a folder nor reachable on the hub"):
        tables.locate(DailyDilemmasParams(source="", revision="x", max_dilemmas=None), "it")
