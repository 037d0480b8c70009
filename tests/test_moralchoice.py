"""MoralChoice: ten rules as labels, both actions, and the real files where they are at hand."""

import os
from pathlib import Path

import polars as pl
import pytest

from pipeline.evalsets import moralchoice
from pipeline.evalsets.moralchoice import RULES, imperative
from pipeline.study.behaviours import target_of
from pipeline.support.errors import InputError
from pipeline.support.schemas import check_items, labels
from pipeline.support.sections import MoralChoiceParams
from tests.conftest import ROOT

REAL = Path(os.environ.get("MORALCHOICE", ROOT.parent / "shared/data/moralchoice"))
has_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real MoralChoice files are not at hand: set MORALCHOICE"
)


def load(folder: Path, **changes) -> pl.DataFrame:
    section = MoralChoiceParams(
        source=str(folder), revision="main", max_dilemmas=None, ambiguity="both", skip_deception=0,
        rule=None, skip=0,
    )  # fmt: skip
    items = moralchoice.build_items(section.model_copy(update=changes), "honesty")
    return check_items(items, "the items")


def write(folder: Path, level: str, count: int, **cells: str) -> None:
    """Scenarios in which action 2 deceives, and in the high file raters do not agree on duty."""
    answers = {f"a{n}_{rule}": "No" for n in (1, 2) for rule in RULES} | {"a2_deceive": "Yes"}
    if level == "high":
        answers |= {"a1_duty": "No Agreement", "a2_duty": "Yes"}
    rows = [
        {"scenario_id": f"{level[0].upper()}_{i:03}", "ambiguity": level, "context": f"You work {i}.",
         "action1": "I tell my boss.", "action2": "I keep it from my boss."} | answers | cells
        for i in range(count)
    ]  # fmt: skip
    pl.DataFrame(rows).write_csv(folder / f"moralchoice_{level}_ambiguity.csv")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "low", 40)
    write(tmp_path, "high", 40)
    return tmp_path


def test_the_label_is_plus_one_for_the_action_that_keeps_the_rule(folder):
    found = load(folder)
    assert found.height == 160
    assert labels(found) == ["Rule/do not deceive"]  # no agreement is no label
    told = found["prompt"].str.contains("Action: Tell your boss.")
    assert (found["label_Rule/do not deceive"] == told.cast(pl.Int8) * 2 - 1).all()
    assert found.filter(told)["values"].to_list() == [["do not deceive"]] * 80
    assert found["prompt"][0].startswith("Should you take this action?")


def test_which_action_is_to_do_is_drawn_by_the_id(folder):
    found = load(folder)
    first = found.filter(pl.col("action_type") == "to_do")["prompt"].str.contains("Tell your boss")
    assert 0.3 < first.mean() < 0.7
    assert load(folder, ambiguity="low").equals(found.filter(pl.col("ambiguity") == "low"))


def test_ambiguity_and_what_has_been_looked_at_can_be_left_out(folder):
    assert set(load(folder, ambiguity="high")["ambiguity"]) == {"high"}
    assert load(folder, ambiguity="high")["dilemma_id"].n_unique() == 40
    fresh = load(folder, skip_deception=45)["dilemma_id"].unique()
    assert sorted(fresh) == [f"L_{i:03}" for i in range(5, 40)]  # ids sort high before low here
    few = load(folder, max_dilemmas=5)
    assert few["dilemma_id"].n_unique() == 5
    assert set(few["ambiguity"]) == {"low", "high"}


def test_scenarios_of_one_rule_follow_those_of_a_study_of_all_rules(folder):
    """`skip` leaves out just what a shorter study has had: no dilemma is in both, none is lost."""
    write(folder, "high", 40, a2_deceive="No")  # nothing deceives here
    first = load(folder, max_dilemmas=30)
    seen = first.filter(pl.col("label_Rule/do not deceive") != 0)["dilemma_id"].unique()
    fresh = load(folder, rule="deceive", skip=len(seen))["dilemma_id"].unique()
    assert 0 < len(seen) < 30
    assert sorted([*seen, *fresh]) == [f"L_{i:03}" for i in range(40)]


@pytest.mark.parametrize(("cells", "said"), [
    ({"ambiguity": "middling"}, "ambiguity.csv, row 1: column 'ambiguity' holds 'middling', must be low or high"),
    ({"a2_cheat": "yes"}, "row 1: column 'a2_cheat' holds 'yes', must be Yes or No or No Agreement"),
    ({"a1_death": " Yes"}, "row 1: column 'a1_death' holds ' Yes', must be Yes or No"),
    ({"ambiguity": "Low"}, "row 1: column 'ambiguity' holds 'Low', must be low or high"),
    ({"context": ""}, "row 1: column 'context' holds"),
    ({"scenario_id": ""}, "row 1: column 'scenario_id' holds"),
    ({"action2": " "}, "row 1: column 'action2' holds ' ', must hold text"),
    ({"scenario_id": "L_001"}, "occurs twice"),
])  # fmt: skip
def test_bad_cells_are_refused_by_file_row_and_column(tmp_path, cells, said):
    write(tmp_path, "low", 2, **cells)
    with pytest.raises(InputError, match=said):
        load(tmp_path)


def test_blanks_around_an_id_are_no_part_of_it(tmp_path):
    write(tmp_path, "low", 1, scenario_id=" L_000 ")
    assert set(load(tmp_path)["dilemma_id"]) == {"L_000"}


@pytest.mark.parametrize(("action", "said"), [
    ("I tell my boss.", "Tell your boss."),
    (" I do not mention that I was late to my wife.", "Do not mention that you were late to your wife."),
    ("I stay quiet and pretend I'm not bothered.", "Stay quiet and pretend you're not bothered."),
    ("I am calling in sick.", "You are calling in sick."),
    ("I keep it to myself if they ask me.", "Keep it to yourself if they ask you."),
    ("We implement the system.", "We implement the system."),
])  # fmt: skip
def test_actions_read_as_what_one_should_do(action, said):
    assert imperative(action) == said


@has_real
def test_the_real_files_load_and_hold_the_targets_of_five_behaviours():
    found = load(REAL)
    assert found["dilemma_id"].n_unique() == 687 + 680
    assert len(labels(found)) == 10
    assert (found["label_Rule/do not deceive"] == 1).sum() == 506
    for name in ("honesty", "fairness", "loyalty", "kindness", "diligence"):
        file = ROOT / "data/raw/behaviours" / f"{name}.yaml"
        label = target_of(file, "moralchoice", labels(found)).label
        right = found.filter(pl.col(f"label_{label}") == 1)["action_type"] == "to_do"
        assert 0.4 < right.mean() < 0.6
    assert load(REAL, skip_deception=64)["dilemma_id"].n_unique() == 687 + 680 - 64
