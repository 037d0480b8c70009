"""The null studies, reduced: the same functions on fewer studies, held to binomial bounds."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.bench.null_page import FOLDER, TABLES, page
from pipeline.bench.null_studies import (
    BEST,
    COEFFICIENTS,
    MAIN,
    POOLED,
    best_variance,
    dilemma_slopes,
    error_rates,
    p_values,
    pooled_error_rates,
    seed_error_rates,
    simulate,
)
from pipeline.metrics.regression import clustered_slope, pooled_slope
from pipeline.metrics.sensitivity import sign_patterns


@pytest.mark.parametrize("dilemmas", [12, 64, 219])
def test_the_main_test_keeps_its_level_and_the_pooled_one_does_not(dilemmas):
    studies = 600
    found = {row["test"]: row for row in error_rates(dilemmas, studies, seed=1)}
    bound = 3 * np.sqrt(0.05 * 0.95 / studies)
    for test in (MAIN, "sign flips by dilemma", "t test of dilemmas' slopes", BEST):
        assert abs(found[test]["type_one"] - 0.05) < bound, test
    assert found[POOLED]["type_one"] > 0.05 + 2 * bound
    assert found[BEST]["power"] == pytest.approx(0.8, abs=0.06)
    assert 0.55 < found[MAIN]["power"] <= found[BEST]["power"] + 0.02


def test_the_simulated_tests_are_those_of_the_study():
    rng, sizes = np.random.default_rng(2), np.array([2, 3, 6, 4])
    y = simulate(sizes, 1, rng)
    dilemma = np.repeat(np.arange(4), sizes)
    frame = pl.DataFrame({
        "item_id": np.repeat(np.arange(15), 7), "dilemma_id": np.repeat(dilemma, 7), "coefficient": np.tile(COEFFICIENTS, 15),
        "y": y.ravel(),
    })  # fmt: skip
    found = p_values(y, sizes, sign_patterns(4, 1000, 0))
    assert found[MAIN] == pytest.approx(clustered_slope(frame).p)
    assert found[POOLED] == pytest.approx(pooled_slope(frame).p)


def test_the_best_test_knows_the_true_variance():
    sizes = np.array([2, 6])
    slopes = dilemma_slopes(simulate(sizes, 20_000, np.random.default_rng(3)), sizes)
    assert slopes.var(axis=0) == pytest.approx(best_variance(sizes), rel=0.05)


def test_few_seeds_make_a_wide_test_and_one_way_errors_do_not_speak_of_further_seeds():
    found = {(row["seed_sd"], row["test"]): row["rejected"] for row in seed_error_rates(64, 1000)}
    both = "clustered by dilemma and seed"
    assert found[0.5, MAIN] > 0.5
    assert found[0.0, both] < found[0.5, both] < 0.07


def test_the_pooled_test_takes_levels_for_noise():
    rejected = [row["rejected"] for row in pooled_error_rates(12, 400)]
    assert rejected[0] > 0.25
    assert rejected[-1] < 0.02


def test_a_row_of_the_page():
    row = {
        "dilemmas": 12,
        "test": MAIN,
        "studies": 600,
        "type_one": 0.05,
        "low": 0.034,
        "high": 0.07,
        "power": None,
    }
    rows = pl.DataFrame([row, row | {"power": 0.654}])
    none = dict.fromkeys(TABLES, pl.DataFrame())
    shown = [line for line in page(none | {"null_studies": rows}).splitlines() if MAIN in line]
    assert shown == [
        f"| {MAIN} | 12 | 600 | 5.0 % [3.4 %, 7.0 %] | {power} |" for power in ("–", "0.65")
    ]


def test_the_page_in_the_docs_is_made_of_the_tables_beside_it_and_they_hold_the_promise():
    docs = Path(__file__).parent.parent / FOLDER
    tables = {name: pl.read_csv(docs / f"{name}.csv") for name in TABLES}
    assert (docs / "null_studies.md").read_text(encoding="utf-8") == page(tables)
    main = tables["null_studies"].filter(pl.col("test") == MAIN)
    assert set(main["dilemmas"]) == {12, 64, 219}
    assert main["studies"].min() >= 2000
    assert main["type_one"].is_between(0.04, 0.06).all()
