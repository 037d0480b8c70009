"""Identities of the adapter's formula."""

import pytest
import torch

from pipeline.steering.innerpissa import SvdModule
from pipeline.steering.rotation import cayley, scaled, skew
from pipeline.steering.svd import decompose

RANK = 6


@pytest.fixture
def A():
    torch.manual_seed(0)
    return skew(torch.randn(RANK * (RANK - 1) // 2), RANK)


def test_the_generator_is_skew(A):
    assert torch.equal(A, -A.T)


def test_cayley_is_orthogonal_and_negating_c_transposes_it(A):
    R, back = cayley(A, torch.tensor([0.7, -0.7]))
    torch.testing.assert_close(R @ R.T, torch.eye(RANK), atol=1e-5, rtol=0)
    torch.testing.assert_close(back, R.T, atol=1e-5, rtol=0)


def test_cayley_at_zero_is_the_identity_bit_for_bit(A):
    assert torch.equal(cayley(A, torch.zeros(1))[0], torch.eye(RANK))


def test_cayley_is_the_matrix_exponential_for_small_angles(A):
    small = 1e-2 * A
    torch.testing.assert_close(cayley(small, torch.ones(1))[0], torch.matrix_exp(small), atol=1e-4, rtol=0)


def test_a_plane_turns_by_twice_the_arc_tangent_of_half_its_generator():
    R = cayley(skew(torch.tensor([0.8]), 2), torch.ones(1))[0]
    torch.testing.assert_close(torch.acos(R[0, 0]), 2 * torch.atan(torch.tensor(0.4)))


@pytest.mark.parametrize(("mode", "expected"), [("exp", 2 * 2.718281828), ("additive", 3.0), ("tanh", 2 * (1 + 0.761594156))])
def test_scaling_modes_by_hand(mode, expected):
    found = scaled(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0]), mode)
    torch.testing.assert_close(found, torch.tensor([[expected]]))


@pytest.mark.parametrize("rotate", ["v", "u", "both", "none"])
@pytest.mark.parametrize("scaling", ["exp", "additive", "tanh", "none"])
def test_the_additive_form_equals_the_published_residual_form(rotate, scaling):
    torch.manual_seed(1)
    W, x, c = torch.randn(9, 12), torch.randn(4, 12), torch.tensor([0.6])
    module = SvdModule(decompose(W, RANK), rotate, scaling)
    module.initialise(0.3, torch.Generator().manual_seed(0))
    identity = torch.eye(RANK)
    Rv = cayley(skew(module.theta_v, RANK), c)[0] if module.theta_v is not None else identity
    Ru = cayley(skew(module.theta_u, RANK), c)[0] if module.theta_u is not None else identity
    S_c = scaled(module.S, module.scale, c, scaling)[0]
    residual = W - module.U * module.S @ module.V.T
    published = (x @ module.V @ Rv * S_c) @ (module.U @ Ru).T + x @ residual.T
    ours = x @ W.T + x @ module.V @ module.core(c)[0] @ module.U.T
    torch.testing.assert_close(ours, published, atol=1e-4, rtol=1e-4)
    assert torch.equal(module.core(torch.zeros(1))[0], torch.zeros(RANK, RANK))


def test_negating_the_parameters_exchanges_the_signs_of_c():
    module = SvdModule(decompose(torch.randn(8, 8), RANK), "v", "exp")
    module.initialise(0.2, torch.Generator().manual_seed(0))
    up = module.core(torch.ones(1))
    for parameter in module.parameters():
        parameter.data.neg_()
    torch.testing.assert_close(module.core(-torch.ones(1)), up)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_decomposition_rebuilds_the_weight_with_fixed_signs(shape):
    W = torch.randn(*shape)
    U, S, V = decompose(W, None)
    torch.testing.assert_close(U * S @ V.T, W, atol=1e-5, rtol=1e-5)
    assert (V.gather(0, V.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(decompose(W, 3).S, S[:3])
