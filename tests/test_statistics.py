"""Hand-computed and planted answers for the further statistics: sensitivity, differences, budget, answers, flips, curves."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from polars.testing import assert_frame_equal
from scipy import stats

from pipeline.metrics.answers import answer_table
from pipeline.metrics.budget import at_budget, budget_table
from pipeline.metrics.curves import curve_table
from pipeline.metrics.differences import difference_table
from pipeline.metrics.flips import flip_measures, flip_table, steering_f1
from pipeline.metrics.regression import cluster_t, clustered_slope, own_slopes
from pipeline.metrics.scores import Evaluation
from pipeline.metrics.sensitivity import (
    mixed_slope,
    sensitivity_table,
    sign_flip_p,
    sign_patterns,
    two_way_slope,
    two_way_t,
)
from tests.test_metrics import PARAMS, make_items, table

DOSES = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]


def study(
    items: pl.DataFrame,
    log_odds,
    seeds=(0,),
    nll=lambda c: 0.1 * abs(c),
    mass=lambda r, c: 1.0,
    doses=DOSES,
):
    """Return one method's scores at the coefficients `doses`, and the base's at 0."""

    def rows(seed, coefficients):
        return [
            {"method": "m", "item_id": r["item_id"], "dilemma_id": r["dilemma_id"], "seed": seed, "coefficient": c,
             "log_odds": float(log_odds(r, c)), "choice_mass": mass(r, c), "nll": 1.0 + nll(c)}
            for r in items.to_dicts() for c in coefficients
        ]  # fmt: skip

    scores = [row for seed in seeds for row in rows(seed, doses)]
    return pl.DataFrame(scores), pl.DataFrame(rows(0, [0.0]))


def ask(base: pl.DataFrame, items: pl.DataFrame, **params) -> Evaluation:
    return Evaluation(base, items, "Value/truth", ["Value/lie"], PARAMS.model_copy(update=params))


def test_the_bell_mccaffrey_error_is_the_matrix_formula_with_all_fixed_effects():
    """Against the definition: adjust each dilemma's residuals by (I - H)^(-1/2), dummies of all items included."""
    rng = np.random.default_rng(0)
    parts = [
        table(rng.normal(0.2, 1, 1), size, rng).with_columns(dilemma_id=pl.lit(str(d)))
        for d, size in enumerate([1, 2, 5, 3])
    ]
    frame = pl.concat(parts).with_columns(item_id=pl.concat_str("dilemma_id", "item_id"))
    frame = frame.with_columns(pl.col("y") + pl.Series(rng.normal(size=frame.height)))
    dummies = frame["item_id"].to_dummies().to_numpy().astype(float)
    x = np.column_stack([frame["coefficient"], dummies])
    hat = x @ np.linalg.pinv(x)
    within = np.eye(len(x)) - dummies @ np.linalg.pinv(dummies)
    line = within @ frame["coefficient"].to_numpy()
    line, rest = line / (line @ line), np.eye(len(x)) - hat
    residual, variance, columns = rest @ frame["y"].to_numpy(), 0.0, []
    for name in frame["dilemma_id"].unique(maintain_order=True):
        own = (frame["dilemma_id"] == name).to_numpy()
        values, vectors = np.linalg.eigh(rest[np.ix_(own, own)])
        roots = np.where(values > 1e-9, values, np.inf) ** -0.5
        adjusted = line[own] @ (vectors * roots) @ vectors.T
        variance += float(adjusted @ residual[own]) ** 2
        columns.append(rest[:, own] @ adjusted)
    products = np.array(columns) @ np.array(columns).T
    found = clustered_slope(frame)
    assert found.stderr == pytest.approx(np.sqrt(variance))
    assert found.df == pytest.approx(np.trace(products) ** 2 / (products**2).sum())
    assert found.slope == pytest.approx(sm.OLS(frame["y"].to_numpy(), x).fit().params[0])


def test_equal_dilemmas_leave_the_one_sample_t_test():
    values = np.random.default_rng(1).normal(size=9)
    mean, error, degrees = cluster_t(values, np.full(9, 3.0))
    assert (mean / error, degrees) == pytest.approx((stats.ttest_1samp(values, 0).statistic, 8))


def test_sign_flips_count_all_patterns_where_they_are_few():
    signs, exact = sign_patterns(4, 1000, 0)
    values = np.array([1.0, 2.0, -0.5, 3.0])
    by_hand = np.mean(
        [abs(np.dot(s, values)) >= 5.5 - 1e-9 for s in itertools.product((1, -1), repeat=4)]
    )
    assert exact
    assert sign_flip_p(values, signs, exact) == by_hand == 4 / 16
    drawn, exact = sign_patterns(30, 4000, 0)
    values = np.random.default_rng(2).normal(0.35, 1, 30)
    assert not exact
    assert sign_flip_p(values, drawn, exact) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue, abs=0.02
    )
    assert sign_flip_p(np.ones(30), drawn, exact) == 1 / 4001


def test_the_mixed_model_on_a_balanced_table_is_the_t_statistic_of_the_dilemmas():
    rng = np.random.default_rng(3)
    frame = table(rng.normal(0.3, 1, 25), 2, rng)
    frame = frame.with_columns(pl.col("y") + pl.Series(rng.normal(0, 0.3, frame.height)))
    slopes = own_slopes(frame, "dilemma_id")["slope"].to_numpy()
    expected = 2 * stats.norm.sf(abs(slopes.mean()) / (slopes.std(ddof=1) / 5))
    assert mixed_slope(frame) == {"p_mixed": pytest.approx(expected, rel=1e-3), "mixed_note": None}


def test_a_mixed_model_without_an_answer_says_so():
    frame = table(
        np.random.default_rng(4).normal(0.3, 1, 10), 2, np.random.default_rng(4)
    )  # items of a dilemma do not differ
    found = mixed_slope(frame)
    assert found["p_mixed"] is None
    assert found["mixed_note"]


def test_two_ways_of_clustering_by_hand_and_the_width_of_few_seeds():
    slopes = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, 4.0]])  # dilemmas x seeds
    mean, error, degrees = two_way_t(slopes, np.ones(3))
    left = slopes - 3
    by_dilemma, by_seed = 3 / 2 * (left.sum(1) ** 2).sum() / 36, 2 * (left.sum(0) ** 2).sum() / 36
    both = 6 / 5 * (left**2).sum() / 36
    assert (mean, error, degrees) == pytest.approx(
        (3, np.sqrt(max(by_dilemma + by_seed - both, by_dilemma, by_seed)), 1)
    )
    rng = np.random.default_rng(5)
    frames = [table(np.linspace(0.1, 0.5, 8) + shift, 2, rng) for shift in (-0.6, 0.0, 0.6)]
    found = two_way_slope(frames)
    assert found.df == 2
    assert found.p > 0.1 > clustered_slope(frames[1]).p
    assert two_way_slope(frames[:1]) is None


def test_the_sensitivity_table_agrees_with_itself():
    items, rng = make_items(20), np.random.default_rng(6)
    noise = {str(d): rng.normal(0, 0.5) for d in range(20)}
    scores, base = study(
        items,
        lambda r, c: c * (0.3 + noise[r["dilemma_id"]]) * r["label_Value/truth"],
        seeds=(0, 1),
    )
    found = sensitivity_table({"good": scores}, ask(base, items))
    [unit] = found.to_dicts()
    assert unit["p_permutation"] == pytest.approx(unit["p_clustered"], abs=0.02)
    assert unit["p_two_way"] > unit["p_clustered"]
    # Mirrored items with one slope leave no variance within a dilemma.
    assert unit["mixed_note"] is not None


def test_two_methods_are_compared_on_the_same_dilemmas():
    items, rng = make_items(25), np.random.default_rng(7)
    shared = {str(d): rng.normal(0, 1.0) for d in range(25)}
    make = {  # both vary a lot between dilemmas; the difference hardly does
        name: lambda r, c, extra=extra: (
            c * (shared[r["dilemma_id"]] + extra) * r["label_Value/truth"]
        )
        for name, extra in (("weak", 0.0), ("strong", 0.1), ("same", 0.0))
    }
    studies = {name: study(items, log_odds) for name, log_odds in make.items()}
    found = difference_table(
        {name: scores for name, (scores, _) in studies.items()}, ask(studies["weak"][1], items)
    )
    rows = {(r["method"], r["other"]): r for r in found.to_dicts()}
    own = rows["weak", "strong"]
    effects = [
        1 / (1 + np.exp(-np.array([shared[str(d)] + extra for d in range(25)]))) - 0.5
        for extra in (0, 0.1)
    ]
    expected = stats.ttest_rel(*effects)
    limits = expected.confidence_interval(0.95)
    assert own["difference"] == pytest.approx(np.mean(effects[0] - effects[1]))
    assert own["p"] == pytest.approx(expected.pvalue)
    assert (own["ci_low"], own["ci_high"]) == pytest.approx(tuple(limits))
    assert own["p_holm"] == pytest.approx(min(1, 3 * own["p"]))
    assert rows["weak", "same"]["p"] == 1
    # In log-odds they differ by a tenth in every dilemma.
    assert own["difference_log_odds"] == pytest.approx(-0.1)
    assert own["p_holm_log_odds"] < 1e-6


def test_the_budget_is_read_off_the_first_crossing_and_never_extrapolated():
    costs = np.array([[0.0, 0.1, 0.3, 0.2], [0.0, 0.05, 0.1, 0.15], [0.0, -0.1, 0.2, 0.4]])
    values = np.array([[0.0, 1.0, 3.0, 9.0], [0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 8.0, 9.0]])
    assert at_budget(costs, values, 0.2) == pytest.approx([2.0, np.nan, 8.0], nan_ok=True)


def test_the_effect_at_an_nll_budget_with_its_interval():
    items, rng = make_items(30), np.random.default_rng(8)
    noise = {str(d): rng.normal(0, 0.3) for d in range(30)}
    scores, base = study(
        items, lambda r, c: c * (1 + noise[r["dilemma_id"]]) * r["label_Value/truth"]
    )
    up, down, both = budget_table({"good": scores}, ask(base, items, nll_budget=0.1)).to_dicts()
    at_one = scores.filter(pl.col("coefficient") == 1)
    signs = items["label_Value/truth"].to_numpy()
    expected = np.mean(signs * (1 / (1 + np.exp(-at_one["log_odds"].to_numpy())) - 0.5))
    assert (up["effect"], up["coefficient"], up["reached"]) == pytest.approx((expected, 1.0, 1.0))
    assert up["ci_low"] < up["effect"] < up["ci_high"]
    assert (down["effect"], both["effect"]) == pytest.approx((-expected, expected))
    nats = np.mean(signs * at_one["log_odds"].to_numpy())
    assert both["effect_log_odds"] == pytest.approx(nats)
    assert both["ci_low_log_odds"] < nats < both["ci_high_log_odds"]
    short = budget_table({"good": scores}, ask(base, items, nll_budget=0.3)).to_dicts()
    assert [row["effect"] for row in short] == [None] * 3
    assert "0.200 at most" in short[0]["reason"]
    prompt, _ = study(items, lambda r, c: c, doses=[-1.0, 1.0])
    asked = ask(base, items, nll_budget=0.05)
    no_size = budget_table({"prompt": prompt}, replace(asked, ungraded=["prompt"]))
    assert set(no_size["reason"]) == {"the coefficient has no size"}
    # One size is enough where it is one: the straight line from 0 to it.
    found = budget_table({"dial": prompt}, asked)["coefficient"]
    assert found[:2].to_list() == pytest.approx([0.5, 0.5])


def test_yes_bias_swap_consistency_and_the_gate_by_hand():
    items = make_items(4)
    honest, base = study(items, lambda r, c: 2 * r["label_Value/truth"])
    yes, _ = study(
        items,
        lambda r, c: 1.5,
        mass=lambda r, c: 0.1 if (c, r["dilemma_id"]) == (2.0, "1") else 1.0,
    )
    found = {
        (r["method"], r["coefficient"]): r
        for r in answer_table({"honest": honest, "yes": yes}, ask(base, items)).to_dicts()
    }
    untouched, steady, biased, gated = (
        found[key] for key in (("base", 0.0), ("honest", 1.0), ("yes", 1.0), ("yes", 2.0))
    )
    assert (untouched["swap_consistency"], untouched["yes_log_odds"]) == (1, 0)
    assert (steady["yes_shift"], steady["target_effect"]) == pytest.approx((0, 0))
    names = ("yes_shift", "yes_rate", "swap_consistency", "n_excluded")
    assert [biased[name] for name in names] == [1.5, 1, 0, 0]
    # The base is as honest, two nats; saying Yes to everything gives them up.
    changes = [row["target_effect_log_odds"] for row in (steady, biased)]
    assert changes == pytest.approx([0, -2])
    assert (gated["n_rows"], gated["n_excluded"]) == (8, 2)
    # Every dilemma has lost the same.
    assert gated["target_effect_answered"] == pytest.approx(gated["target_effect"])


def test_steering_f1_of_planted_flips():
    # Fixed 2/8, steady, broken 1/8, steady.
    target = np.array([[-3, -2, 1], [-1, 1, 2], [1, 1, -1], [-2, -4, -3]], dtype=float)
    off = np.array([[1, 1, -1], [3, 3, 3]], dtype=float)  # a quarter of the weight turns
    found = flip_measures(target, off, 2.0)
    assert (found["fixed"], found["broken"], found["off_target"]) == (0.25, 0.125, 0.25)
    net = 0.125
    precision = net / (net + 0.25)
    # The mass ratio counts as 1.
    assert found["steering_f1"] == pytest.approx(100 * 2 * precision * net / (precision + net))
    assert (found["flips"], found["off_target_flips"], found["focus"]) == (0.75, 0.5, 1.5)
    assert found["right_way"] == pytest.approx(2 / 3)
    assert steering_f1(0.1, 0.2, 0.0, 1.0) == 0
    assert flip_measures(target, off, None)["steering_f1"] is None
    assert flip_measures(target, off[:0], 1.0)["focus"] is None


def test_saying_yes_to_everything_earns_no_steering_f1_and_honesty_does():
    """With the double negation a yes-sayer scores wherever the value sits on the to_do side; with correct labels it breaks even."""
    items = pl.concat([make_items(6), make_items(4).with_columns(
        pl.concat_str(pl.lit("x"), "item_id").alias("item_id"), pl.concat_str(pl.lit("x"), "dilemma_id").alias("dilemma_id"),
        pl.lit(0).cast(pl.Int8).alias("label_Value/truth"), pl.lit(0).cast(pl.Int8).alias("label_Value/lie"),
    )])  # fmt: skip
    yes, base = study(items, lambda r, c: -0.5 + 2 * c)
    honest, _ = study(items, lambda r, c: -0.5 + 2 * c * r["label_Value/truth"])
    found = flip_table({"yes": yes, "honest": honest}, ask(base, items)).to_dicts()
    assert (found[0]["fixed"], found[0]["broken"], found[0]["steering_f1"]) == (0.5, 0.5, 0)
    assert found[0]["right_way"] == 0.5
    # All that was wrong is right, nothing else moves.
    assert found[1]["steering_f1"] == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert (found[1]["right_way"], found[1]["focus"], found[1]["off_target_flips"]) == (1, None, 0)


def test_control_items_take_the_place_of_off_target_rows_and_are_a_side_effect_of_their_own():
    items = make_items(6)
    scores, base = study(items, lambda r, c: (0.3 + c) * r["label_Value/truth"], seeds=(0, 1))
    tasks = make_items(2)
    moved, still = study(tasks, lambda r, c: 0.5 if c < 0 else 0.5 + 2 * c, seeds=(0, 1))
    named = [moved.with_columns(method=pl.lit("m")), still.with_columns(method=pl.lit("base"))]
    controls = pl.concat(named, how="diagonal")
    plain, told = (
        flip_table({"m": scores}, replace(ask(base, items), controls=rows)).to_dicts()[0]
        for rows in (None, controls)
    )
    assert plain["control_change"] is None
    assert (plain["off_target_flips"], plain["off_target"]) == (None, None)  # all are on target
    assert told["control_change"] == pytest.approx((0 + 2) / 2)
    assert (told["off_target_flips"], told["off_target"]) == (0, 0)  # they move, and none turns
    kept = ("fixed", "broken", "flips", "right_way")
    assert {name: told[name] for name in kept} == {name: plain[name] for name in kept}
    turned = controls.with_columns(pl.col("log_odds") - 1)
    after = flip_table({"m": scores}, replace(ask(base, items), controls=turned)).to_dicts()[0]
    assert (after["off_target_flips"], after["focus"]) == (1, after["flips"])


def test_the_shape_of_planted_curves():
    items = make_items(6)
    straight, base = study(
        items, lambda r, c: 0.5 * np.sign(c) * np.log1p(abs(c)) * r["label_Value/truth"]
    )
    bent, _ = study(
        items,
        lambda r, c: -abs(c) * r["label_Value/truth"],
        mass=lambda r, c: 0.1 if abs(c) == 2 else 1.0,
    )
    half, _ = study(
        items, lambda r, c: c * (1 if r["dilemma_id"] in "012" else -1) * r["label_Value/truth"]
    )
    cells = {"straight": straight, "bent": bent, "half": half}
    found = {row["method"]: row for row in curve_table(cells, ask(base, items)).to_dicts()}
    names = ("monotone", "spearman", "symlog_slope", "r2", "score")
    assert [found["straight"][name] for name in names] == pytest.approx([1, 1, 0.5, 1, 0.5])
    assert (found["bent"]["monotone"], found["bent"]["valid"]) == pytest.approx((0, 5 / 7))
    assert found["bent"]["symlog_slope"] == pytest.approx(0, abs=1e-12)
    assert (found["half"]["monotone"], found["half"]["spearman"]) == (0.5, None)


def test_methods_are_compared_at_one_whatever_else_was_scored():
    items = make_items(6)
    wide, base = study(items, lambda r, c: (c + c**3) * r["label_Value/truth"], seeds=(0, 1))
    unit = wide.filter(pl.col("coefficient").abs() == 1)
    for make in (sensitivity_table, flip_table, difference_table):
        both = (
            make({"m": s, "n": s.with_columns(pl.col("log_odds") * -1)}, ask(base, items))
            for s in (wide, unit)
        )
        assert_frame_equal(*both)
