"""LoRA and DoRA against peft's own layers: c = +1 is peft's adapter, c = -1 its mirror."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pipeline.lm.load import load_model
from pipeline.steering import METHODS
from pipeline.steering.methods.dora import DoraModule
from pipeline.steering.methods.lora import LoraModule

RANK, NAME = 4, "model.layers.1.mlp.down_proj"


def planted(kind: type[LoraModule], model) -> tuple:
    """An adapter on one module with parameters large enough to matter."""
    target = model.get_submodule(NAME)
    module = kind(target.in_features, target.out_features, RANK)
    generator = torch.Generator().manual_seed(0)
    module.initialise(0.1, generator)
    if isinstance(module, DoraModule):
        module.delta.data = 0.3 * torch.randn(target.out_features, generator=generator)
    method = METHODS["dora" if kind is DoraModule else "lora"].load()
    return method({NAME: module}, {}), module


def peft_logits(manifest, module: LoraModule, ids, sign: float):
    model = load_model(manifest, "float32", torch.device("cpu"))
    dora = isinstance(module, DoraModule)
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=r"model\.layers\.1\.mlp\.down_proj", use_dora=dora
    )
    wrapped = get_peft_model(model, config)
    layer = wrapped.base_model.model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(module.A)
        layer.lora_B["default"].weight.copy_(sign * module.B)
        if dora:
            layer.lora_magnitude_vector["default"].weight.copy_(
                layer.base_layer.weight.norm(dim=1) + sign * module.delta
            )
        return wrapped(input_ids=ids).logits


@pytest.mark.parametrize("kind", [LoraModule, DoraModule])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_at_one_it_is_pefts_adapter_and_at_minus_one_its_mirror(kind, sign, model, manifest):
    ids = torch.arange(20).view(2, 10) + 30
    steering, module = planted(kind, model)
    with torch.no_grad():
        base = model(input_ids=ids).logits
        with steering.steer(model, sign):
            ours = model(input_ids=ids).logits
    theirs = peft_logits(manifest, module, ids, sign)
    assert (ours - base).abs().max() > 0.02
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_the_initial_A_is_drawn_as_pefts(model):
    ours = LoraModule(64, 8, 32)
    ours.initialise(0.0, torch.Generator().manual_seed(0))
    layer = torch.nn.Linear(64, 8)
    config = LoraConfig(r=32, lora_alpha=32, target_modules=["0"])
    theirs = (
        get_peft_model(torch.nn.Sequential(layer), config)
        .base_model.model[0]
        .lora_A["default"]
        .weight
    )
    assert ours.A.abs().max().item() == pytest.approx(
        theirs.abs().max().item(), rel=0.02
    )  # the bound of the same uniform law
    assert ours.A.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
    assert torch.equal(ours.B, torch.zeros(8, 32))


def test_doras_gain_is_one_at_zero_and_carries_gradient_to_the_magnitude_alone(model):
    _, module = planted(DoraModule, model)
    weight = model.get_submodule(NAME).weight
    gain = module.gain(weight, torch.tensor([0.0, 0.7]))
    assert torch.equal(gain[0], torch.ones(len(weight)))
    expected = (weight.norm(dim=1) + 0.7 * module.delta) / (
        weight + 0.7 * module.B @ module.A
    ).norm(dim=1)
    torch.testing.assert_close(gain[1], expected, atol=1e-5, rtol=1e-5)
    gain[1].sum().backward()
    assert module.A.grad is None
    assert module.delta.grad.abs().min() > 0


def test_a_bias_is_not_scaled_by_dora():
    target = torch.nn.Linear(6, 5)
    module = DoraModule(6, 5, 2)
    module.initialise(0.2, torch.Generator().manual_seed(0))
    module.delta.data.fill_(0.4)
    hook = module.hook(target, torch.tensor([1.0]), torch.tensor(0))
    x = torch.randn(1, 3, 6)
    changed = (target.weight.norm(dim=1) + 0.4) / (target.weight + module.B @ module.A).norm(dim=1)
    weight = changed[:, None] * (target.weight + module.B @ module.A)
    torch.testing.assert_close(
        hook(target, (x,), target(x)), x @ weight.T + target.bias, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_flipping_exchanges_the_signs(name, model):
    kind = DoraModule if name == "dora" else LoraModule
    steering, _ = planted(kind, model)
    ids = torch.arange(10).view(1, 10) + 30
    with torch.no_grad():
        with steering.steer(model, 1.0):
            up = model(input_ids=ids).logits
        steering.flip()
        with steering.steer(model, -1.0):
            torch.testing.assert_close(model(input_ids=ids).logits, up, atol=1e-5, rtol=1e-5)
