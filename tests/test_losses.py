"""Every term by hand, on one-dimensional states."""

import math

import torch

from pipeline.steering.losses import Observed, coherence, ordering, reference_direction, separation, symlog


def observed(up=(3.0, -3.0), down=(-3.0, 3.0), base=(1.0, -1.0), nll=None, base_nll=None) -> Observed:
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
    torch.testing.assert_close(symlog(torch.tensor([-1.0, 0.0, math.e - 1])), torch.tensor([-math.log(2), 0.0, 1.0]))


def test_separation_widens_at_plus_and_reverses_at_minus():
    # p_ref = 2 is the unit; p(+1) = 6, -p(-1) = 6: both terms are symlog(3) - symlog(1).
    found = separation(observed(), torch.ones(1), "difference")
    torch.testing.assert_close(found, torch.tensor(-(math.log(4) - math.log(2))))


def test_separation_of_the_base_itself_is_positive():
    same = observed(up=(1.0, -1.0), down=(1.0, -1.0))
    torch.testing.assert_close(separation(same, torch.ones(1), "difference"), torch.tensor(math.log(2)))


def test_common_separation_scores_the_shared_movement():
    # Both texts move by +2 at c = +1 and by -2 at c = -1, one unit of the pair difference.
    moved = observed(up=(3.0, 1.0), down=(-1.0, -3.0))
    torch.testing.assert_close(separation(moved, torch.ones(1), "common"), torch.tensor(-math.log(2)))


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


def test_reference_directions_find_a_planted_axis():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(200, 2, 8, generator=generator)
    states[:, 0, 3] += 20
    for kind in ("mean", "pca"):
        direction = reference_direction(states, kind)
        assert direction[3] > 0.97
        torch.testing.assert_close(direction.norm(), torch.tensor(1.0))
