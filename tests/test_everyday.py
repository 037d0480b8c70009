"""The everyday set: schema, balance, uniqueness, vocabulary, splits; and what its section chooses."""

import ast
import csv
import itertools
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from pipeline.evalsets import everyday
from pipeline.evalsets.daily_dilemmas import AUTHORS, FRAMEWORKS
from pipeline.evalsets.rows import SIDES
from pipeline.study.behaviours import target_of
from pipeline.support.errors import InputError
from pipeline.support.paths import EVERYDAY
from pipeline.support.schemas import LABEL, check_items, labels
from pipeline.support.sections import EverydayParams
from tests.conftest import ROOT
from tests.test_evalsets import REAL, has_real

FOLDER = ROOT / EVERYDAY
WORDS = ("fairness", "kindness", "courage", "loyalty", "responsibility")
GIVEAWAY = re.compile(
    r"\b(li(e|es|ed|ar)|lying|truth\w*|\w*honest\w*|dece\w+|sincer\w*|false\w*|fake\w*|pretend\w*)\b",
    re.IGNORECASE,
)


def load(split: str = "all", most: int | None = None, folder: Path = FOLDER) -> pl.DataFrame:
    section = EverydayParams(split=split, max_dilemmas=most)
    return check_items(everyday.build_items(section, "honesty", folder), "the items")


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return pl.read_csv(FOLDER / "dilemmas.csv", infer_schema=False)


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    return load()


def one_sided(items: pl.DataFrame, label: str) -> pl.Series:
    """Return the side with the value, of each dilemma that has it on exactly one."""
    return items.filter(pl.col(LABEL + label) == 1)["action_type"]


def test_its_schema_is_that_of_dailydilemmas_with_a_split(table):
    further = ["basic_situation", "topic", "topic_group", "split"]
    assert sorted(table.columns) == sorted([*AUTHORS, *further])
    assert not table.null_count().sum_horizontal().item()
    assert (table["values_names"] == table["values_direct"]).all()
    assert (
        table.filter(pl.col("action_type") == "to_do")["dilemma_situation"].str.ends_with("?").all()
    )


def test_there_are_enough_dilemmas_on_both_sides_of_each_value(items):
    assert items["dilemma_id"].n_unique() >= 240
    honest = one_sided(items, "Virtue/Truthfulness")
    assert len(honest) >= 120
    assert abs((honest == "to_do").mean() - 0.5) < 0.02
    for word in WORDS:
        assert len(one_sided(items, f"Value/{word}")) >= 30
        assert 0.3 < (one_sided(items, f"Value/{word}") == "to_do").mean() < 0.7, word
    # Truthfulness never stands on both sides, where it would say nothing.
    carried = items.filter(pl.col(LABEL + "Virtue/Truthfulness") == 0)["values"].explode()
    assert not set(carried) & {"honesty", "truth", "truthfulness", "right to know"}


def test_the_words_of_the_actions_give_nothing_away(items):
    told = items.filter(pl.col(LABEL + "Virtue/Truthfulness") != 0)
    actions = told["prompt"].str.split("\nAction: ").list.last().to_list()
    assert not [action for action in actions if GIVEAWAY.search(action)]
    lengths = told.with_columns(words=pl.Series([len(action.split()) for action in actions]))
    right = lengths.filter(pl.col(LABEL + "Virtue/Truthfulness") == 1)["words"].mean()
    wrong = lengths.filter(pl.col(LABEL + "Virtue/Truthfulness") == -1)["words"].mean()
    assert abs(right - wrong) < 0.5


def test_no_two_situations_are_alike(table):
    situations = table["dilemma_situation"].unique(maintain_order=True).to_list()
    assert len(situations) * 2 == table.height
    words = [set(re.findall(r"[^\W\d_]{4,}", text.lower())) for text in situations]
    for one, other in itertools.combinations(words, 2):
        assert len(one & other) / len(one | other) < 0.25
    openings = Counter(" ".join(text.split()[:3]) for text in situations)
    assert max(openings.values()) <= 3
    lengths = [len(text.split()) for text in situations]
    assert min(lengths) >= 30
    assert max(lengths) <= 110


@has_real
def test_every_value_and_its_places_are_of_the_authors_vocabulary(table):
    with (REAL / "values.csv").open(encoding="utf-8") as file:
        known = {row["value"]: row for row in csv.DictReader(file)}
    for row in table.iter_rows(named=True):
        names = ast.literal_eval(row["values_names"])
        assert 2 <= len(names) <= 6
        assert len(set(names)) == len(names)
        for column, framework in FRAMEWORKS.items():
            places = ast.literal_eval(row[column].replace("nan", "None"))
            assert places == [known[name][framework] or None for name in names]


def test_the_splits_are_disjoint_and_balanced_alike(items):
    tune, report = load("tune"), load("report")
    ids = [set(part["dilemma_id"]) for part in (tune, report)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(items["dilemma_id"])
    assert 70 <= len(ids[0]) <= 90
    for part in (tune, report):
        assert part.group_by("dilemma_id").len()["len"].unique().to_list() == [2]
        assert abs((one_sided(part, "Virtue/Truthfulness") == "to_do").mean() - 0.5) < 0.03
    for word in WORDS:
        share = len(one_sided(tune, f"Value/{word}")) / len(one_sided(items, f"Value/{word}"))
        assert 0.25 < share < 0.42, word


def test_each_split_has_the_targets_of_the_behaviours():
    files = sorted((ROOT / "data/raw/behaviours").glob("*.yaml"))
    measured = [file for file in files if "  everyday:" in file.read_text(encoding="utf-8")]
    assert {"honesty", "fairness", "kindness", "courage", "loyalty"} <= {f.stem for f in measured}
    for split in ("tune", "report", "all"):
        names = labels(load(split))
        for file in measured:
            assert target_of(file, "everyday", names).label in names


def test_a_number_of_dilemmas_can_be_asked_for():
    few = load("report", 10)
    assert few["dilemma_id"].n_unique() == 10
    assert set(few["dilemma_id"]) < set(load("report")["dilemma_id"])


def test_the_section_and_a_damaged_split_are_refused(tmp_path, table):
    with pytest.raises(ValueError, match="'tune', 'report' or 'all'"):
        EverydayParams(split="test", max_dilemmas=None)
    table.with_columns(split=pl.lit("train")).write_csv(tmp_path / "dilemmas.csv")
    with pytest.raises(InputError, match="row 1: column 'split' holds 'train', must be tune or"):
        load(folder=tmp_path)


def test_the_card_counts_what_is_there(items):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = {"Truthfulness (a virtue)": "Virtue/Truthfulness"} | {w: f"Value/{w}" for w in WORDS}
    for name, label in rows.items():
        sides = one_sided(items, label)
        counts = " / ".join(str((sides == side).sum()) for side in SIDES)
        assert f"| {name} | {len(sides)} | {counts} |" in card
