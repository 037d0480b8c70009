"""Both evaluation sets, and DailyDilemmas in both schemas; real rows where they are at hand."""

import os
from pathlib import Path

import polars as pl
import pytest

from pipeline.evalsets import EVALSETS, daily_dilemmas, reference
from pipeline.reference.world import held_out, law_log_odds, world
from pipeline.study.sections import DailyDilemmasParams, ReferenceParams
from pipeline.support.errors import InputError
from pipeline.support.schemas import check_items, labels

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
        assert callable(import_module(f"pipeline.evalsets.{name}").build_items)


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


def test_both_schemas_of_one_dilemma_agree(tmp_path):
    write_hub(tmp_path)
    hub = load(tmp_path)
    authors = tmp_path / "authors"
    authors.mkdir()
    rows = [("to_do", "Tell", "['Honesty', 'trust']", "[nan, 'Survival']", "['Fairness', 'Loyalty']", "['Truthfulness', nan]"),
            ("not_to_do", "Hide", "['Self']", "[nan]", "[nan]", "[nan]")]  # fmt: skip
    pl.DataFrame({
        "idx": ["7", "7"], "dilemma_situation": ["Someone asks about case 7."] * 2, "action_type": [r[0] for r in rows],
        "action": [r[1] for r in rows], "values_names": [r[2] for r in rows], "wvs": [r[3] for r in rows], "mft": [r[4] for r in rows],
        "virtue": [r[5] for r in rows], "emotion": ["['trust', 'trust']", "[nan]"], "maslow": ["['self-esteem', 'self-esteem']", "['self-esteem']"],
    }).write_csv(authors / "detail.csv")  # fmt: skip
    found = load(authors)
    same = hub.filter(pl.col("dilemma_id") == "7").select(found.columns)
    assert found.equals(same)


def test_max_dilemmas_keeps_whole_dilemmas(tmp_path):
    write_hub(tmp_path)
    assert load(tmp_path, max_dilemmas=1)["item_id"].to_list() == ["7-to_do", "7-not_to_do"]


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda t: t.rename({"action": "deed"}), "lacks action"),
    (lambda t: t.with_columns(action_type=pl.lit("maybe")), "must be to_do or not_to_do"),
    (lambda t: t.with_columns(dilemma_situation=pl.lit(" ")), "empty 'dilemma_situation'"),
    (lambda t: t.head(3), "one to_do and one not_to_do"),
    (lambda t: pl.concat([t, t]), "occurs twice"),
])  # fmt: skip
def test_bad_hub_tables_are_refused_by_name(tmp_path, spoil, said):
    write_hub(tmp_path)
    file = tmp_path / "Dilemmas_with_values_aggregated.parquet"
    spoil(pl.read_parquet(file)).write_parquet(file)
    with pytest.raises(InputError, match=said):
        load(tmp_path)


def test_lists_that_do_not_parse_name_file_and_column(tmp_path):
    columns = [
        "idx",
        "dilemma_situation",
        "action_type",
        "action",
        "values_names",
        *daily_dilemmas.FRAMEWORKS,
    ]
    pl.DataFrame(
        [["1", "S", "to_do", "A", "honesty;trust", *["[]"] * 5]], schema=columns, orient="row"
    ).write_csv(tmp_path / "d.csv")
    with pytest.raises(InputError, match=r"d\.csv: column 'values_names' holds 'honesty;trust'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [("no/such/folder/here", "neither a folder nor reachable"), ("", "holds no CSV")],
)
def test_a_missing_source_is_refused(tmp_path, source, said):
    with pytest.raises(InputError, match=said):
        load(Path(source) if source else tmp_path)
