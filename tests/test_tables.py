"""The report's tables and names, from hand-made frames."""

import re
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest

from pipeline.metrics.study import FURTHER, analyse
from pipeline.report import tables
from pipeline.report.appendix import ablation, certificates, whole_methods
from pipeline.report.contents import TABLES, marked
from pipeline.report.figures.look import FREE, look_of, methods_of, style
from pipeline.report.figures.words import name_of, parent
from pipeline.report.page import ENTRIES
from pipeline.steering import METHODS
from pipeline.steering.base import Sign
from pipeline.support.formats import as_html, latex, markdown
from tests.test_metrics import make_items
from tests.test_statistics import ask, study

IN_BOTH = (
    "target_effect", "ci_low", "ci_high", "side_effect", "up", "down", "seed_sd", "seed_min",
    "seed_max",
)  # fmt: skip


def arm(method: str, effect: float, **more) -> dict:
    """Return a row of arms.csv or equal_cost.csv; its effects in log-odds are five times as large."""
    row = {
        "method": method, "n_seeds": 3, "coefficient": 1.0, "target_effect": effect, "ci_low": effect - 0.01, "ci_high": effect + 0.01,
        "side_effect": 0.02, "delta_nll": 0.1, "up": effect, "down": -effect, "coherent": True, "normalized_gain": 100 * effect,
        "oracle_share": None, "p_clustered": 0.2, "p_pooled": 0.3, "slope_clustered": 1.0, "choice_mass": 1.0, "n_dilemmas": 9,
        "seed_sd": 0.01, "raw_positive": 2.5, "raw_negative": 1.25, "cost_positive": 0.1, "cost_negative": 0.1, "calibrated": True,
        "budget_reached": True, **more,
    }  # fmt: skip
    return with_log_odds(row)


def with_log_odds(row: dict) -> dict:
    effects = {name: value for name, value in row.items() if name in IN_BOTH}
    return row | {f"{k}_log_odds": v if v is None else 5 * v for k, v in effects.items()}


def results(arms: list[dict], equal: list[dict], first: bool = False, **params) -> SimpleNamespace:
    """Stand in for Results with tables of arms alone."""
    rows = {"arms": arms, "equal_cost": equal}
    frames = {name: pl.DataFrame(own, infer_schema_length=None) for name, own in rows.items()}
    stub = SimpleNamespace(tables=frames, params=SimpleNamespace(**params))
    stub.log_odds_first, stub.n_random = first, 20
    return stub


def test_every_method_has_a_name_and_a_look_of_its_own():
    """Those without a look in their file as well."""
    names = {name_of(method) for method in METHODS}
    looks = [look_of(method) for method in METHODS]
    assert len(names) == len(METHODS) and not names & (set(METHODS) - {"prompting"})
    for drawn in ([*looks, *FREE], [look.colour for look in [*looks, *FREE]]):
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("method", "root", "words"), [
    ("lora", "lora", "LoRA"), ("lora_antiparallel", "lora", "LoRA, antiparallel"), ("mean_diff", "mean_diff", "mean difference"),
    ("mean_diff_late", "mean_diff", "mean difference, late"), ("prompting_engineered", "prompting", "prompting, engineered"),
])  # fmt: skip
def test_a_variants_name_and_look_come_from_its_method(method, root, words):
    assert parent(method) == root
    assert name_of(method) == words
    assert style(method)["color"] == METHODS[root].load().look.colour


def test_a_variant_with_a_free_name_can_be_drawn():
    frame = pl.DataFrame({"method": ["mine", "pca", "innerpissa"]})
    assert methods_of(frame)[:2] == ["innerpissa", "pca"]
    assert style("mine")["label"] == "mine"


def test_ablations_stand_under_their_whole_method(sections):
    methods = ["innerpissa", "antipasto", "lora", "lora_antiparallel", "innerpissa_norotation"]
    whole = whole_methods(methods, sections)
    assert whole == {
        "innerpissa": "innerpissa", "antipasto": "antipasto", "lora": "innerpissa", "lora_antiparallel": "antipasto",
        "innerpissa_norotation": "innerpissa",
    }  # fmt: skip
    effects = dict(zip(methods, (0.04, -0.02, 0.01, 0.02, 0.0), strict=True))
    arms = [arm(m, e) for m, e in effects.items()]
    equal = [arm(m, 2 * e) for m, e in effects.items()]
    table = ablation(results(arms, equal, methods=methods, steering=sections))
    assert table["Method"].to_list() == [
        "AntiPaSTO", "LoRA, antiparallel", "InnerPiSSA", "LoRA", "InnerPiSSA, norotation",
    ]  # fmt: skip
    assert table["Change"].to_list() == ["–", "+200 %", "–", "-75 %", "-100 %"]
    assert table["Effect"][0] == "-0.040"
    assert table["Effect (log-odds)"][0] == "-0.200"
    assert table["Change (log-odds)"].to_list() == table["Change"].to_list()
    assert whole_methods(["lora"], sections) == {}
    assert ablation(results(arms, equal, methods=methods[:2], steering=sections)).is_empty()


def test_the_results_table_is_at_equal_cost_and_says_where_the_budget_is_not_reached():
    arms = [
        arm("innerpissa", 0.04),
        arm("innerpissa", 0.05, coefficient=2.0),
        arm("prompting", 0.4),
    ]
    equal = [
        arm("innerpissa", 0.04, random_rank=3),
        arm("lora", 0.03, random_rank=4, cost_positive=0.02, budget_reached=False),
        arm(
            "prompting",
            0.4,
            random_rank=None,
            cost_positive=0.7,
            calibrated=False,
            budget_reached=False,
        ),
    ]
    found = results(arms, equal, behaviour="honesty")
    source = tables.source(found)
    assert source["Coeff"].to_list() == ["±1"] * 3
    assert source["at +c"].to_list() == ["0.400", "0.040", "0.030"]
    assert source["at −c"].to_list() == ["-0.400", "-0.040", "-0.030"]
    assert source["at +c (log-odds)"].to_list() == ["2.000", "0.200", "0.150"]
    summary = tables.summary(found)
    assert summary.columns == [
        "Method", "Effect (log-odds)", "95 % interval", "at +c", "at −c", "Effect (probability)",
        "Rank among 20 random directions", "p (clustered)", "Δ NLL", "Choice mass",
    ]  # fmt: skip
    assert summary.row(2)[:6] == (
        "LoRA (budget not reached)", "0.150", "[0.100, 0.200]", "0.150", "-0.150", "0.030",
    )  # fmt: skip
    assert marked(summary, ["LoRA"])["Method"][2] == "LoRA (budget not reached) (sign undecided)"
    equal_cost = tables.equal_cost(found)
    assert equal_cost["Rank among 20 random directions"].to_list() == ["–", "3", "4"]
    assert equal_cost["95 % interval (log-odds)"][1] == "[0.150, 0.250]"
    assert equal_cost["Raw +c / −c"].to_list() == ["no unit", "2.50 / 1.25", "2.50 / 1.25"]
    assert equal_cost["KL at +c / −c"].to_list() == [
        "0.700 / 0.100", "0.100 / 0.100", "0.020 / 0.100 (budget not reached)",
    ]  # fmt: skip


def test_log_odds_stand_first_on_real_models_and_say_which_method_is_best():
    def listed(first: bool) -> pl.DataFrame:
        equal = [
            arm(m, effect, random_rank=1) | {"target_effect_log_odds": nats}
            for m, effect, nats in (("pca", 0.2, 0.3), ("lora", 0.1, 0.9))
        ]
        return tables.equal_cost(results(equal, equal, first))

    assert listed(True)["Method"].to_list() == ["LoRA", "PCA"]
    assert listed(True).columns[1] == "Effect (log-odds)"
    assert listed(False)["Method"].to_list() == ["PCA", "LoRA"]
    assert listed(False).columns[1] == "Effect"


def test_single_seeds_stand_with_both_arms_and_a_single_fit_is_left_out():
    rows = [
        arm(method, effect, seed=seed, coefficient=c, side_effect=side)
        for method, seed, c, effect, side in (
            ("lora", "0", -1.0, -0.1, 0.02), ("lora", "0", 1.0, 0.3, 0.04), ("lora", "1", -1.0, 0.1, 0.0), ("lora", "1", 1.0, 0.1, 0.0),
            ("innerpissa", "0", 1.0, 0.1, 0.0), ("innerpissa", "0", -1.0, 0.1, 0.0), ("lora", "mean", 1.0, 0.2, 0.0),
        )
    ]  # fmt: skip
    stub = SimpleNamespace(tables={"effects": pl.DataFrame(rows)}, log_odds_first=False)
    table = tables.seeds(stub)
    assert table["Method"].to_list() == ["LoRA", "LoRA"]
    shown = ("0.200", "0.300", "[0.290, 0.310]", "-0.100", "[-0.110, -0.090]", "0.030", "0.100")
    assert table.row(0)[2:8] == shown[:-1]
    assert table["Δ NLL"][0] == shown[-1]
    assert table["Effect (log-odds)"][0] == "1.000"
    assert table["Effect"][1] == "0.000"


def test_tables_render_in_every_form():
    names = ("zero", "restored", "reload", "inverse", "orthogonal", "angle")
    row = dict(zip(names, (0.0, 0.0, 0.0, 1.25e-7, 2e-6, 0.5), strict=True))
    measured = {("innerpissa", 0): row, ("lora", 1): row | dict.fromkeys(names[3:])}
    signs = [Sign(True, None, 31.04, 2.0, -3.0), Sign(False, "no probes")]
    adapters = {cell: {"sign": s._asdict()} for cell, s in zip(measured, signs, strict=True)}
    table = certificates(SimpleNamespace(certificates=measured, adapters=adapters))
    assert table["t of the sign"].to_list() == ["31.0", "–"]
    assert table["t at −c"].to_list() == ["-3.0", "–"]
    assert table["Sign"].to_list() == ["decided", "undecided"]
    assert table["Largest angle (°)"].to_list() == ["28.6", "–"]
    assert table["|R(−c) − R(c)ᵀ|"].to_list() == ["1.2e-07", "–"]
    assert markdown(table).count("\n") == 4
    # Bars in names are escaped.
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown(table).splitlines()}) == 1
    assert r"$^\top$" in latex(table)
    assert "<td>0</td>" in as_html(table)


def test_the_further_statistics_are_shown_from_their_files(tmp_path):
    items = make_items(10)
    scores, base = study(
        items,
        lambda r, c: c * (0.5 + 0.1 * int(r["dilemma_id"])) * r["label_Value/truth"],
        seeds=(0, 1),
    )
    prompt, _ = study(items, lambda r, c: c, doses=[-1.0, 1.0])
    found = analyse(
        {"innerpissa": scores, "prompting": prompt},
        replace(ask(base, items, min_choice_mass=0.0), ungraded=["prompting"]),
    )
    assert set(found) > set(FURTHER) <= {entry["name"] for entry in ENTRIES}
    for name, table in found.items():
        table.write_csv(tmp_path / f"{name}.csv")
    read = {
        name: pl.read_csv(tmp_path / f"{name}.csv", infer_schema_length=None) for name in FURTHER
    }
    stub = SimpleNamespace(tables=read | {"arms": found["arms"]}, log_odds_first=False)
    shown = {name: TABLES[name](stub) for name in FURTHER}
    square = shown["differences"]
    assert square.columns == ["Method", "InnerPiSSA", "prompting"]
    one, other = (
        [float(part.strip("*()")) for part in cell.split()]
        for cell in (square["prompting"][0], square["InnerPiSSA"][1])
    )
    assert one == [-number for number in other]
    assert 0 < one[0] < one[1]  # in probability, then in nats
    assert set(shown["nll_budget"].filter(pl.col("Method") == "prompting")["Why not"]) == {
        "the coefficient has no size"
    }
    assert shown["sensitivity"]["its degrees of freedom"].to_list() == ["1", "–"]
    assert shown["curves"]["Monotone (%)"].to_list() == ["100.0", "0.0"]
    assert shown["answers"]["Method"][0] == "base model"
    assert shown["flips"]["Method"].to_list() == ["InnerPiSSA", "prompting"]
    for table in shown.values():
        assert as_html(table)
        assert not any("|" in column for column in table.columns)  # Markdown's own mark
