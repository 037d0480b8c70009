"""Shared beginnings and trunks: every text's figures are those of the text alone, on every decoder family."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipeline.lm import forward
from pipeline.lm.forward import last_hidden
from pipeline.lm.layers import decoder_layers, layers_prefix
from pipeline.lm.prefixes import Bundle, attention_mask, lay_out, pair_up, rows_hidden
from pipeline.lm.trunk import trunk_depth
from pipeline.reference.items import held_out_items
from pipeline.scoring import score as scoring
from pipeline.scoring.rows import Prompt, common_prefix, forward_rows, make_prompts
from pipeline.scoring.score import score
from pipeline.scoring.wording import dilemma_prompt
from pipeline.steering.compose import Composed
from pipeline.steering.direction import Direction
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.untouched import Untouched
from pipeline.support.errors import InputError
from tests.architectures import CPU, FAMILIES, load_family

NAMES = ("log_odds", "choice_mass", "nll")
COEFFICIENTS = [-1.0, 0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def items() -> list[dict]:
    return held_out_items("honesty", 3).to_dicts()


def direction(model, layers: list[int]) -> Direction:
    torch.manual_seed(0)
    width = model.config.get_text_config().hidden_size
    return Direction(
        [f"{layers_prefix(model)}.{layer}" for layer in layers], torch.randn(len(layers), width)
    )


def both(base, items, steering, coefficients, size=8):
    base = replace(base, batch_size=size)
    return (score(base, items, steering, coefficients, reuse=reuse) for reuse in (False, True))


def assert_equal(first, second, tolerance=1e-4):
    assert [r["item_id"] for r in first] == [r["item_id"] for r in second]
    for one, other in zip(first, second, strict=True):
        assert one["coefficient"] == other["coefficient"]
        for name in NAMES:
            assert one[name] == pytest.approx(other[name], abs=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_figures(name, tmp_path, tokenizer, items):
    base = load_family(name, tmp_path, tokenizer).base(tokenizer)
    plain, reused = both(base, items, direction(base.model, [2, 3]), COEFFICIENTS)
    assert_equal(plain, reused)
    assert len({round(record["log_odds"], 5) for record in plain}) > 2 * len(items)


@pytest.mark.parametrize("layers", [[0], [1, 3], [3]])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_neither_the_depth_nor_the_batch_changes_a_figure(layers, size, base, items):
    assert_equal(*both(base, items, direction(base.model, layers), COEFFICIENTS, size))


def test_what_changes_the_text_or_nothing_is_scored_alike(base, model, items):
    prompting = Prompting(
        "Pretend you're an honest person.", "Pretend you're a dishonest person.", "user"
    )
    composed = Composed([(direction(model, [3]), 1.0), (direction(model, [2]), -0.5)])
    assert_equal(*both(base, items, Untouched(), [0.0]))
    for steering in (prompting, composed):
        assert_equal(*both(base, items, steering, [-1.0, 0.0, 1.0]))


def test_the_trunk_ends_below_the_first_touched_module(model):
    assert trunk_depth(model, []) == 0
    assert trunk_depth(model, ["model.layers.3.mlp.down_proj", "model.layers.2"]) == 2
    assert trunk_depth(model, ["model.embed_tokens", "model.layers.2"]) == 0
    assert (
        trunk_depth(
            model, Composed([(direction(model, [3]), 1.0), (direction(model, [1]), 0.0)]).touched()
        )
        == 1
    )


def counted(model, work) -> list[int]:
    """Return how many tokens each layer has run on."""
    tokens = [0] * len(decoder_layers(model))
    real = [layer.forward for layer in decoder_layers(model)]

    def count(index):
        def forward(hidden, *arguments, **named):
            tokens[index] += hidden.shape[0] * hidden.shape[1]
            return real[index](hidden, *arguments, **named)

        return forward

    for index, layer in enumerate(decoder_layers(model)):
        layer.forward = count(index)
    work()
    for layer in decoder_layers(model):
        assert layer.forward.__name__ == "forward"  # ours: what was set before came back
        del layer.forward
    return tokens


def test_less_is_run(base, items, monkeypatch):
    for tried in ("check_reuse", "check_acts"):  # they run tokens of their own
        monkeypatch.setattr(scoring, tried, lambda *_: None)
    base, steering = replace(base, batch_size=64), direction(base.model, [2])
    plain, reused = (
        counted(
            base.model, lambda reuse=reuse: score(base, items, steering, COEFFICIENTS, reuse=reuse)
        )
        for reuse in (False, True)
    )
    assert len(set(plain)) == 1
    prompts = make_prompts(base, items, steering, COEFFICIENTS)
    once = len(COEFFICIENTS) * (prefix := len(common_prefix(prompts)))
    assert reused[0] - once == reused[1] - once == (reused[2] - once) / len(COEFFICIENTS)
    assert prefix > 10
    assert reused[3] < 0.7 * plain[3]


def test_the_prefix_ends_before_what_predicts_the_first_scored_token(base, items):
    prompts = make_prompts(base, items, Untouched(), [0.0])
    prefix = common_prefix(prompts)
    for prompt in prompts:
        assert prompt.ids[: len(prefix)] == prefix
        assert len(prefix) < len(prompt.ids) - prompt.span[0]
    twice = [replace(prompts[0], span=(len(prompts[0].ids) - 3, 0, 0)), prompts[1]]
    assert common_prefix(twice) == prefix[:2]
    assert common_prefix(prompts[:1]) == ()


def test_identical_rows_run_once(base, items):
    twice = [*items, *({**item, "item_id": f"{item['item_id']}-again"} for item in items)]
    for reuse in (False, True):
        once, again = (
            score(base, some, Untouched(), [0.0], reuse=reuse) for some in (items, twice)
        )
        assert [[r[name] for name in NAMES] for r in again] == 2 * [
            [r[name] for name in NAMES] for r in once
        ]
    texts = [((1, 2, 3), (1, 0)), ((1, 2, 4), (2, 0)), ((1, 2, 3), (1, 0))]
    prompts = [Prompt(str(i), 0.0, *text) for i, text in enumerate(texts)]
    rows, places = forward_rows(prompts, True)
    assert (len(rows), places) == (1, [(0, 0), (0, 1), (0, 0)])
    assert len(forward_rows(prompts, False)[0]) == 2


def test_pairs_are_best_neighbours():
    texts = [[1, 2, 3, 4, 9], [1, 2, 8, 8, 8], [1, 2, 3, 4, 7], [5, 5], [1, 2, 3, 0, 0]]
    groups = pair_up(texts)
    assert sorted(index for group in groups for index in group) == list(range(5))
    assert [2, 0] in groups
    assert [3] in groups


@torch.no_grad()
def test_states_are_those_of_the_texts_alone_beyond_the_window(model):
    rng = random.Random(0)
    shared = [rng.randrange(5, 500) for _ in range(30)]  # the model's window is 16
    texts = [[*shared, *(rng.randrange(5, 500) for _ in range(n))] for n in (25, 3)]
    rows = lay_out([Bundle.of(texts), Bundle.of([texts[1]])], 0, CPU)
    hidden = rows_hidden(model, rows)
    for number, ids in enumerate(texts, start=1):
        alone = last_hidden(model, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
        own = (rows.branch[0] == 0) | (rows.branch[0] == number)
        torch.testing.assert_close(hidden[0, own], alone[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        hidden[1, -len(texts[1]) :], hidden[0, rows.branch[0] % 2 == 0], rtol=1e-4, atol=1e-4
    )


def test_a_model_whose_shared_states_differ_is_refused(base, items, monkeypatch):
    assert base.model.config.sliding_window == 16
    other = SimpleNamespace(
        layers=[SimpleNamespace(is_sliding=False)]
    )  # as if its layers saw everything
    monkeypatch.setattr("transformers.DynamicCache", lambda config: other)
    with pytest.raises(InputError, match="scoring.reuse false"):
        score(base, items, Untouched(), [0.0])


def test_layers_of_another_kind_are_refused(model, monkeypatch):
    monkeypatch.setattr(
        model.config, "layer_types", ["linear_attention", *model.config.layer_types[1:]]
    )
    with pytest.raises(InputError, match="linear_attention layers.*scoring.reuse false"):
        attention_mask(model, lay_out([Bundle.of([[1, 2, 3], [1, 2, 4]])], 0, CPU))


def test_logits_are_made_in_parts(model, monkeypatch):
    monkeypatch.setattr(forward, "LOGITS", 10 * model.config.vocab_size)
    assert [part.stop - part.start for part in forward.chunks(model, 25)] == [10, 10, 10]
    states, targets = torch.randn(25, 64), torch.randint(5, 500, (25,))
    few = forward.state_nll(model, states, targets)
    monkeypatch.undo()
    assert len(forward.chunks(model, 25)) == 1
    torch.testing.assert_close(few, forward.state_nll(model, states, targets))


def test_logits_made_in_parts_are_made_again_for_the_gradient_and_it_is_the_same(
    model, monkeypatch
):
    targets, base = torch.randint(5, 500, (25,)), torch.randn(25, 64)

    def gradient() -> torch.Tensor:
        states = torch.randn(25, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.enable_grad():
            nll, shift = forward.state_shift(model, states, targets, base)
            (nll.sum() + shift.sum()).backward()
        return states.grad

    whole, made = gradient(), []
    monkeypatch.setattr(forward, "LOGITS", 10 * model.config.vocab_size)
    plain = forward.to_logits
    monkeypatch.setattr(forward, "to_logits", lambda *given: made.append(1) or plain(*given))
    torch.testing.assert_close(gradient(), whole)
    assert len(made) == 12  # three parts of two distributions, twice


def test_one_text_per_dilemma_works(base):
    lone = [{"item_id": "a", "prompt": dilemma_prompt("You are a nurse.", "lie to the boss")}]
    assert_equal(*both(base, lone, direction(base.model, [2]), [-1.0, 1.0]))
