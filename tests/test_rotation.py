"""Identities of the adapter's formula."""

import math

import pytest
import torch

from pipeline.steering.angles import bounded, largest_angle, spectral_norm
from pipeline.steering.methods.innerpissa import InnerPissa, SvdAdapterParams, SvdModule
from pipeline.steering.rotation import block_diagonal, cayley, singular_values_at, skew
from pipeline.steering.svd import decompose
from pipeline.support.errors import InputError

RANK = 6


def make(W, sections, std=0.2, **changes) -> SvdModule:
    section: SvdAdapterParams = sections["innerpissa"].model_copy(
        update={"rotation_init_std": std, "scale_init_std": std} | changes
    )
    module = SvdModule(decompose(W, RANK), section.model_dump())
    module.initialise(section, torch.Generator().manual_seed(0))
    return module


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
    torch.testing.assert_close(
        cayley(small, torch.ones(1))[0], torch.matrix_exp(small), atol=1e-4, rtol=0
    )


def test_a_plane_turns_by_twice_the_arc_tangent_of_half_its_generator():
    R = cayley(skew(torch.tensor([0.8]), 2), torch.ones(1))[0]
    torch.testing.assert_close(torch.acos(R[0, 0]), 2 * torch.atan(torch.tensor(0.4)))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("exp", 2 * 2.718281828), ("additive", 3.0), ("tanh", 2 * (1 + 0.761594156))],
)
def test_scaling_modes_by_hand(mode, expected):
    found = singular_values_at(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0]), mode)
    torch.testing.assert_close(found, torch.tensor([[expected]]))


@pytest.mark.parametrize("rotate", ["v", "u", "both", "none"])
@pytest.mark.parametrize("scaling", ["exp", "additive", "tanh", "none"])
@pytest.mark.parametrize(("bound", "block"), [("none", None), ("spectral", 3), ("elementwise", 2)])
def test_the_additive_form_equals_the_published_residual_form(
    rotate, scaling, bound, block, sections
):
    torch.manual_seed(1)
    W, x, c = torch.randn(9, 12), torch.randn(4, 12), torch.tensor([0.6])
    module = make(
        W, sections, 0.3, rotate=rotate, scaling=scaling, angle_bound=bound, block_size=block
    )
    identity, size = torch.eye(RANK), block or RANK

    def rotation(theta):
        if theta is None:
            return identity
        blocks = [
            cayley(bounded(skew(part, size), bound, module.max_angle), c)[0] for part in theta
        ]
        return torch.block_diag(*blocks)

    Rv, Ru = rotation(module.theta_v), rotation(module.theta_u)
    S_c = singular_values_at(module.S, module.scale, c, scaling)[0]
    residual = W - module.U * module.S @ module.V.T
    published = (x @ module.V @ Rv * S_c) @ (module.U @ Ru).T + x @ residual.T
    ours = x @ W.T + x @ module.V @ module.core(c)[0] @ module.U.T
    torch.testing.assert_close(ours, published, atol=1e-4, rtol=1e-4)
    assert torch.equal(module.core(torch.zeros(1))[0], torch.zeros(RANK, RANK))


@pytest.mark.parametrize("bound", ["none", "elementwise", "spectral"])
def test_flipping_exchanges_the_signs_of_c(bound, sections):
    module = make(torch.randn(8, 8), sections, rotate="both", angle_bound=bound)
    up = module.core(torch.ones(1))
    module.flip()
    torch.testing.assert_close(module.core(-torch.ones(1)), up)


def test_the_spectral_bound_bounds_every_plane_and_the_elementwise_one_does_not():
    torch.manual_seed(2)
    A, angle = skew(50 * torch.randn(16 * 15 // 2), 16), math.pi / 4
    found = {
        kind: largest_angle(cayley(bounded(A, kind, angle), torch.ones(1)))
        for kind in ("spectral", "elementwise")
    }
    assert found["spectral"] == pytest.approx(angle, abs=1e-5)
    assert found["elementwise"] > 2.2  # 126 degrees
    plane = bounded(skew(torch.tensor([1e3]), 2), "elementwise", angle)
    assert largest_angle(cayley(plane, torch.ones(1))) == pytest.approx(angle, abs=1e-5)


def test_a_bound_leaves_small_rotations_alone_and_zero_without_nan():
    small = skew(1e-3 * torch.randn(15), RANK)
    for kind in ("spectral", "elementwise"):
        torch.testing.assert_close(bounded(small, kind, math.pi / 4), small, rtol=1e-3, atol=1e-6)
        assert torch.equal(bounded(torch.zeros(4, 4), kind, 0.5), torch.zeros(4, 4))


def test_the_spectral_norm_and_its_gradient_are_those_of_the_singular_values():
    torch.manual_seed(3)
    A = torch.stack([skew(s * torch.randn(28), 8) for s in (1e-3, 1.0, 1e3)])
    A[1, :4, 4:] = A[1, 4:, :4] = 0.0  # planes in blocks, the second block's a copy of the first's
    A[1, 4:, 4:] = A[1, :4, :4] * (1 - 1e-7)
    exact = A.double().requires_grad_()
    torch.linalg.matrix_norm(exact, ord=2).log().sum().backward()
    ours = A.clone().requires_grad_()
    norm = spectral_norm(ours)
    norm.log().sum().backward()
    found = norm[:, 0, 0].double()
    torch.testing.assert_close(found, torch.linalg.matrix_norm(exact, ord=2), rtol=1e-6, atol=0)
    skewed = exact.grad - exact.grad.mT  # all that a change of the packed entries sees
    for i in (0, 2):  # two planes of one size have no gradient
        torch.testing.assert_close(
            (ours.grad - ours.grad.mT)[i].double(),
            skewed[i],
            rtol=1e-4,
            atol=1e-5 * skewed[i].max(),
        )


@pytest.mark.parametrize("rotate", ["v", "both", "none"])
@pytest.mark.parametrize(("bound", "block"), [("none", None), ("spectral", 3)])
def test_modules_in_one_batch_have_the_core_and_gradient_that_they_have_alone(
    rotate, bound, block, sections
):
    torch.manual_seed(4)
    more = {"rotate": rotate, "angle_bound": bound, "block_size": block}
    shapes = {"a": (9, 12), "b": (12, 9), "c": (7, 8), "d": (9, 5)}  # d is of rank 5
    more_of = {name: more | {"block_size": None} if name == "d" else more for name in shapes}
    modules = {
        name: make(torch.randn(shape), sections, **more_of[name]) for name, shape in shapes.items()
    }
    doses = torch.tensor([-1.0, 0.5, 1.0])
    steering = InnerPissa(modules, {})

    def gradients(cores: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return torch.autograd.grad(
            sum(M.square().sum() for M in cores.values()), steering.parameters()
        )

    together = steering.cores(doses)
    alone = {name: module.core(doses) for name, module in modules.items()}
    for name in shapes:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-6, atol=1e-6)
    for ours, expected in zip(gradients(together), gradients(alone), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_adapter_solves_each_dose_once_until_it_changes(sections, monkeypatch):
    steering = InnerPissa({"a": make(torch.randn(9, 12), sections).requires_grad_(False)}, {})
    solved, plain = [], steering.cores
    monkeypatch.setattr(steering, "cores", lambda c: solved.extend(c.tolist()) or plain(c))
    for doses in ([1.0, -1.0], [0.5, 1.0], [-1.0]):
        found = steering.kept_cores(torch.tensor(doses))["a"]
        torch.testing.assert_close(found, plain(torch.tensor(doses))["a"])
    assert sorted(solved) == [-1.0, 0.5, 1.0]
    steering.flip()
    changed = steering.kept_cores(torch.ones(1))["a"]
    torch.testing.assert_close(changed, plain(torch.ones(1))["a"])
    assert solved[-1] == 1.0
    assert len(solved) == 4


def test_blocks_turn_only_within_themselves(sections):
    module = make(torch.randn(9, 12), sections, block_size=2)
    R = module.rotation(module.theta_v, torch.tensor([1.0, -1.0]))
    outside = block_diagonal(torch.ones(1, 3, 2, 2))[0] == 0
    assert torch.equal(R[0][outside], torch.zeros(int(outside.sum())))
    torch.testing.assert_close(R[1], R[0].T)
    with pytest.raises(InputError, match="block_size 4 does not divide rank 6"):
        make(torch.randn(9, 12), sections, block_size=4)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_decomposition_rebuilds_the_weight_with_fixed_signs(shape):
    W = torch.randn(*shape)
    U, S, V = decompose(W, None)
    torch.testing.assert_close(U * S @ V.T, W, atol=1e-5, rtol=1e-5)
    assert (V.gather(0, V.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(decompose(W, 3).S, S[:3])
