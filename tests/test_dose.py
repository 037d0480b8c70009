"""The calibrated dose: found on pairs, at the budget, for both measures, and honest about what it cannot reach."""

import math

import pytest
import torch

from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Pairs
from pipeline.steering.dose import DoseParams, calibrate, cost_function

KL = DoseParams(measure="kl", budget=0.1, max_coefficient=64.0)


def test_a_quadratic_cost_is_solved():
    found = calibrate(lambda c: (0.02 * c * c, 0.06 * c * c), KL)
    assert found["coefficient"] == pytest.approx(math.sqrt(0.1 / 0.04), rel=0.01)
    assert (found["cost_up"] + found["cost_down"]) / 2 == pytest.approx(0.1, rel=0.011)
    assert found["reached"]


def test_the_first_crossing_counts_and_a_broken_model_is_too_dear():
    assert calibrate(lambda c: (math.sin(c), math.sin(c)), KL)["coefficient"] == pytest.approx(
        math.asin(0.1), rel=0.02
    )
    broken = calibrate(lambda c: (math.nan, math.nan) if c > 2 else (0.01 * c, 0.01 * c), KL)
    assert broken["coefficient"] == pytest.approx(2, rel=1e-3)


def test_a_budget_out_of_reach_is_said():
    found = calibrate(lambda c: (0.0, 1e-6), KL)
    assert found == {"coefficient": 64.0, "cost_up": 0.0, "cost_down": 1e-6, "reached": False}


def test_a_cheap_start_above_the_budget_is_bisected_downwards():
    found = calibrate(lambda c: (1e3 * c, 1e3 * c), KL)
    assert found["coefficient"] == pytest.approx(1e-4, rel=0.02)


@pytest.fixture
def fitted(fit):
    return fit("mean_diff")


@torch.no_grad()
@pytest.mark.parametrize("measure", ["kl", "delta_nll"])
def test_the_cost_is_the_textbooks_over_the_shared_tokens(
    measure, fitted, model, tokenizer, pairs, base
):
    one = Pairs(*([texts[2]] for texts in (pairs[1].positive, pairs[1].negative, pairs[1].neutral)))
    cost = cost_function(base, fitted, one, measure)(1.5)
    rows = tokenize(tokenizer, [one.neutral[0], one.positive[0]])
    shared = next(i for i in range(1, 99) if rows[0][-1 - i] != rows[1][-1 - i])
    ids, mask = pad_left(rows[:1], 0, torch.device("cpu"))
    for c, found in zip((1.5, -1.5), cost, strict=True):
        plain = to_logits(model, last_hidden(model, ids, mask)).log_softmax(-1)[0]
        with fitted.steer(model, c):
            steered = to_logits(model, last_hidden(model, ids, mask)).log_softmax(-1)[0]
        where = range(len(rows[0]) - shared - 1, len(rows[0]) - 1)
        if measure == "kl":
            expected = sum((plain[t].exp() * (plain[t] - steered[t])).sum() for t in where) / shared
        else:
            expected = (
                sum(plain[t, rows[0][t + 1]] - steered[t, rows[0][t + 1]] for t in where) / shared
            )
        assert found == pytest.approx(expected.item(), rel=1e-3, abs=1e-5)


def test_the_calibrated_dose_costs_the_budget(fitted, pairs, base):
    cost = cost_function(base, fitted, pairs[1], "kl")
    found = calibrate(cost, KL.model_copy(update={"budget": 0.005}))
    assert found["reached"]
    assert sum(cost(found["coefficient"])) / 2 == pytest.approx(0.005, rel=0.011)
    assert cost(0.0) == (0.0, 0.0)


def test_the_cost_does_not_depend_on_the_batch(fitted, pairs, monkeypatch, base):
    whole = cost_function(base, fitted, pairs[1], "kl")(1.0)
    monkeypatch.setattr("pipeline.steering.dose.ROWS", 2)
    assert cost_function(base, fitted, pairs[1], "kl")(1.0) == pytest.approx(whole, rel=1e-3)
