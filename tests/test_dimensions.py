"""Which singular triples an adapter gets: planted needs must be met, and states come from every text's own last token."""

import pytest
import torch

from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Pairs
from pipeline.steering.dimensions import choose
from pipeline.steering.states import entering_states, residual_stream
from pipeline.steering.svd import Factors, decompose
from pipeline.support.errors import InputError

SIZE = 12


@pytest.fixture
def factors() -> Factors:
    """U and V are the axes of different spaces in opposite order, so that a wrong basis chooses other triples."""
    axes = torch.eye(SIZE)
    return Factors(axes, torch.ones(SIZE), axes.flip(1))


def states_on(
    positive: dict[int, float], negative: dict[int, float], shared: dict[int, float]
) -> torch.Tensor:
    """Return states [4, 2, d]: alternating signs on the axes of each text, so without a mean, and a constant difference."""
    states = torch.zeros(4, 2, SIZE)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    for axis, size in positive.items():
        states[:, 0, axis] = size * signs
    for axis, size in negative.items():
        states[:, 1, axis] = size * signs
    for axis, size in shared.items():
        states[:, 0, axis] += size
    return states


def pick(kind, factors, rank, states=None, writes=True, seed=0):
    return choose(kind, factors, rank, states, writes, torch.Generator().manual_seed(seed)).tolist()


def test_top_takes_the_largest_singular_values(factors):
    assert pick("top", factors, 3) == [0, 1, 2]


def test_random_is_distinct_sorted_and_follows_its_generator(factors):
    found = [pick("random", factors, 6, seed=seed) for seed in range(20)]
    assert found[0] == pick("random", factors, 6, seed=0)
    assert len(set(map(tuple, found))) > 10
    assert all(row == sorted(set(row)) and len(row) == 6 for row in found)
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(*(choose("random", factors, 6, None, True, generator) for _ in range(2)))


@pytest.mark.parametrize("writes", [True, False])
def test_data_aware_takes_a_third_for_each_need_in_the_modules_own_basis(factors, writes):
    states = states_on(
        {3: 9.0, 5: 8.0, 1: 7.0}, {7: 9.0, 2: 8.0, 0: 7.0}, {10: 3.0, 4: 2.0, 6: 1.0}
    )
    expected = [2, 3, 4, 5, 7, 10]
    assert pick("data_aware", factors, 6, states, writes) == sorted(
        i if writes else SIZE - 1 - i for i in expected
    )


def test_what_does_not_divide_by_three_goes_to_the_difference(factors):
    states = states_on({3: 9.0, 5: 8.0}, {7: 9.0, 2: 8.0}, {10: 3.0, 4: 2.0, 6: 1.0})
    assert pick("data_aware", factors, 5, states) == [3, 4, 6, 7, 10]
    assert pick("data_aware", factors, 2, states) == [4, 10]


def test_a_large_singular_value_counts(factors):
    states = states_on({3: 9.0, 5: 8.0}, {7: 9.0, 2: 8.0}, {10: 3.0, 4: 2.0})
    louder = factors._replace(S=torch.ones(SIZE).index_fill(0, torch.tensor([5]), 2.0))
    assert pick("data_aware", louder, 3, states) == [5, 7, 10]


def test_overlapping_thirds_are_filled_by_the_best_left(factors):
    states = states_on({3: 9.0, 5: 1.0, 8: 4.0}, {3: 9.0, 5: 1.0, 6: 5.0}, {3: 2.0})
    assert pick("data_aware", factors, 3, states) == [3, 6, 8]


def test_ties_go_to_the_larger_singular_value(factors):
    assert pick("data_aware", factors, 4, torch.zeros(4, 2, SIZE)) == [0, 1, 2, 3]


def test_all_triples_may_be_chosen(factors):
    for kind in ("top", "random", "data_aware"):
        assert pick(kind, factors, SIZE, torch.randn(4, 2, SIZE)) == list(range(SIZE))


@pytest.mark.parametrize("kind", ["top", "random", "data_aware"])
def test_a_rank_above_the_triples_is_refused(factors, kind):
    with pytest.raises(InputError, match="rank 13 is above the 12 cached singular triples"):
        pick(kind, factors, SIZE + 1, torch.zeros(4, 2, SIZE))


@pytest.mark.parametrize(("writes", "said"), [(True, "output has 5"), (False, "input has 7")])
def test_a_module_that_does_not_touch_the_stream_is_refused(writes, said):
    with pytest.raises(InputError, match=f"{said} dimensions but the residual stream 12"):
        pick("data_aware", decompose(torch.randn(5, 7), None), 3, torch.zeros(4, 2, SIZE), writes)


TEXTS = Pairs(
    ["A snow", "The lamp is a very long way from here, and so is the answer"],
    ["Well", "I saw the lamp. " * 9],
    [],
)


def test_entering_states_of_a_short_text_are_those_it_has_alone(base):
    together = entering_states(base, TEXTS, [0, 3])
    for row in (0, 1):
        alone = entering_states(
            base, Pairs(TEXTS.positive[row:][:1], TEXTS.negative[row:][:1], []), [0, 3]
        )
        for layer in (0, 3):
            torch.testing.assert_close(together[layer][row], alone[layer][0], rtol=1e-4, atol=1e-4)


def test_entering_states_are_the_models_own_at_the_last_token(model, tokenizer, base):
    found = entering_states(base, TEXTS, [0, 2])
    for side, texts in enumerate((TEXTS.positive, TEXTS.negative)):
        for row, text in enumerate(texts):
            with torch.no_grad():
                seen = model(
                    torch.tensor(tokenize(tokenizer, [text])), output_hidden_states=True
                ).hidden_states
            for layer in (0, 2):
                torch.testing.assert_close(
                    found[layer][row, side], seen[layer][0, -1], rtol=1e-4, atol=1e-4
                )


def test_more_texts_than_one_batch_stay_in_order_and_leave_no_hooks(model, base):
    many = Pairs(TEXTS.positive * 35, TEXTS.negative * 35, [])
    found = residual_stream(base, many, [4, 1])
    assert (
        found.shape == (70, 2, 2, 64) and found.dtype == torch.float32 and not found.requires_grad
    )
    torch.testing.assert_close(found[-2:], found[:2], rtol=1e-4, atol=1e-4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_last_place_is_the_last_layers_output_before_the_norm(model, tokenizer, base):
    found = residual_stream(base, TEXTS, [4])[:, 0, 0]
    ids, mask = pad_left(tokenize(tokenizer, TEXTS.positive), tokenizer.pad_token_id, model.device)
    with torch.no_grad():
        normed = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1][:, -1]
        torch.testing.assert_close(model.base_model.norm(found), normed, rtol=1e-4, atol=1e-4)


def test_no_pairs_and_states_that_overflow_are_refused(model, base):
    with pytest.raises(InputError, match="there are no pairs"):
        entering_states(base, Pairs([], [], []), [0])
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(torch.inf)
    with pytest.raises(InputError, match="not finite"):
        entering_states(base, TEXTS, [0])
