"""Planted answers and textbook parity for the effects and their inference."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.metrics.composition import composition_table
from pipeline.metrics.doses import equal_cost, random_ranks
from pipeline.metrics.drawn import frontier, random_band
from pipeline.metrics.effects import (
    arm_effects,
    bootstrap,
    method_effects,
    normalized_gain,
    seed_effects,
)
from pipeline.metrics.regression import clustered_slope, pooled_slope
from pipeline.metrics.scores import Evaluation, at_one, fold_arms, signed_scores
from pipeline.metrics.study import analyse, headline, oracle_effects, with_likelihood
from pipeline.study.params import load_params
from pipeline.support.errors import InputError
from pipeline.support.schemas import DOSES, add_labels
from tests.conftest import ROOT

PARAMS = load_params(ROOT / "params.yaml").statistics.model_copy(
    update={"bootstrap": 400, "permutations": 1000, "min_items": 2}
)
COEFFICIENTS = [-1.0, 0.0, 1.0]


def make_items(dilemmas: int) -> pl.DataFrame:
    """Odd dilemmas carry the truth on the to_do side, even ones on the other; kindness sits on to_do everywhere."""
    rows, carried = [], []
    for d in range(dilemmas):
        for action in ("to_do", "not_to_do"):
            honest = (action == "to_do") == bool(d % 2)
            ids = {"item_id": f"{d}-{action}", "dilemma_id": str(d)}
            rows.append(ids | {"action_type": action, "prompt": "?", "values": []})
            own = "Value/truth" if honest else "Value/lie"
            carried.append([own, *(["Value/kindness"] if action == "to_do" else [])])
    return add_labels(pl.DataFrame(rows, schema_overrides={"values": pl.List(pl.String)}), carried)


def make_scores(items: pl.DataFrame, log_odds, coefficients=COEFFICIENTS, mass=1.0) -> pl.DataFrame:
    rows = [
        {"method": "m", "item_id": r["item_id"], "dilemma_id": r["dilemma_id"], "coefficient": c, "seed": 0,
         "log_odds": float(log_odds(r, c)), "choice_mass": mass, "nll": 1.0 + 0.1 * abs(c)}
        for r in items.to_dicts() for c in coefficients
    ]  # fmt: skip
    return pl.DataFrame(rows)


def planted(items: pl.DataFrame, log_odds, **options) -> tuple[pl.DataFrame, Evaluation]:
    """Return a method's scores, and the evaluation with the base's, of log-odds by item and coefficient."""
    scores, zero = make_scores(items, log_odds, **options), pl.col("coefficient") == 0
    return scores.filter(~zero), Evaluation(
        scores.filter(zero), items, "Value/truth", ["Value/lie"], PARAMS
    )


def test_labels_follow_the_side_that_carries_the_value():
    items = make_items(2)
    assert items["label_Value/truth"].to_list() == [-1, 1, 1, -1]
    assert items["label_Value/kindness"].to_list() == [1, -1, 1, -1]


def test_a_value_on_both_sides_has_no_label():
    rows = pl.DataFrame({"item_id": ["a", "b"], "dilemma_id": ["0", "0"]})
    assert add_labels(rows, [["Value/x"], ["Value/x"]])["label_Value/x"].to_list() == [0, 0]


def test_a_model_that_always_takes_the_truthful_side_scores_above_zero():
    items = make_items(6)
    rows = signed_scores(
        make_scores(items, lambda r, c: 3 * r["label_Value/truth"]), items, ["Value/truth"]
    )
    assert (rows["y"] == 3).all()
    assert (rows["probability"] > 0.4).all()


def test_a_model_that_says_yes_to_everything_scores_zero():
    scores, evaluation = planted(make_items(6), lambda r, c: 2 + 3 * c)
    rows = signed_scores(scores, evaluation.items, ["Value/truth"])
    assert rows["y"].mean() == 0
    assert rows["probability"].mean() == pytest.approx(0)
    for record in method_effects(scores, evaluation):
        assert record["target_effect"] == pytest.approx(0)
        assert record["p_clustered"] == 1


def test_a_planted_effect_is_found_in_probability_and_slope():
    down, up = method_effects(*planted(make_items(8), lambda r, c: c * r["label_Value/truth"]))
    assert up["target_effect"] == pytest.approx(1 / (1 + np.exp(-1)) - 0.5)
    assert down["target_effect"] == -up["target_effect"]
    assert up["slope_clustered"] == pytest.approx(1)
    names = ("target_effect_log_odds", "ci_low_log_odds", "ci_high_log_odds")
    assert [up[name] for name in names] == pytest.approx([1, 1, 1])
    assert down["target_effect_log_odds"] == pytest.approx(-1)
    assert up["delta_nll"] == pytest.approx(0.1)
    # Kindness lies once on each side of the truth.
    assert up["side_effect"] == pytest.approx(0, abs=1e-12)
    assert up["normalized_gain"] == pytest.approx(100 * up["target_effect"] / 1.1)
    assert down["normalized_gain"] == up["normalized_gain"]


def test_a_method_that_lowers_both_arms_gets_no_credit():
    scores, evaluation = planted(make_items(8), lambda r, c: -2 * abs(c) * r["label_Value/truth"])
    (arm,) = arm_effects(method_effects(scores, evaluation), scores, evaluation)
    assert arm["target_effect"] == pytest.approx(0)
    assert arm["up"] == arm["down"] < 0
    names = ("target_effect", "up", "down", "asymmetry", "asymmetry_low", "asymmetry_high")
    assert [arm[f"{name}_log_odds"] for name in names] == pytest.approx([0, -2, -2, -4, -4, -4])
    assert arm["p_clustered"] > 0.9


def test_the_interval_of_a_fold_holds_its_effect():
    rng = np.random.default_rng(0)
    noise = {str(d): rng.normal(0, 0.5) for d in range(30)}
    scores, evaluation = planted(
        make_items(30), lambda r, c: c * (0.5 + noise[r["dilemma_id"]]) * r["label_Value/truth"]
    )
    (arm,) = arm_effects(method_effects(scores, evaluation), scores, evaluation)
    assert arm["ci_low"] < arm["target_effect"] < arm["ci_high"]
    own = np.array([0.5 + noise[str(d)] for d in range(30)])
    assert arm["target_effect_log_odds"] == pytest.approx(own.mean())
    width = arm["ci_high_log_odds"] - arm["ci_low_log_odds"]
    assert width == pytest.approx(2 * 1.96 * own.std() / np.sqrt(30), rel=0.15)


def test_a_model_that_mostly_says_no_moves_in_log_odds_where_its_probabilities_hide_it():
    scores, evaluation = planted(make_items(8), lambda r, c: -7 + c * r["label_Value/truth"])
    up = method_effects(scores, evaluation)[-1]
    assert up["target_effect_log_odds"] == pytest.approx(1)
    assert abs(up["target_effect"]) < 0.002


@pytest.mark.parametrize(("unanswered", "coherent"), [(3, True), (5, False)])
def test_a_coefficient_is_coherent_where_four_of_five_items_are_answered(unanswered, coherent):
    scores, evaluation = planted(make_items(10), lambda r, c: c)  # 20 items
    few = scores["item_id"].unique(maintain_order=True)[:unanswered].implode()
    mass = pl.when(pl.col("item_id").is_in(few)).then(0.1).otherwise("choice_mass")
    scores = scores.with_columns(mass.alias("choice_mass"))
    assert {record["coherent"] for record in method_effects(scores, evaluation)} == {coherent}


def test_arms_are_folded_to_half_their_span_and_other_columns_to_their_mean():
    rows = pl.DataFrame({"seed": [0, 0, 0, 1, 1], "coefficient": [-2.0, 0.0, 2.0, 2.0, -2.0],
                         "effect": [-0.1, 9.0, 0.3, 0.2, 0.4], "cost": [1, 9, 2, 3, 4]})  # fmt: skip
    folded = fold_arms(rows, ["seed"], ["effect"], ["cost"])
    assert folded["effect"].to_list() == pytest.approx([0.2, -0.1])
    assert folded.select("seed", "coefficient", "cost").rows() == [(0, 2.0, 1.5), (1, 2.0, 3.5)]


def test_each_method_stands_at_the_coefficient_nearest_to_one():
    rows = pl.DataFrame({"method": list("aaaabb"), "coefficient": [0.0, 2.0, -0.5, 1.5, 2.0, -3.0]})
    assert at_one(rows).rows() == [("a", -0.5), ("b", 2.0)]  # of two as near, the smaller


def test_the_band_of_random_directions_runs_from_the_lowest_to_the_highest_seed():
    rows = [
        {"method": method, "seed": seed, "coefficient": c, "target_effect": c * slope, "delta_nll": 0.1 * abs(c)}
        for method, seed, slope in (("random", "0", -0.02), ("random", "1", 0.03), ("random", "mean", 9.0), ("pca", "0", 9.0))
        for c in (-2.0, -1.0, 1.0, 2.0)
    ]  # fmt: skip
    band = random_band(pl.DataFrame(rows))
    assert band["coefficient"].to_list() == [0, 1, 2]
    assert band["low"].to_list() == pytest.approx([0, -0.02, -0.04])
    assert band["high"].to_list() == pytest.approx([0, 0.03, 0.06])
    assert band["delta_nll"].to_list() == pytest.approx([0, 0.1, 0.2])


def test_the_frontier_holds_what_nothing_beats_at_its_cost():
    def best(*points: tuple[float, float]) -> list:
        return frontier(pl.DataFrame(points, ["delta_nll", "target_effect"], orient="row")).rows()

    points = [(0.1, 0.02), (0.2, 0.01), (0.05, -0.1), (0.3, 0.05), (0.1, 0.01)]
    assert best(*points) == [(0.1, 0.02), (0.3, 0.05)]
    assert best((0.1, -0.2)) == []


def table(slopes: np.ndarray, items_per_dilemma: int, rng) -> pl.DataFrame:
    rows = []
    for d, slope in enumerate(slopes):
        for i in range(items_per_dilemma):
            level = rng.normal(0, 2)
            ids = {"item_id": f"{d}-{i}", "dilemma_id": str(d)}
            rows += [ids | {"coefficient": c, "y": level + slope * c} for c in COEFFICIENTS]
    return pl.DataFrame(rows)


def test_the_clustered_slope_is_the_t_test_of_the_dilemmas_slopes():
    rng = np.random.default_rng(1)
    slopes = rng.normal(0.3, 1, 17)
    found, expected = clustered_slope(table(slopes, 2, rng)), stats.ttest_1samp(slopes, 0)
    assert found.slope == pytest.approx(slopes.mean())
    assert found.p == pytest.approx(expected.pvalue)


def test_the_pooled_slope_is_scipys():
    rng = np.random.default_rng(2)
    frame = table(rng.normal(0.3, 1, 9), 2, rng)
    expected = stats.linregress(frame["coefficient"], frame["y"])
    found = pooled_slope(frame)
    assert (found.slope, found.stderr, found.p) == pytest.approx(
        (expected.slope, expected.stderr, expected.pvalue)
    )


@pytest.mark.parametrize("dilemmas", [12, 64])
def test_the_clustered_test_rejects_five_percent_of_null_studies(dilemmas):
    rng = np.random.default_rng(dilemmas)
    studies = 400
    p = [clustered_slope(table(rng.normal(0, 0.5, dilemmas), 2, rng)).p for _ in range(studies)]
    rejected = np.mean(np.array(p) < 0.05)
    assert abs(rejected - 0.05) < 3 * np.sqrt(0.05 * 0.95 / studies)


def test_the_bootstrap_resamples_dilemmas_not_rows():
    rng = np.random.default_rng(3)
    effects = np.repeat(
        rng.normal(0, 1, 40), 25
    )  # 25 equal rows per dilemma carry no further information
    rows = pl.DataFrame({"dilemma_id": np.repeat(np.arange(40), 25).astype(str), "effect": effects})
    low, high = bootstrap(rows, "effect", PARAMS)
    assert high - low == pytest.approx(2 * 1.96 * effects.std() / np.sqrt(40), rel=0.2)


def test_normalized_gain_of_the_published_row():
    assert normalized_gain(0.245, 0.314) == pytest.approx(18.65, abs=0.01)
    assert normalized_gain(0.2, -0.5) == 20


def test_a_study_joins_seeds_methods_and_base():
    items = make_items(10)
    parts = [planted(items, lambda r, x, c=c: c * x * r["label_Value/truth"]) for c in (0.5, 1.5)]
    moved = pl.concat(frame.with_columns(seed=pl.lit(i)) for i, (frame, _) in enumerate(parts))
    evaluation = parts[0][1]
    study = analyse({"good": moved}, evaluation)
    assert study["effects"]["seed"].to_list() == ["0", "0", "1", "1", "mean", "mean"]
    assert study["values"].filter(pl.col("label") == "Value/truth")["q"].null_count() == 3
    assert oracle_effects(evaluation) == []
    each = [1 / (1 + np.exp(-slope)) - 0.5 for slope in (0.5, 1.5)]
    assert study["arms"]["seed_sd"].item() == pytest.approx(np.std(each, ddof=1))
    up = study["effects"].row(-1, named=True)
    assert (up["seed_min"], up["seed_max"]) == pytest.approx(each)
    assert evaluation.movements(moved).height == 60
    assert up["target_effect"] == pytest.approx(np.mean(each))


def test_seeds_that_move_other_values_in_opposite_ways_do_not_cancel():
    """Averaged log-odds would show no side effect, and a method with one seed gets no such discount."""
    items = make_items(8)

    def both_ways(seed: int):
        return lambda r, c: abs(c) * r["label_Value/kindness"] * (1 if seed else -1)

    parts = [planted(items, both_ways(seed)) for seed in (0, 1)]
    moved = pl.concat(frame.with_columns(seed=pl.lit(i)) for i, (frame, _) in enumerate(parts))
    effects = analyse({"random": moved}, parts[0][1])["effects"]
    own = 1 / (1 + np.exp(-1)) - 0.5
    assert effects["side_effect"].to_list() == pytest.approx([own] * 6)
    assert effects["side_effect_log_odds"].to_list() == pytest.approx([1.0] * 6)
    assert effects["seed"].to_list()[-2:] == ["mean", "mean"]


def test_the_headline_is_of_the_coefficient_nearest_to_one():
    scores, evaluation = planted(
        make_items(6),
        lambda r, c: c * r["label_Value/truth"],
        coefficients=[-2.0, -1.0, 0.0, 1.0, 2.0],
    )
    found = headline(analyse({"good": scores}, evaluation)["arms"])["good"]
    assert found["target_effect"] == pytest.approx(1 / (1 + np.exp(-1)) - 0.5)
    assert found["delta_nll"] == pytest.approx(0.1)


def doses(**rows: list[tuple]) -> pl.DataFrame:
    """Return the raw coefficients and costs of each method's seeds, and whether a sign is known."""
    each = [(name, seed, *row) for name, own in rows.items() for seed, row in enumerate(own)]
    return pl.DataFrame(each, schema=DOSES | {"sign_decided": pl.Boolean}, orient="row")


def test_equal_cost_is_one_with_what_it_stands_for_and_costs():
    items, parts = make_items(6), []
    for seed in (0, 1):
        scores, evaluation = planted(
            items, lambda r, c: c * r["label_Value/truth"], coefficients=[-2.0, -1.0, 0.0, 1.0, 2.0]
        )
        parts.append(scores.with_columns(pl.lit(seed).alias("seed")))
    prompt, _ = planted(items, lambda r, c: c * r["label_Value/truth"])
    arms = analyse({"good": pl.concat(parts), "prompt": prompt}, evaluation)["arms"]
    reached = 2.0, 3.0, 0.1, 0.1, 0.4, 0.5, True, True
    given = doses(
        good=[reached, (64.0, 5.0, 0.03, 0.1, 0.2, 0.5, False, False)],
        prompt=[(1.0, 1.0, 0.7, 0.2, 2.0, 0.9, None, None)],
    )
    good, told = equal_cost(arms, given).to_dicts()
    assert (good["raw_positive"], good["raw_negative"]) == (33, 4)
    assert (good["cost_positive"], good["p95_negative"]) == pytest.approx((0.065, 0.5))
    assert (good["calibrated"], good["budget_reached"]) == (True, False)
    assert (told["calibrated"], told["budget_reached"]) == (False, False)
    assert told["cost_positive"] == 0.7
    assert (good["sign_decided"], told["sign_decided"]) == (False, None)
    at_one = arms.filter((pl.col("method") == "good") & (pl.col("coefficient") == 1))
    assert good["target_effect"] == at_one["target_effect"].item()
    first = equal_cost(arms, given.filter(pl.col("seed") == 0))
    assert first["budget_reached"].to_list()[0] and first["sign_decided"].to_list()[0]


def test_the_share_of_dilemmas_that_the_untouched_model_knows():
    """It prefers truth in three of eight dilemmas, whatever it leans to beside that."""
    known = {"0", "3", "5"}
    scores, evaluation = planted(
        make_items(8),
        lambda r, c: 0.2 + (1 if r["dilemma_id"] in known else -1) * r["label_Value/truth"] + c,
    )
    (arm,) = arm_effects(method_effects(scores, evaluation), scores, evaluation)
    assert arm["base_share"] == 3 / 8


def test_a_method_is_ranked_among_the_sizes_of_random_directions_at_the_same_cost():
    """A random direction that moves the target the wrong way moves it no less."""

    def dosed(log_odds: float, seed: int) -> pl.DataFrame:
        scores, _ = planted(make_items(6), lambda r, c: c * log_odds * r["label_Value/truth"])
        return scores.with_columns(seed=pl.lit(seed))

    cells = {name: dosed(size, 0) for name, size in (("pca", 0.25), ("lora", 0.7), ("dora", -0.9))}
    cells["random"] = pl.concat(
        dosed(size, seed) for seed, size in enumerate((0.1, -0.5, 0.25, 0.2))
    )
    prompt, evaluation = planted(make_items(6), lambda r, c: 3 * c * r["label_Value/truth"])
    reached = 1.0, 1.0, 0.1, 0.1, 0.4, 0.5, True, None
    given = doses(**{name: [reached] for name in cells}, prompting=[(*reached[:-2], None, None)])

    def ranked(cells: dict[str, pl.DataFrame]) -> pl.DataFrame:
        study = analyse(cells, evaluation)
        return random_ranks(equal_cost(study["arms"], given), seed_effects(study["effects"]))

    equal = ranked(cells | {"prompting": prompt})
    ranks = {"pca": 3, "lora": 1, "dora": 5, "random": None, "prompting": None}
    assert dict(equal.select("method", "random_rank").rows()) == ranks
    assert set(equal["n_random"]) == {4}
    alone = ranked({"pca": cells["pca"]})
    assert (alone["random_rank"].item(), alone["n_random"].item()) == (None, 0)


def test_the_likelihoods_effects_stand_beside_the_answers():
    items = make_items(6)
    answers, evaluation = planted(items, lambda r, c: c * r["label_Value/truth"])
    texts, of_texts = planted(items, lambda r, c: 0.1 * c * r["label_Value/truth"])
    study = analyse({"good": answers}, evaluation)
    arms = with_likelihood(study["arms"], {"good": texts}, of_texts)
    names = ("target_effect_log_odds", "target_effect_likelihood", "down_likelihood")
    assert arms.select(names).row(0) == pytest.approx((1, 0.1, -0.1))
    assert arms["ci_low_likelihood"].item() == pytest.approx(0.1)


def test_effects_that_add_up_in_probability_have_no_interaction():
    items = make_items(8)
    to_odds = {0.0: 0.0, 1.0: float(np.log(0.6 / 0.4)), 2.0: float(np.log(0.7 / 0.3))}
    rows = [
        {"item_id": r["item_id"], "dilemma_id": r["dilemma_id"], "first": a, "second": b,
         "log_odds": r["label_Value/truth"] * to_odds[a + b]}
        for r in items.to_dicts() for a in (0.0, 1.0) for b in (0.0, 1.0)
    ]  # fmt: skip
    found = {
        (r["first"], r["second"]): r
        for r in composition_table(pl.DataFrame(rows), items, "Value/truth", PARAMS)
    }
    assert set(found) == {(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}
    assert found[1.0, 1.0]["effect"] == pytest.approx(0.2)
    assert found[1.0, 1.0]["interaction"] == pytest.approx(0, abs=1e-12)
    nats = to_odds[2.0], to_odds[2.0] - 2 * to_odds[1.0]
    both = [found[1.0, 1.0][f"{name}_log_odds"] for name in ("effect", "interaction")]
    assert both == pytest.approx(nats)
    weaker = pl.DataFrame(rows).with_columns(
        pl.when((pl.col("first") == 1) & (pl.col("second") == 1))
        .then(pl.col("log_odds") * 0)
        .otherwise(pl.col("log_odds"))
        .alias("log_odds")
    )
    both = composition_table(weaker, items, "Value/truth", PARAMS)[-1]
    assert (both["effect"], both["interaction"]) == pytest.approx((0, -0.2))


def test_a_target_on_one_dilemma_is_refused_and_no_other_value_is_no_side_effect():
    with pytest.raises(InputError, match="fewer than 2 dilemmas"):
        method_effects(*planted(make_items(1), lambda r, c: c))
    scores, evaluation = planted(make_items(4).drop("label_Value/kindness"), lambda r, c: c)
    records = method_effects(scores, evaluation)
    assert [record["side_effect"] for record in records] == [None, None]
    assert arm_effects(records, scores, evaluation)[0]["side_effect"] is None


def test_a_value_on_a_single_dilemma_is_left_out_of_the_values():
    kindness = pl.col("label_Value/kindness") * (pl.col("dilemma_id") == "0").cast(pl.Int8)
    scores, evaluation = planted(
        make_items(6).with_columns(kindness), lambda r, c: c * r["label_Value/truth"]
    )
    study = analyse({"good": scores}, evaluation)
    assert set(study["values"]["label"]) == {"Value/truth", "Value/lie"}
