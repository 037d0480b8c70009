"""Every term by hand, on states of one to three dimensions."""

import math

import pytest
import torch
import torch.nn.functional as F

from pipeline.steering.training.antiparallel import (
    AntiParallelLoss,
    barrier,
    cosines,
    product,
    spread,
)
from pipeline.steering.training.contrastive import (
    FORMS,
    ContrastiveLoss,
    coherence,
    project,
    reference_directions,
    separation,
)
from pipeline.steering.training.losses import Observed, Reference, ordering, symlog

AXIS = torch.ones(1, 1)


def observed(
    up=(3.0, -3.0), down=(-3.0, 3.0), base=(1.0, -1.0), nll=None, base_nll=None
) -> Observed:
    """One pair with states (positive, negative) at c = +1 and -1, two shared tokens."""
    states = torch.tensor([[up], [down]]).view(2, 1, 2, 1)
    zeros = torch.zeros(1, 2, 2)
    return Observed(
        states,
        torch.zeros(2, 1, 2, 2) if nll is None else nll,
        torch.tensor(base).view(1, 2, 1),
        zeros if base_nll is None else base_nll,
        torch.ones(1, 2, 2, dtype=torch.bool),
    )


def test_symlog():
    torch.testing.assert_close(
        symlog(torch.tensor([-1.0, 0.0, math.e - 1])), torch.tensor([-math.log(2), 0.0, 1.0])
    )


def test_symlog_has_slope_one_at_zero_so_that_an_adapter_can_leave_it():
    x = torch.tensor([-1.0, 0.0, 3.0], requires_grad=True)
    symlog(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.5, 1.0, 0.25]))


def test_separation_widens_at_plus_and_reverses_at_minus():
    # p_ref = 2 is the unit; p(+1) = 6, -p(-1) = 6: both terms are symlog(3) - symlog(1).
    found = separation(observed(), AXIS, "difference", "raw")
    torch.testing.assert_close(found, torch.tensor(-(math.log(4) - math.log(2))))


def test_separation_of_the_base_itself_is_positive():
    same = observed(up=(1.0, -1.0), down=(1.0, -1.0))
    torch.testing.assert_close(
        separation(same, AXIS, "difference", "raw"), torch.tensor(math.log(2))
    )


def test_common_separation_scores_the_shared_movement():
    # Both texts move by +2 at c = +1 and by -2 at c = -1, one unit of the pair difference.
    moved = observed(up=(3.0, 1.0), down=(-1.0, -3.0))
    torch.testing.assert_close(separation(moved, AXIS, "common", "raw"), torch.tensor(-math.log(2)))


def test_coherence_is_free_up_to_the_bound_and_quadratic_beyond():
    nll = torch.zeros(2, 1, 2, 2)
    nll[0, 0, 0, 0] = 0.2
    assert coherence(observed(nll=nll), 0.2).item() == 0
    nll[1, 0, 1, 1] = 1.2
    torch.testing.assert_close(coherence(observed(nll=nll), 0.2), torch.tensor(1.0 / 8))


def test_ordering_wants_the_signs_on_opposite_sides_in_either_order():
    nll = torch.zeros(2, 1, 2, 2)
    nll[0, :, 1] = 0.3  # at +1 the negative text costs more: gap +0.3
    nll[1, :, 0] = 0.3  # at -1 the positive one: gap -0.3
    assert ordering(observed(nll=nll), 0.1).item() == 0
    assert ordering(observed(nll=nll.flip(0)), 0.1).item() == 0
    nll[1] = nll[0]
    torch.testing.assert_close(ordering(observed(nll=nll), 0.1), torch.tensor(0.4))


def numbers(form: str, x: float, x0: float) -> float:
    """The loss of one pair at movement x for reference x0, both in units of s."""
    delta = symlog(torch.tensor(x)) - symlog(torch.tensor(x0))
    return FORMS[form].loss(torch.tensor(x / x0) if FORMS[form].of_ratio else delta).item()


@pytest.mark.parametrize(("form", "expected"), [
    ("raw", -math.log(2)),
    ("softplus_strong", -math.log(1 + math.exp(0.1 * math.log(2)))),
    ("logsigmoid_weak", math.log(1 + math.exp(-0.1 * (math.log(2) - 1)))),
    ("logsigmoid_dpo", math.log(1 + math.exp(-0.1 * math.log(2)))),
    ("tanh_symmetric", -math.tanh(0.3)),
    ("softplus_ratio", -math.log(1 + math.exp(2))),
    ("focal_balanced", (1 - 2 / 3) ** 2 * -math.log(2 / 3)),
])  # fmt: skip
def test_every_form_by_hand(form, expected):
    # p(+1) = 6 and -p(-1) = 6 at p_ref = 2: x = 3, x0 = 1, Delta = ln 4 - ln 2, ratio 3.
    assert numbers(form, 3.0, 1.0) == pytest.approx(expected, abs=1e-6)
    assert separation(observed(), AXIS, "difference", form).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_the_forms_of_the_params_are_the_forms_of_the_code():
    from typing import get_args

    from pipeline.steering.training.contrastive import ContrastiveParams

    assert set(get_args(ContrastiveParams.model_fields["form"].annotation)) == set(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_more_separation_is_less_loss(form):
    if (
        form != "focal_balanced"
    ):  # which rests once a pair is well separated, and is not monotonic below
        assert numbers(form, 3.0, 1.0) < numbers(form, 1.5, 1.0) < numbers(form, -1.0, 1.0)
    else:
        assert numbers(form, 30.0, 1.0) < numbers(form, 1.5, 1.0)


def test_a_form_that_limits_itself_leaves_coherence_out_and_others_cap_it():
    nll = torch.zeros(2, 1, 2, 2)
    nll[0, 0, 0, 0] = 9.0
    whole = coherence(observed(nll=nll), 0.0)
    torch.testing.assert_close(whole, torch.tensor(81.0 / 8))
    assert coherence(observed(nll=nll), 0.0, FORMS["logsigmoid_weak"].cap).item() == 0
    torch.testing.assert_close(
        coherence(observed(nll=nll), 0.0, 3.0), torch.tensor(3 * math.tanh(81 / 24))
    )


def test_several_directions_give_the_length_with_the_sign_of_the_mean():
    states = torch.tensor([[3.0, 4.0, 9.0], [-3.0, -4.0, 9.0], [3.0, -4.0, 9.0]])
    torch.testing.assert_close(
        project(states, torch.eye(3)[:, :2]), torch.tensor([5.0, -5.0, -5.0])
    )


def reference(states, writers=None, basis=None) -> Reference:
    return Reference(states, lambda: writers, lambda parts, rank, centred: basis)


@pytest.fixture
def planted():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(200, 2, 8, generator=generator)
    states[:, 0, 3] += 20
    return states


def test_reference_directions_find_a_planted_axis(planted, sections):
    for kind in ("mean", "pca"):
        found = reference_directions(
            reference(planted),
            sections["innerpissa"].loss.model_copy(update={"direction": kind}),
            [],
        )
        assert found.shape == (8, 1)
        assert found[3] > 0.97
        torch.testing.assert_close(found.norm(), torch.tensor(1.0))


def test_restricted_reference_directions_stay_in_their_span(planted, sections):
    params = sections["innerpissa"].loss
    axes = torch.eye(8)
    top = reference_directions(
        reference(planted, axes.flip(1)),
        params.model_copy(update={"direction": "top_s", "directions": 5}),
        [],
    )
    assert top[3] > 0.97
    assert (top[:3] == 0).all()
    own = params.model_copy(update={"direction": "adapter"})
    found = reference_directions(
        reference(planted), own, [axes[:, :2], torch.ones(5, 2), axes[:, 3:4]]
    )
    assert found[3] > 0.97
    torch.testing.assert_close(
        found[[2, 4, 5, 6, 7]].abs().max(), torch.tensor(0.0), atol=1e-6, rtol=0
    )
    many = reference_directions(
        reference(planted), params.model_copy(update={"direction": "pca", "directions": 3}), []
    )
    torch.testing.assert_close(many.T @ many, torch.eye(3), atol=1e-5, rtol=0)


# AntiPaSTO, in a plane: D_ref = (2, 0), basis both axes, sigma 1.


def plane(up, down, **more) -> Observed:
    """One pair: the positive text's states under +1 and -1; the negative text stays at zero."""
    zero = [0.0, 0.0]
    states = torch.tensor([[[up, zero]], [[down, zero]]])
    blank = torch.zeros(2, 1, 2, 2)
    chosen = torch.ones(1, 2, 2, dtype=torch.bool)
    given = {"nll": blank, "base_nll": blank[0], "shift": blank[0], "base_entropy": blank[0]} | more
    # The shift's axes are sign and pair: with one pair, a [1, 2, 2] of zeros would pass for two.
    given["shift"] = given["shift"].view(2, 1, 2)
    return Observed(
        states,
        given["nll"],
        torch.tensor([[[2.0, 0.0], zero]]),
        given["base_nll"],
        chosen,
        given["shift"],
        given["base_entropy"],
    )


def test_opposite_movements_on_the_axis_are_the_minimum(sections):
    loss = AntiParallelLoss(sections["antipasto"].loss, basis=torch.eye(2), sigma=torch.ones(2))
    best = plane([3.0, 0.0], [1.0, 0.0])
    torch.testing.assert_close(
        cosines(best, torch.eye(2), torch.ones(2), 0.25), torch.tensor([[1.0], [-1.0]])
    )
    terms = loss(best, 1.0)
    torch.testing.assert_close(terms["projection"], torch.tensor(-30.0))
    same = plane([3.0, 0.0], [4.0, 0.0])  # both arms the same way: P = 1, and the square on top
    torch.testing.assert_close(loss(same, 1.0)["projection"], torch.tensor(30.0 + 900))


def test_cosines_and_focus_by_hand():
    # Movements (1, 1) and (-2, 0); only the first axis is in the basis, so focus is 1/sqrt 2 and 1.
    seen = plane([3.0, 1.0], [0.0, 0.0])
    basis = torch.eye(2)[:, :1]
    found = cosines(seen, basis, torch.ones(1), 0.0)
    torch.testing.assert_close(found, torch.tensor([[math.sqrt(0.5)], [-1.0]]))
    torch.testing.assert_close(
        cosines(seen, basis, torch.ones(1), 1.0), torch.tensor([[1.0], [-1.0]])
    )
    torch.testing.assert_close(
        cosines(seen, basis, torch.ones(1), 0.25)[0], torch.tensor([0.5**0.375])
    )


def test_the_scale_weighs_coordinates():
    seen = plane([3.0, 3.0], [1.0, 0.0])
    v, axis = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    torch.testing.assert_close(
        cosines(seen, torch.eye(2), torch.tensor([1.0, 3.0]), 1.0)[0], F.cosine_similarity(v, axis)
    )


def test_symlog_of_the_product_is_the_readmes_form(sections):
    params = sections["antipasto"].loss.model_copy(
        update={"projection": "symlog", "projection_weight": 1.0}
    )
    loss = AntiParallelLoss(params, basis=torch.eye(2), sigma=torch.ones(2))
    seen = plane([4.0, 1.0], [-1.0, 0.0])  # movements (2, 1) and (-3, 0)
    torch.testing.assert_close(product(seen, torch.eye(2), torch.ones(2)), torch.tensor([-6.0]))
    torch.testing.assert_close(loss(seen, 1.0)["projection"], torch.tensor(-math.log(7)))


def test_the_scale_is_the_spread_with_floors():
    rows = torch.tensor([[2.0, 0.0, 30.0], [-2.0, 0.0, -30.0]])
    torch.testing.assert_close(spread(rows), torch.tensor([2.0, 0.2, 30.0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(spread(rows / 1e6), torch.full((3,), 0.05), atol=1e-4, rtol=0)


def test_the_barrier_compares_each_signs_text_with_that_texts_entropy():
    shift, entropy = torch.zeros(2, 1, 2), torch.full((1, 2, 2), 0.23)
    entropy[:, 1] = (
        0.98  # thresholds 0.5 * sqrt(0.25) = 0.25 of the positive text, 0.5 of the other
    )
    seen = plane([0.0, 0.0], [0.0, 0.0], shift=shift, base_entropy=entropy)
    shift[0, 0, 0], shift[1, 0, 1] = 0.25, 0.5
    assert barrier(seen, 0.5, 10.0).item() == pytest.approx(0, abs=1e-6)
    shift[0, 0, 1] = 0.35  # 0.1 over, one of two tokens
    one = torch.tensor((math.log(2) ** 2 + 0.1) / 2)
    torch.testing.assert_close(barrier(seen, 0.5, 10.0), one)
    shift[1, 0, 0] = 0.6  # as much over at the other sign
    torch.testing.assert_close(barrier(seen, 0.5, 10.0), 2 * one)


def test_the_hinge_counts_the_entropy_of_both_texts_and_ramps(sections):
    params = sections["antipasto"].loss.model_copy(
        update={"ordering_margin": 0.5, "ordering_weight": 30.0, "ramp_share": 0.2}
    )
    loss = AntiParallelLoss(params, basis=torch.eye(2), sigma=torch.ones(2))
    entropy = torch.tensor(
        [[[0.04, 0.04], [0.28, 0.28]]]
    )  # mean 0.16: the margin is 0.5 * 0.4 + 0.04
    seen = plane([3.0, 0.0], [1.0, 0.0], base_entropy=entropy)
    torch.testing.assert_close(loss(seen, 1.0)["ordering"], torch.tensor(30 * 2 * 0.24))
    torch.testing.assert_close(loss(seen, 0.1)["ordering"], torch.tensor(15 * 2 * 0.24))
    assert loss(seen, 0.0)["ordering"].item() == 0


def test_terms_without_weight_are_left_out_and_losses_come_by_section(sections):
    params = sections["antipasto"].loss.model_copy(
        update={"coherence_weight": 0.0, "ordering_weight": 0.0}
    )
    loss = params.build([])
    loss.prepare(reference(torch.randn(5, 2, 2), basis=torch.eye(2)))
    assert set(loss(plane([3.0, 0.0], [1.0, 0.0]), 1.0)) == {"projection"}
    assert isinstance(sections["innerpissa"].loss.build([]), ContrastiveLoss)
