"""The loss basis: what is planted in states and weights must come out, and every combination is orthonormal."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from pipeline.steering.base import Pairs
from pipeline.steering.training.antiparallel import Part
from pipeline.steering.training.subspace import (
    COMPLEMENTS,
    Basis,
    Evidence,
    gather,
    intersection,
    loss_subspace,
    orthonormal,
    task,
)
from pipeline.support.errors import InputError

N, LAYERS, D = 40, 10, 32  # so a space has at most 8 dimensions, and layer 0 is too early
AXES = torch.eye(D)


def weight(axes: dict[int, float]) -> Tensor:
    """Return a weight [8, d] that reads the given axes with these singular values."""
    rows = torch.zeros(8, D)
    for row, (axis, size) in enumerate(axes.items()):
        rows[row, axis] = size
    return rows


def evidence(
    moves: dict[tuple[int, int], Tensor], noise: float = 0.0, layer: int = 7, **weights
) -> Evidence:
    """Return states that move at (layer, axis) by sizes [n, 2]; by default the weights touch only the last axes."""
    torch.manual_seed(1)
    steps = noise * torch.randn(N, 2, LAYERS + 1, D)
    for (at, axis), size in moves.items():
        steps[:, :, at + 1, axis] += size
    given = {
        "writers": [weight({30: 1.0}).T],
        "readers": [weight({30: 1.0})],
        "unembedding": weight({31: 2.0, 30: 1.0}),
    }
    return Evidence(steps.cumsum(2), layer, **(given | weights))


def sizes(seed: int) -> Tensor:
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(seed))


def spread(size: float) -> Tensor:
    """Return sizes [n, 2] whose pair difference is `size`, with either sign for half of the pairs."""
    signs = torch.ones(N).index_fill(0, torch.arange(0, N, 2), -1.0)
    return torch.stack([signs, -signs], dim=1) * size / 2


def constant(size: float) -> Tensor:
    return torch.tensor([size / 2, -size / 2]).expand(N, 2)


def noisy() -> Evidence:
    generator = torch.Generator().manual_seed(2)
    made = {name: [torch.randn(shape, generator=generator) for _ in range(3)] for name, shape in
            {"writers": (D, 48), "readers": (48, D)}.items()}  # fmt: skip
    return evidence({}, noise=1.0, unembedding=torch.randn(100, D, generator=generator), **made)


def assert_axis(column: Tensor, axis: int, tolerance: float = 0.02) -> None:
    torch.testing.assert_close(column, AXES[axis], atol=tolerance, rtol=0)


def test_task_finds_the_common_difference_and_centring_removes_it():
    planted = evidence({(3, 5): constant(6.0), (4, 9): spread(2.0)}, noise=0.01)
    assert_axis(loss_subspace(["task"], planted, 1, centred=False)[:, 0], 5)
    assert_axis(loss_subspace(["task"], planted, 1, centred=True)[:, 0], 9)


def test_task_reads_the_loss_layers_output():
    planted = evidence({(7, 5): constant(1.0), (8, 9): constant(50.0)})
    assert_axis(loss_subspace(["task"], planted, None, centred=False)[:, 0], 5)


def test_a_tiny_difference_has_no_vote():
    size = constant(1e-6).clone()
    size[0] = 0.0
    common, odd = torch.zeros(N, 2), torch.zeros(N, 2)
    common[:4], odd[4:12] = constant(1.0)[:4], constant(1e-6)[4:12]
    planted = evidence({(3, 5): common, (3, 9): odd})
    planted.states = planted.states[:6]
    assert_axis(loss_subspace(["task"], planted, 1, centred=False)[:, 0], 5)
    assert loss_subspace(["task"], planted, None, centred=False).shape == (D, 1)


def test_a_difference_of_a_hundredth_of_the_median_counts_half():
    """Each of 40 differences d is d / (|d| + 0.01), as the median is 1: 39 of 1 / 1.01, one of 1 / 2."""
    large, small = constant(1.0).clone(), torch.zeros(N, 2)
    large[0], small[0] = 0.0, constant(0.01)[0]
    moment = task(evidence({(3, 5): large, (3, 9): small}), centred=False)
    assert moment[5, 5].item() == pytest.approx(39 / 1.01**2)
    assert moment[9, 9].item() == pytest.approx(0.25)


def test_suppressed_is_what_is_written_and_later_undone_and_change_is_what_stays():
    written, kept = sizes(3), 3 * sizes(4)
    planted = evidence({(2, 5): written, (6, 5): -written, (4, 9): kept}, noise=0.01)
    found = loss_subspace(["suppressed"], planted, None, centred=False)
    assert found.shape == (D, 1)
    assert_axis(found[:, 0], 5)
    assert_axis(loss_subspace(["change"], planted, 1, centred=False)[:, 0], 9)


def test_what_is_undone_in_part_is_suppressed_less_and_what_grows_is_not():
    first, second, third = sizes(3), sizes(4), sizes(5)
    planted = evidence({
        (2, 5): first, (6, 5): -first / 2, (2, 7): second, (5, 7): -second, (3, 9): third, (4, 9): third, (5, 9): third,
    })  # fmt: skip
    found = loss_subspace(["suppressed"], planted, 2, centred=False)
    assert_axis(found[:, 0], 7, 0.3)
    assert_axis(found[:, 1], 5, 0.3)
    assert found[9].abs().max() < 0.3


@pytest.mark.parametrize("part", ["suppressed", "change"])
def test_movement_leaves_out_early_layers_and_what_the_logits_read(part):
    early, read, late = 5 * sizes(3), 5 * sizes(4), sizes(5)
    back = -1.0 if part == "suppressed" else 1.0
    planted = evidence(
        {(0, 5): early, (2, 31): read, (3, 31): back * read, (4, 7): late, (5, 7): back * late}
    )
    found = loss_subspace([part], planted, None, centred=False)
    assert found.shape == (D, 1)
    assert_axis(found[:, 0], 7)


def test_write_is_what_most_writers_share_whatever_their_size():
    writers = [weight({3: 0.1, 4: 5.0}).T, weight({3: 0.2}).T, weight({3: 9.0, 6: 0.5}).T]
    found = loss_subspace(["write"], evidence({}, writers=writers), None, centred=False)
    assert_axis(found[:, 0], 3)
    torch.testing.assert_close(found.square().sum(1).nonzero()[:, 0], torch.tensor([3, 4, 6]))


def test_logits_read_follows_the_singular_values_up_to_the_width():
    read = torch.diag(torch.arange(1.0, D + 1))
    found = loss_subspace(["logits_read"], evidence({}, unembedding=read), None, centred=False)
    torch.testing.assert_close(found, AXES.flip(0)[:8].T, atol=1e-5, rtol=0)


def test_two_spaces_without_importance_share_their_common_axes_only():
    planted = evidence(
        {},
        writers=[weight({1: 1.0, 2: 1.0, 3: 1.0}).T],
        unembedding=weight({3: 1.0, 4: 3.0, 5: 2.0}),
    )
    found = loss_subspace(["write", "logits_read"], planted, 4, centred=False)
    assert found.shape == (D, 1)
    assert_axis(found[:, 0], 3)


def test_importance_puts_the_axis_first_that_both_spaces_need():
    task = {
        (1, 5): spread(3.0),
        (9, 5): -spread(3.0),
        (2, 7): constant(2.0),
    }  # 5 is gone again in the end
    change = {(8, 9): 3 * sizes(3), (8, 7): sizes(4)}  # 9 comes after the loss layer
    planted = evidence(task | change, noise=0.01)
    assert_axis(loss_subspace(["task"], planted, 1, centred=False)[:, 0], 5)
    assert_axis(loss_subspace(["change"], planted, 1, centred=False)[:, 0], 9, 0.1)
    found = loss_subspace(["task", "change"], planted, 1, centred=False)
    assert_axis(found[:, 0], 7, 0.1)


def test_a_shared_direction_is_the_bisector():
    tilted = math.cos(0.4) * AXES[0] + math.sin(0.4) * AXES[1]
    for importance in (None, torch.ones(1)):
        found = intersection(Basis(AXES[:, :1], importance), Basis(-tilted[:, None], importance))
        assert (found.V[:, 0] @ AXES[0]).abs().item() == pytest.approx(math.cos(0.2), abs=1e-5)
        assert (found.importance is None) == (importance is None)


def test_weighted_directions_that_disagree_are_turned_before_they_are_averaged():
    generator = torch.Generator().manual_seed(0)
    bases = [
        Basis(torch.linalg.qr(torch.randn(D, 8, generator=generator)).Q, torch.logspace(0, -3, 8))
        for _ in range(2)
    ]
    found = intersection(*bases)
    torch.testing.assert_close(found.V.T @ found.V, torch.eye(found.V.shape[1]), atol=1e-5, rtol=0)
    assert found.importance is not None and (found.importance.diff() <= 0).all()


def test_spaces_that_share_nothing_give_their_best_guess():
    assert intersection(Basis(AXES[:, :3], None), Basis(AXES[:, 3:6], None)).V.shape == (D, 1)


def test_only_one_importance_counts_as_none():
    planted = evidence(
        {(3, 5): constant(6.0), (3, 3): spread(1.0)}, writers=[weight({3: 1.0, 4: 1.0}).T]
    )
    assert_axis(loss_subspace(["task", "write"], planted, None, centred=False)[:, 0], 3)


@pytest.mark.parametrize("part", COMPLEMENTS)
def test_a_complement_leaves_nothing_of_what_it_excludes(part):
    planted = noisy()
    for first in ("task", "write", "suppressed"):
        found = loss_subspace([first, part], planted, 8, centred=False)
        torch.testing.assert_close(
            planted.excluded(part).T @ found, torch.zeros(8, found.shape[1]), atol=1e-5, rtol=0
        )


def test_a_complement_keeps_the_order_and_drops_what_it_swallows():
    planted = evidence({(3, 5): constant(6.0), (3, 3): spread(3.0)}, readers=[weight({5: 1.0})])
    assert_axis(loss_subspace(["task"], planted, 1, centred=False)[:, 0], 5)
    assert_axis(loss_subspace(["task", "not_read"], planted, 2, centred=False)[:, 0], 3)
    columns = Basis(
        torch.stack([AXES[0], AXES[1] + 1e-5 * AXES[2], AXES[3], AXES[4]], dim=1),
        torch.arange(4.0, 0, -1),
    )
    left = orthonormal(columns, AXES[:, [1]])
    torch.testing.assert_close(left.V, AXES[:, [0, 3, 4]])
    assert left.importance is not None and left.importance.tolist() == [4, 2, 1]


def test_a_nearly_swallowed_column_stays_orthogonal():
    tilted = AXES[1] + 2e-3 * AXES[2] + torch.full((D,), 1e-4)
    excluded = torch.linalg.qr(torch.stack([AXES[1], torch.ones(D)], dim=1)).Q
    left = orthonormal(Basis(tilted[:, None], None), excluded)
    torch.testing.assert_close(excluded.T @ left.V, torch.zeros(2, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("ratio", "expected"), [(9.0, 1), (1.0, 2)])
def test_the_automatic_rank_holds_sixty_per_cent(ratio, expected):
    planted = evidence({(3, 5): sizes(3) * ratio, (4, 6): sizes(4), (5, 7): sizes(5)})
    assert loss_subspace(["change"], planted, None, centred=False).shape == (D, expected)


def test_a_rank_above_what_is_there_gives_what_is_there():
    planted = evidence({(3, 5): sizes(3), (4, 6): sizes(4)})
    assert loss_subspace(["change"], planted, 100, centred=False).shape == (D, 2)
    assert loss_subspace(["task"], noisy(), 100, centred=False).shape == (D, 8)


@pytest.mark.parametrize("second", get_args(Part))
@pytest.mark.parametrize("first", [part for part in get_args(Part) if part not in COMPLEMENTS])
def test_every_combination_is_orthonormal_and_repeats(first, second):
    parts = [first, second]
    if parts == ["logits_read", "not_logits"]:
        with pytest.raises(InputError, match="not_logits leaves nothing"):
            loss_subspace(parts, noisy(), None, centred=False)
        return
    for rank in (None, 4):
        found = loss_subspace(parts, noisy(), rank, centred=False)
        torch.testing.assert_close(found.T @ found, torch.eye(found.shape[1]), atol=1e-5, rtol=0)
        assert found.dtype == torch.float32 and found.shape[1] >= 1
        assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()
        assert torch.equal(found, loss_subspace(parts, noisy(), rank, centred=False))


def test_the_published_combination_reads_from_left_to_right():
    found = loss_subspace(["task", "suppressed", "write", "not_logits"], noisy(), 4, centred=True)
    torch.testing.assert_close(found.T @ found, torch.eye(found.shape[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", COMPLEMENTS)
def test_a_complement_cannot_come_first(part):
    with pytest.raises(InputError, match=f"cannot start with {part}"):
        loss_subspace([part, "task"], noisy(), None, centred=False)


@pytest.mark.parametrize("part", ["task", "change", "suppressed"])
def test_texts_that_do_not_differ_are_refused(part):
    with pytest.raises(InputError, match=f"the subspace {part} is empty"):
        loss_subspace([part], evidence({}), None, centred=False)


def test_movement_that_only_grows_is_not_suppressed():
    size = sizes(3)
    with pytest.raises(InputError, match="the subspace suppressed is empty"):
        loss_subspace(["suppressed"], evidence({(3, 5): size, (4, 5): size}), None, centred=False)


def test_gather_takes_the_models_stream_and_weights(model, tokenizer, base):
    texts = Pairs(
        ["A snow", "The lamp is a long way from here"], ["Well", "I saw the lamp. " * 9], []
    )
    found = gather(base, texts, 2, ["task"])
    assert found.states.shape == (2, 2, 5, 64) and found.layer == 2
    assert [len(found.writers), len(found.readers)] == [4 * 2, 4 * 5]
    assert all(w.shape[0] == 64 for w in found.writers) and all(
        w.shape[1] == 64 for w in found.readers
    )
    assert found.unembedding.shape == (len(tokenizer), 64)
    assert not any(
        t.requires_grad for t in [found.states, *found.writers, *found.readers, found.unembedding]
    )
    for side, column in enumerate((texts.positive, texts.negative)):
        for row, text in enumerate(column):
            ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])[None]
            with torch.no_grad():
                seen = model(ids, output_hidden_states=True).hidden_states
            for place in range(4):
                torch.testing.assert_close(
                    found.states[row, side, place], seen[place][0, -1], rtol=1e-4, atol=1e-4
                )


def test_a_real_model_has_every_subspace(base):
    ends = [
        f"{first} {last}"
        for first in ("Well", "Snow", "I saw the lamp", "So")
        for last in ("and", "the", "is", "it")
    ]
    found = gather(
        base,
        Pairs([f"Be true. {end}" for end in ends], [f"You lie: {end}" for end in ends], []),
        2,
        ["task"],
    )
    for parts in (
        ["task", "suppressed", "write"],
        ["task", "write", "not_read", "not_logits"],
        ["task", "logits_read"],
    ):
        basis = loss_subspace(parts, found, 4, centred=False)
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)
