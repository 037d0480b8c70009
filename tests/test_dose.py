"""One unit: each sign's raw coefficient costs the budget on rollouts of the base, or it is said."""

import math

import pytest
import torch

from pipeline.app.answers import log_odds
from pipeline.app.use import steer
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.prompts import open_turn, tokenize
from pipeline.stages.checks import rollouts
from pipeline.steering.base import CostUnit
from pipeline.steering.compose import Composed, in_units
from pipeline.steering.dose import Cost, DoseParams, calibrate, cost_function, crossing, search
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.rollouts import Rollouts
from pipeline.steering.saved import load_steering, save_steering
from pipeline.support.errors import InputError

KL = DoseParams(budget=0.1, tokens=8, max_coefficient=64.0)
PROMPTS = ["Who are you?", "Tell me of the boat and of the old lamp.", "Snow."]


def solve(cost, params=KL) -> tuple[float, int]:
    """Return the size that costs the budget and how many sizes were tried."""
    running, tries = crossing(params), 1
    c = next(running)
    try:
        while True:
            c, tries = running.send(cost(c)), tries + 1
    except StopIteration as end:
        return end.value, tries


def logits(base, text: list[int]) -> torch.Tensor:
    ids = torch.tensor([text])
    return to_logits(base.model, last_hidden(base.model, ids, torch.ones_like(ids)))[0]


@pytest.fixture
def replies(base) -> Rollouts:
    return rollouts(base, PROMPTS, 8)


@pytest.mark.parametrize("cost", [
    lambda c: 0.02 * c * c, lambda c: 1e3 * c, lambda c: c**3 / 500, lambda c: min(5.0, c**2),
    lambda c: 1e-7 + 2e-4 * c * c, lambda c: 4 * (1 - math.exp(-c * c / 9)),
])  # fmt: skip
def test_few_passes_find_what_costs_the_budget(cost):
    c, tries = solve(cost)
    assert cost(c) == pytest.approx(0.1, rel=0.011)
    assert tries <= 8


def test_the_first_crossing_counts():
    assert solve(math.sin)[0] == pytest.approx(math.asin(0.1), rel=0.02)


def test_a_budget_out_of_reach_ends_at_the_largest_size():
    assert solve(lambda c: 1e-6)[0] == pytest.approx(64)
    assert solve(lambda c: 0.05 * c / (1 + c))[0] == pytest.approx(64)
    low = KL.model_copy(update={"max_coefficient": 0.5})
    assert solve(lambda c: 0.01 * c, low)[0] == pytest.approx(0.5)


def test_a_cost_that_leaps_over_the_budget_ends_below_it():
    c, _ = solve(lambda c: math.inf if c > 2 else 0.01 * c)
    assert c == pytest.approx(2, rel=1e-3)
    assert c <= 2


def test_a_model_that_always_comes_apart_is_refused():
    with pytest.raises(InputError, match="costs more than the budget"):
        solve(lambda c: math.inf)


def test_both_signs_share_passes_and_keep_their_own_size():
    passes = []

    def costs(coefficients):
        passes.append(coefficients)
        kl = [(0.02 if c > 0 else 0.06) * c * c for c in coefficients]
        return [Cost(mean, 5 * mean) for mean in kl]

    (up, positive), (down, negative) = search(costs, KL)
    assert up == pytest.approx(math.sqrt(5), rel=0.01)
    assert down == pytest.approx(math.sqrt(0.1 / 0.06), rel=0.01)
    assert positive.p95 == pytest.approx(0.5, rel=0.011)
    assert negative.mean == pytest.approx(0.1, rel=0.011)
    assert passes[0] == [1.0, -1.0]
    assert len(passes) <= 4


@torch.no_grad()
@pytest.mark.parametrize("method", ["mean_diff", "innerpissa", "lora"])
def test_the_cost_is_the_textbooks(method, fit, base, replies):
    fitted = fit(method)
    costs = cost_function(base, fitted, replies)([1.5, -0.5, 0.0])
    for c, found in zip((1.5, -0.5), costs, strict=False):
        tokens = []
        for text, reply in zip(replies.texts(base, fitted, c), replies.replies, strict=True):
            log_p = logits(base, text).log_softmax(-1)
            with fitted.steer(base.model, c):
                log_q = logits(base, text).log_softmax(-1)
            kl = (log_p.exp() * (log_p - log_q)).sum(-1)
            tokens += kl[len(text) - len(reply) - 1 : -1].tolist()
        assert found.mean == pytest.approx(sum(tokens) / len(tokens), rel=1e-3, abs=1e-6)
        p95 = torch.tensor(tokens).quantile(0.95).item()
        assert found.p95 == pytest.approx(p95, rel=1e-3, abs=1e-6)
    assert costs[2].mean == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_prompting_costs_what_its_words_do(base, replies):
    prompting = Prompting("Be honest.", "Lie.", "user")
    dose = calibrate(base, prompting, replies, KL)
    plain, told = (replies.texts(base, prompting, c) for c in (0.0, -1.0))
    tokens = []
    for first, second, reply in zip(plain, told, replies.replies, strict=True):
        log_p, log_q = (
            logits(base, text).log_softmax(-1)[-len(reply) - 1 : -1] for text in (first, second)
        )
        tokens += (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
    assert dose.negative.mean == pytest.approx(sum(tokens) / len(tokens), rel=1e-3)
    assert dose.negative.mean != dose.positive.mean
    assert (dose.unit, dose.reached) == (CostUnit(), None)


def test_one_costs_the_budget_at_both_signs(fit, base, replies):
    fitted = fit("mean_diff")
    params = KL.model_copy(update={"budget": 0.005})
    dose = calibrate(base, fitted, replies, params)
    assert dose.reached
    assert fitted.unit == dose.unit
    for cost in cost_function(base, in_units(fitted), replies)([1.0, -1.0]):
        assert cost.mean == pytest.approx(0.005, rel=0.011)


def test_a_budget_that_is_not_reached_is_said(fit, base, replies, tmp_path, manifest):
    params = KL.model_copy(update={"budget": 1e3})
    fitted = fit("mean_diff")
    dose = calibrate(base, fitted, replies, params)
    save_steering(tmp_path / "it", "mean_diff", fitted, manifest | {"dose": dose.record()})
    loaded = load_steering(tmp_path / "it", manifest["weights_sha256"], torch.device("cpu"))
    assert loaded.budget_reached is False
    assert dose.reached is False
    assert dose.record()["budget_reached"] is False
    assert dose.unit == pytest.approx((64, 64))


def test_rollouts_are_the_base_models_greedy_replies(base, model, tokenizer, replies):
    for prompt, reply in zip(PROMPTS, replies.replies, strict=True):
        opened = open_turn(tokenizer, [{"role": "user", "content": prompt}], {})
        ids = torch.tensor(tokenize(tokenizer, [opened]))
        whole = model.generate(ids, max_new_tokens=8, do_sample=False)
        assert reply == whole[0, ids.shape[1] :].tolist()


def test_rollouts_are_read_as_written(tmp_path, replies):
    replies.write(tmp_path / "rollouts.json")
    assert Rollouts.read(tmp_path / "rollouts.json") == replies


@torch.no_grad()
def test_the_unit_is_saved_and_scales_each_sign(fit, base, tmp_path, manifest):
    fitted = fit("innerpissa")
    fitted.unit = CostUnit(2.0, 0.25)
    save_steering(tmp_path / "it", "innerpissa", fitted, manifest)
    loaded = load_steering(tmp_path / "it", manifest["weights_sha256"], torch.device("cpu"))
    assert loaded.unit == CostUnit(2.0, 0.25)
    text = tokenize(base.tokenizer, ["Snow and the old lamp"])[0]

    def at(attached) -> torch.Tensor:
        with attached:
            return logits(base, text)

    for c, raw in ((1.0, 2.0), (-1.0, -0.25), (0.5, 1.0), (-4.0, -1.0)):
        expected = at(fitted.steer(base.model, raw))
        assert torch.equal(at(steer(base.model, loaded, c)), expected)
        torch.testing.assert_close(at(steer(base.model, loaded, [c])), expected)
        assert torch.equal(at(Composed([(loaded, c)]).steer(base.model, 1.0)), expected)
        assert torch.equal(at(steer(base.model, loaded, raw, raw=True)), expected)
    assert torch.equal(at(steer(base.model, loaded, 0.0)), logits(base, text))
    chat = [{"role": "user", "content": "Snow?"}]
    loaded.unit = CostUnit(1.0, 50.0)
    (found, _), (plain, _) = log_odds(base, loaded, chat, [-1.0, 0.0])
    loaded.unit = CostUnit()
    (expected, _), _ = log_odds(base, loaded, chat, [-50.0, 0.0])
    assert found == pytest.approx(expected, abs=1e-6)
    assert abs(found - plain) > 1e-5


def test_an_adapter_without_its_unit_is_refused(fit, tmp_path, manifest):
    save_steering(tmp_path / "it", "mean_diff", fit("mean_diff"), manifest)
    file = tmp_path / "it/steering.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"unit"', '"was"'), encoding="utf-8")
    with pytest.raises(InputError, match="unit: fit the method again"):
        load_steering(tmp_path / "it", manifest["weights_sha256"], torch.device("cpu"))
