"""Figures, examples and the page, on planted data."""

import re
from types import SimpleNamespace

import polars as pl
import pytest

from pipeline.metrics import drawn
from pipeline.metrics.effects import seed_effects
from pipeline.metrics.examples import AGAINST, LEAST, MOST, answers, examples, half_changes, pick
from pipeline.metrics.scores import Evaluation
from pipeline.report import figures, page
from pipeline.report.contents import marked
from pipeline.report.context import (
    ACTIONS,
    ahead,
    change,
    elicited,
    headline,
    known_side,
    left_out,
    said,
)
from pipeline.report.figures.look import Sheet, stacked
from pipeline.report.figures.words import name_of
from pipeline.report.manifest import cells, digest, locked
from pipeline.report.results import Results
from pipeline.study.params import load_params
from pipeline.support.formats import as_html, latex, markdown, number, with_minus, with_sign
from pipeline.support.schemas import MEAN, add_labels
from tests.conftest import ROOT
from tests.test_tables import arm, with_log_odds

REACH = {
    "innerpissa": 0.05,
    "antipasto_norotation": 0.03,
    "prompting": 0.5,
    "mean_diff": 0.01,
    "random": 0.0,
}
COEFFICIENTS = (-2.0, -1.0, 1.0, 2.0)
PARAMS = load_params(ROOT / "params.yaml")
RULES = PARAMS.report


def planted_effects() -> pl.DataFrame:
    rows = []
    for method, reach in REACH.items():
        for c in (-1.0, 1.0) if method == "prompting" else COEFFICIENTS:
            for seed, shift in (("0", -0.01), ("1", 0.01), (MEAN, 0.0)):
                effect = reach * c + shift
                rows.append(with_log_odds({
                    "method": method, "seed": seed, "coefficient": c, "target_effect": effect, "ci_low": effect - 0.01,
                    "ci_high": effect + 0.01, "delta_nll": 0.02 * abs(c), "choice_mass": 0.9, "answered": 0.75,
                    "seed_min": effect - 0.01 if seed == MEAN else None, "seed_max": effect + 0.01 if seed == MEAN else None,
                }))  # fmt: skip
    return pl.DataFrame(rows)


def planted() -> dict[str, pl.DataFrame]:
    arms = [
        arm(m, reach * c, coefficient=c, delta_nll=0.02 * c)
        for m, reach in REACH.items()
        for c in (1.0, 2.0)
    ]
    equal = [
        arm(
            m,
            r,
            calibrated=m != "prompting",
            budget_reached=m not in ("prompting", "s_space"),
            random_rank=1 if r > 0.02 else 3,
        )
        for m, r in REACH.items()
    ]
    values = [
        {"method": m, "label": f"Value/{label}", "coefficient": c, "change": 0.1 * c, "n_items": 9, "q": q, "change_log_odds": c / 2}
        for m in REACH for label, q in (("honesty", None), ("kindness", 0.01)) for c in (-1.0, 1.0)
    ]  # fmt: skip
    seeds = pl.DataFrame(
        {
            "method": ["innerpissa", "innerpissa", "random", "random"],
            "seed": [0, 1, 0, 1],
            "effect": [0.04, 0.06, 0.01, -0.02],
            "effect_log_odds": [0.2, 0.3, 0.05, -0.1],
        }
    )
    frames = {
        name: pl.DataFrame(rows, infer_schema_length=None)
        for name, rows in (("arms", arms), ("equal", equal), ("values", values))
    }
    return frames | {"effects": planted_effects(), "seeds": seeds}


def draw_all(folder) -> None:
    shown = planted()
    oracle = [
        {"coefficient": -1.0, "target_effect": -0.7, "target_effect_log_odds": -4.0},
        {"coefficient": 1.0, "target_effect": 0.3, "target_effect_log_odds": 1.5},
    ]
    effects, arms, equal = (shown[name] for name in ("effects", "arms", "equal"))
    sheet, nats_first = (Sheet(folder, "a caption", first) for first in (False, True))
    figures.effect_vs_coherence(sheet, arms, equal, effects, 0.2)
    figures.dose_response(nats_first, effects, oracle)
    figures.forest(sheet, equal, shown["seeds"])
    halves = drawn.value_halves(shown["values"], 1.0)
    order = drawn.most_moved(halves, "Value/honesty")
    figures.value_map(nats_first, halves, order, 1.0)
    counts = drawn.excluded_counts(effects, 200)
    figures.choice_mass(sheet, effects, counts, 200, 0.5)


def test_every_figure_names_its_methods_and_comes_out_the_same_twice(tmp_path):
    """Text is drawn as paths, so that fonts do not matter; matplotlib leaves each text as a comment beside them."""
    for folder in ("one", "two"):
        draw_all(tmp_path / folder)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 10
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    for file in (tmp_path / "one").glob("*.svg"):
        said = set(re.findall(r"<!-- (.*?) -->", file.read_text()))
        assert {name_of(method) for method in REACH} <= said, file.name
        assert any("a caption" in text for text in said)
        measures = [any(word in text for text in said) for word in ("probability", "log-odds")]
        assert all(measures) or file.stem == "choice_mass"
    counted = re.findall(r"<!-- (\d+) -->", (tmp_path / "one/choice_mass.svg").read_text())
    # A quarter of 200 items is excluded.
    assert counted.count("50") == sum(2 if method == "prompting" else 4 for method in REACH)
    drawn_text = (tmp_path / "one/effect_vs_coherence.svg").read_text()
    assert "<!-- budget of Δ NLL: 0.2 nats -->" in drawn_text


def test_training_curves_have_a_panel_per_method(tmp_path):
    history = pl.DataFrame(
        {"split": ["train", "train", "calibration"], "step": [1, 2, 2], "loss": [1.0, 0.5, 0.7]}
    )
    histories = {"lora": {0: history, 1: history}, "lora_antiparallel": {0: history}}
    figures.training_curves(Sheet(tmp_path, "a caption"), histories)
    said = re.findall(r"<!-- (.*?) -->", (tmp_path / "training.svg").read_text())
    assert {"LoRA", "LoRA, antiparallel", "seed 1"} <= set(said)


@pytest.mark.parametrize(("far", "axes"), [(0.1, 1), (0.5, 2)])
def test_a_far_value_gets_an_axis_of_its_own(far, axes):
    from matplotlib.figure import Figure

    assert len(stacked(Figure(), [0.05, -0.01], [0.05, -0.01, far])) == axes


@pytest.fixture
def dilemmas() -> pl.DataFrame:
    rows, carried = [], []
    for index in range(6):
        for action, carries in (("to_do", ["Value/honesty"]), ("not_to_do", ["Value/deceit"])):
            prompt = f"Situation {index}.\nAction: {action} of {index}"
            ids = {"item_id": f"{index}-{action}", "dilemma_id": str(index)}
            rows.append(ids | {"action_type": action, "prompt": prompt, "values": []})
            carried.append(carries)
    return add_labels(pl.DataFrame(rows, schema_overrides={"values": pl.List(pl.String)}), carried)


def scores(
    dilemmas: pl.DataFrame, moves: list[float], seeds: tuple[int, ...] = (0, 1)
) -> pl.DataFrame:
    """A reply that at c moves the log-odds of the honest side of dilemma i by c x moves[i]; base: even odds."""
    rows = [
        {
            "item_id": item["item_id"], "dilemma_id": item["dilemma_id"], "seed": seed, "coefficient": c,
            "log_odds": c * moves[int(item["dilemma_id"])] * (1 if item["action_type"] == "to_do" else -1),
            "choice_mass": 1.0, "nll": 1.0,
        }
        for item in dilemmas.to_dicts() for seed in seeds for c in (-1.0, 1.0)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def evaluation(dilemmas: pl.DataFrame) -> Evaluation:
    zero = {"coefficient": 0.0, "log_odds": 0.0, "choice_mass": 1.0, "nll": 0.0}
    base = dilemmas.select("item_id", "dilemma_id", **{k: pl.lit(v) for k, v in zero.items()})
    return Evaluation(base, dilemmas, "Value/honesty", [], PARAMS.statistics)


def test_the_examples_are_the_planted_extremes(dilemmas):
    moved = scores(dilemmas, [0.1, 3.0, -0.5, 0.0, 2.0, 1.0])
    found = examples("innerpissa", moved, evaluation(dilemmas), 1.0)
    kinds = [(example.kind, example.dilemma_id) for example in found]
    assert kinds == [(MOST, "1"), (MOST, "4"), (AGAINST, "2"), (LEAST, "3"), (LEAST, "0")]
    first = found[0]
    assert first.situation == "Situation 1."
    assert first.actions == {"not_to_do": "Action: not_to_do of 1", "to_do": "Action: to_do of 1"}
    sure = 1 / (1 + 2.718281828459045**-3)
    assert first.answers["coefficient"].to_list() == [-1, 0, 1]
    assert first.answers["to_do"].to_list() == pytest.approx([1 - sure, 0.5, sure])
    assert first.answers["not_to_do"].to_list() == pytest.approx([sure, 0.5, 1 - sure])
    assert first.answers["target_log_odds"].to_list() == pytest.approx([-3, 0, 3])
    assert first.change == pytest.approx(sure - 0.5)


def test_examples_do_not_claim_a_movement_that_is_not_there(dilemmas):
    still = answers(scores(dilemmas, [0.0] * 6), evaluation(dilemmas))
    assert {kind for kind, *_ in pick(half_changes(still, 1.0), 2)} == {LEAST}


def test_each_seed_stands_at_one_and_the_mean_is_left_out():
    rows = [
        arm("innerpissa", effect, seed=seed, coefficient=c)
        for seed, c, effect in (("0", 1.0, 0.3), ("0", -1.0, -0.1), ("0", 2.0, 0.9), ("0", -2.0, 0.0),
                                ("1", 1.0, 0.1), ("1", -1.0, 0.3), ("mean", 1.0, 5.0), ("mean", -1.0, 5.0))
    ]  # fmt: skip
    found = seed_effects(pl.DataFrame(rows))
    assert found["seed"].to_list() == ["0", "1"]
    assert found["effect"].to_list() == pytest.approx([0.2, -0.1])
    assert found["effect_log_odds"].to_list() == pytest.approx([1.0, -0.5])


@pytest.fixture
def text(tmp_path, dilemmas) -> str:
    table = pl.DataFrame({"Method": ["<b>InnerPiSSA</b>"], "Effect": ["0.1"]})
    shown = {
        name: table for name in ("source", "full", "values", "a_new_one", "examples", "summary")
    }
    moved = scores(dilemmas, [0.1, 3.0, -0.5, 0.0, 2.0, 1.0])

    class Dose:
        measure, budget = "kl", 0.1

    context = {
        "params": {
            "behaviour": "honesty", "evalset": "reference", "seeds": [0, 1],
            "generation": {"reasoning_tokens": 0, "coherence_tokens": 0}, "scoring": {"form": "both"}, "model": "tiny", "methods": ["innerpissa"],
            "statistics": {"nll_budget": 0.2, "coherent_share": 0.8},
        }, "manifest": {"model": "reference"},
        "synthetic": "All of it.", "target": "Value/honesty", "oracle": [], "unit": 1.0, "n_dilemmas": 6, "budget": Dose, "measure": "KL", "opposite": [], "ahead": 10.0, "unreached": ["S-space"], "undecided": "", "sure": 2.0, "change": change,
        "pair": None, "log_odds_first": False, "n_random": 2, "examples": examples("innerpissa", moved, evaluation(dilemmas), 1.0),
        "headline": headline(planted()["equal"], ["innerpissa"], planted()["seeds"], RULES, False), "setup": {"Model": "tiny"}, "name_of": name_of,
        "words": ACTIONS, "reproduction": {"commit": "abc"}, "manifest_text": "{}", "params_text": "model: <tiny>",
    }  # fmt: skip
    return page.render(shown, {"forest": "AAAA"}, context)


def test_the_page_stands_alone_and_every_table_names_its_source(text):
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert "http" not in text
    for name, source in (
        ("source", "arms.csv"),
        ("full", "arms.csv"),
        ("values", "values.csv"),
        ("a_new_one", None),
    ):
        block = text.split(f'id="table-{name}"')[1].split("<h3")[0]
        assert f'href="tables/{name}.csv"' in block
        assert source is None or f'href="{source}"' in block
    assert (
        text.count('<p class="from">Computed from') == 5
    )  # three tables, one figure, the examples
    assert "Further tables" in text
    assert "table-summary" not in text  # the page has it in full
    assert "A new one" in text


def test_the_page_escapes_and_describes(text):
    assert "<b>InnerPiSSA</b>" not in text
    assert "model: &lt;tiny&gt;" in text
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", text))
    assert "most moved against c (−0.122), dilemma 2" in text
    assert "Of the trained methods: InnerPiSSA, +0.050" in text
    assert "in probability; +0.250 [" in text and "nats of log-odds; Δ NLL" in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    assert anchors <= set(ids)


def test_a_method_without_a_known_sign_is_named_and_marked_in_every_table():
    signs = {("antipasto", 1): False, ("innerpissa", 0): True, ("lora", 0): False}
    adapters = {cell: {"sign": {"decided": decided}} for cell, decided in signs.items()}
    adapters["mean_diff", 0] = {"sign": None}
    undecided = Results.undecided.fget(SimpleNamespace(adapters=adapters))
    assert undecided == [("antipasto", 1), ("lora", 0)]
    [line] = left_out(undecided)
    assert line.endswith(": AntiPaSTO, seed 1; LoRA, seed 0.")
    assert left_out([]) == []
    table = pl.DataFrame({"Method": ["LoRA", "LoRA †", "InnerPiSSA"], "LoRA": ["1", "2", "3"]})
    found = marked(table, ["LoRA", "AntiPaSTO"])
    assert found.columns == ["Method", "LoRA (sign undecided)"]
    assert found["Method"].to_list() == [
        "LoRA (sign undecided)", "LoRA † (sign undecided)", "InnerPiSSA",
    ]  # fmt: skip


def test_the_headline_says_who_stands_out():
    equal, seeds = planted()["equal"], planted()["seeds"]
    assert ahead(equal, False) == ahead(equal, True) == pytest.approx(10)
    said = headline(equal, ["innerpissa"], seeds, RULES, False)
    assert any(
        "prompting, +0.500" in line and "10 times as much as the best" in line for line in said
    )
    rare = RULES.model_copy(update={"far_ahead": 11.0})
    assert not any("10 times" in line for line in headline(equal, [], seeds, rare, False))
    assert said[-3].startswith("As a control: random directions, 0.000")
    assert said[-2].startswith("Further than each of 2 random directions")
    assert said[-2].endswith("(−0.100 to +0.050 nats): InnerPiSSA; AntiPaSTO, norotation.")
    # Planted arms are even.
    assert said[-1].endswith(": InnerPiSSA; AntiPaSTO, norotation; mean difference.")
    only = headline(
        equal.filter(pl.col("method") == "innerpissa"), ["innerpissa"], seeds.clear(), RULES, True
    )
    assert len(only) == 2
    assert only[0].startswith("Of the trained methods: InnerPiSSA, +0.250")  # nats first


def test_both_arms_count_as_turned_from_a_quarter_of_the_stronger_on():
    arms = {
        "innerpissa": (0.12, 0.26),
        "lora": (0.4, -0.12),
        "dora": (0.4, -0.08),
        "pca": (-0.08, -0.4),
        "gradient": (0.12, -0.4),
    }
    equal = pl.DataFrame(
        [arm(m, 0.1, up=up, down=down, calibrated=True) for m, (up, down) in arms.items()]
    )
    line = headline(
        equal, ["innerpissa"], pl.DataFrame({"method": [], "effect": []}), RULES, False
    )[-1]
    assert line.endswith("the weaker arm at least 25 % of the stronger: LoRA; gradient direction.")


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.0004, "0.000"), (0.0004, "0.000"), (-0.0012, "-0.001"), (None, "–")]
)
def test_a_zero_has_no_sign(value, shown):
    assert number(value) == shown
    assert with_sign(value) == shown


def test_minus_signs_are_real_where_they_are_read_but_not_in_the_data():
    assert with_minus("[-0.1, -2] at -c 1.2e-07, two-way") == "[−0.1, −2] at -c 1.2e-07, two-way"
    table = pl.DataFrame({"Effect": ["-0.1"]})
    assert "<td>−0.1</td>" in as_html(table)
    assert "$-$0.1" in latex(table)
    assert "| -0.1 |" in markdown(table)


def test_limitations_concern_the_study(text):
    assert "10 times as far" in text
    assert "AntiPaSTO's loss" not in text
    assert "a gate" not in text


def test_a_dose_that_does_not_reach_the_budget_is_not_called_equal_cost_in_silence(text):
    equal = pl.DataFrame([
        arm("pca", 0.1, budget_reached=False), arm("lora", 0.1),
        arm("prompting", 0.1, calibrated=False, budget_reached=False),
    ])  # fmt: skip
    assert Results.unreached.fget(SimpleNamespace(tables={"equal_cost": equal})) == ["pca"]
    assert "S-space do not reach that cost" in " ".join(text.split())
    assert said("It", equal.row(0, named=True), False).endswith(
        "not reached: KL 0.100 / 0.100 at +c / −c"
    )
    assert "budget" not in said("It", equal.row(1, named=True), False)


def test_every_entry_of_the_page_has_a_group_and_a_source():
    assert {entry["group"] for entry in page.ENTRIES} <= set(page.GROUPS)
    assert all(entry["sources"] for entry in page.ENTRIES)
    assert len({entry["name"] for entry in page.ENTRIES}) == len(page.ENTRIES)


def test_the_lock_hash_is_of_this_study_before_its_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locked([], [], []) == {}
    lock = "schema: '2.0'\nstages:\n  report: {cmd: a}\n  effects: {cmd: b}\n  train@lora-0: {cmd: c}\n  train@lora-7: {cmd: d}\n"
    (tmp_path / "dvc.lock").write_text(lock)
    found = locked(["lora"], ["pca"], [0])
    assert set(found) == {"effects", "train@lora-0"}
    (tmp_path / "dvc.lock").write_text(
        lock.replace("cmd: a", "cmd: other").replace("cmd: d", "cmd: other")
    )
    assert digest(locked(["lora"], ["pca"], [0])) == digest(found)
    assert "baselines@pca" in cells(["effects"], ["lora"], ["pca"], [0])


def test_the_setup_says_how_far_the_personas_move_the_model_and_whether_that_is_little():
    few = {"persona_shift": 0.06, "few": 0.1}
    assert elicited(few | {"persona_shift": 0.2}).endswith("tokens by 0.200 nats per token")
    assert elicited(few).endswith("0.060 nats per token; below 0.1 a model hardly takes them up")


def test_the_setup_says_in_how_many_dilemmas_the_untouched_model_prefers_the_targets_side():
    assert known_side({"base_share": 0.4615}) == (
        "prefers the side with the target value in 46.2 % of those dilemmas; chance is 50 %"
    )
    assert "in 46.2 %, 52.0 % by likelihood of" in known_side(
        {"base_share": 0.4615, "base_share_likelihood": 0.52}
    )
