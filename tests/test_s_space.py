"""S-space arithmetic against its formulas by hand, and the contract of a steering method."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from pipeline.lm.forward import last_hidden, read_layers
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.methods.s_space import SSpace, signed_by
from pipeline.steering.states import site_states
from pipeline.steering.svd import Factors, decompose

NAMES = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in ("self_attn.o_proj", "mlp.down_proj")
]


@pytest.fixture
def fitted(request, fit) -> SSpace:
    return fit("s_space", last_tokens=2, form=request.param)


@pytest.fixture
def batch(tokenizer, pairs):
    texts = [pairs[1].neutral[0], pairs[1].positive[1], pairs[1].negative[2]]
    return pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id, torch.device("cpu"))


additive = pytest.mark.parametrize("fitted", ["additive"], indirect=True)
weight = pytest.mark.parametrize("fitted", ["weight"], indirect=True)
both = pytest.mark.parametrize("fitted", ["additive", "weight"], indirect=True)


@torch.no_grad()
def activations(base, pairs) -> list[tuple[Tensor, Tensor]]:
    positive, negative = (
        site_states(base, texts, NAMES, 2) for texts in (pairs.positive, pairs.negative)
    )
    return list(zip(positive, negative, strict=True))


def test_factors_are_signed_by_an_input_and_stay_factors():
    W, x = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([1.0, -2.0, 0.5]),
    )
    factors = decompose(W, None)
    flip = torch.tensor([-1.0, 1.0, -1.0])
    for given in (factors, Factors(factors.U * flip, factors.S, factors.V * flip)):
        found = signed_by(given, W @ x)
        assert (x @ found.V >= 0).all()
        torch.testing.assert_close((found.U * found.S) @ found.V.transpose(0, 1), W)


@additive
@torch.no_grad()
def test_the_additive_form_is_its_formula(fitted, model, pairs, base):
    assert list(fitted.modules) == NAMES
    for name, (a, b) in zip(NAMES, activations(base, pairs[0]), strict=True):
        rows = a - b
        U, S, _ = torch.linalg.svd(model.get_submodule(name).weight, full_matrices=False)
        delta = normalize((rows @ (U * S.sqrt())).mean(0), dim=0)
        direction = normalize((U * S.sqrt()) @ delta, dim=0)
        expected = direction * rows.mean(0).norm() / 4
        torch.testing.assert_close(fitted.modules[name]["vector"], expected, rtol=1e-4, atol=1e-4)


@additive
@torch.no_grad()
def test_the_additive_form_shifts_every_token(fitted, model, batch):
    first = [model.get_submodule(NAMES[0])]
    with read_layers(first) as seen:
        last_hidden(model, *batch)
        base = seen[0]
    with fitted.steer(model, -1.5), read_layers(first) as seen:
        last_hidden(model, *batch)
    torch.testing.assert_close(seen[0], base - 1.5 * fitted.modules[NAMES[0]]["vector"])


@weight
@torch.no_grad()
def test_the_weight_form_is_a_change_of_the_dense_weight(fitted, model, pairs, base):
    for name, (a, b) in zip(NAMES, activations(base, pairs[0]), strict=True):
        module = model.get_submodule(name)
        U, S, Vh = torch.linalg.svd(module.weight, full_matrices=False)
        sign = ((a + b).mean(0) @ U).sign()
        delta = normalize(((a - b) @ (U * S.sqrt())).mean(0), dim=0) * sign
        change = (U * S.sqrt()) @ torch.diag(delta) @ (Vh * S.sqrt()[:, None])
        inputs = torch.randn(2, 5, module.in_features, generator=torch.Generator().manual_seed(0))
        with fitted.steer(model, 0.7):
            torch.testing.assert_close(
                module(inputs), linear(inputs, module.weight + 0.7 * change), rtol=1e-3, atol=1e-3
            )


@weight
@torch.no_grad()
def test_the_weight_form_moves_the_mean_output_towards_the_positive_persona(
    fitted, model, pairs, base
):
    for name, (a, b) in zip(NAMES, activations(base, pairs[0]), strict=True):
        module, parts = model.get_submodule(name), fitted.modules[name]
        mean_input = torch.linalg.lstsq(module.weight, (a + b).mean(0) / 2).solution
        moved = parts["U"] @ (parts["change"] * (mean_input @ parts["V"]))
        assert moved @ (a - b).mean(0) > 0


def test_a_bias_changes_no_factor(model, fit):
    found = []
    for size in (0.0, 100.0):
        model.get_submodule(NAMES[0]).bias = torch.nn.Parameter(
            torch.full((64,), size), requires_grad=False
        )
        found.append(fit("s_space", last_tokens=2, form="weight").modules[NAMES[0]])
    for key in ("U", "V", "change"):
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-3, atol=1e-3)


@weight
def test_no_singular_value_changes_by_more_than_itself(fitted, model):
    for name, parts in fitted.modules.items():
        S = torch.linalg.svdvals(model.get_submodule(name).weight)
        torch.testing.assert_close(
            (parts["change"] / S).norm(), torch.tensor(1.0), rtol=1e-3, atol=1e-3
        )


@both
@torch.no_grad()
def test_rows_with_different_coefficients_equal_the_rows_alone(fitted, model, batch):
    ids, mask = batch
    coefficients = torch.tensor([1.0, -0.5, 0.0])
    with fitted.steer(model, coefficients):
        together = last_hidden(model, ids, mask)[:, -1]
    for row, c in enumerate(coefficients.tolist()):
        with fitted.steer(model, c):
            alone = last_hidden(model, ids[row : row + 1], mask[row : row + 1])[:, -1]
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


@both
@torch.no_grad()
def test_zero_is_the_base_model_and_both_signs_move_it(fitted, model, batch):
    base = last_hidden(model, *batch)
    for zero in (0.0, torch.zeros(3)):
        with fitted.steer(model, zero):
            assert torch.equal(last_hidden(model, *batch), base)
    with fitted.steer(model, 1.0):
        plus = last_hidden(model, *batch)
    with fitted.steer(model, -1.0):
        minus = last_hidden(model, *batch)
    assert (
        min((plus - base).abs().max(), (minus - base).abs().max(), (plus - minus).abs().max())
        > 1e-3
    )
    assert not any(module._forward_hooks for module in model.modules())


@both
@torch.no_grad()
def test_a_rebuilt_method_is_the_same(fitted, model, batch):
    tensors = fitted.tensors()
    assert len(tensors) == sum(map(len, fitted.modules.values()))
    loaded = SSpace.load(
        {name: tensors[name].clone() for name in sorted(tensors)}, fitted.metadata()
    )
    with fitted.steer(model, 0.5):
        own = last_hidden(model, *batch)
    with loaded.steer(model, 0.5):
        assert torch.equal(last_hidden(model, *batch), own)
