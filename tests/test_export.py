"""Exported weights and LoRAs against the steered model itself, for every parametrisation of an adapter."""

import itertools
from typing import get_args

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pipeline.app.export.lora import wrapped, write_lora
from pipeline.app.export.weights import baked, updates
from pipeline.lm.base import Base
from pipeline.lm.load import load_model
from pipeline.steering import METHODS
from pipeline.steering.methods.dora import Dora, DoraModule
from pipeline.steering.methods.innerpissa import InnerPissa, SvdAdapterParams, SvdModule
from pipeline.steering.methods.lora import Lora, LoraModule
from pipeline.steering.methods.s_space import SSpace
from pipeline.steering.svd import decompose
from pipeline.support.errors import InputError
from tests.architectures import load_family
from tests.conftest import LEARNED, plain_logits

NAMES = ("model.layers.0.self_attn.o_proj", "model.layers.1.mlp.down_proj")
INPUTS = {"input_ids": torch.arange(24).view(2, 12) + 30}
CPU = torch.device("cpu")
FIELDS = {
    name: get_args(SvdAdapterParams.model_fields[name].annotation)
    for name in ("rotate", "scaling", "angle_bound")
}
SHAPES = [
    {
        "rotate": rotate,
        "scaling": scaling,
        "angle_bound": "none",
        "max_angle": 0.8,
        "block_size": None,
    }
    for rotate, scaling in itertools.product(FIELDS["rotate"], FIELDS["scaling"])
    if (rotate, scaling) != ("none", "none")
] + [
    {
        "rotate": "both",
        "scaling": "exp",
        "angle_bound": bound,
        "max_angle": 0.8,
        "block_size": block,
    }
    for bound, block in itertools.product(FIELDS["angle_bound"], (None, 4))
]


def planted_svd(model, shape, names=NAMES) -> InnerPissa:
    """An SVD adapter whose parameters are large enough to matter."""
    modules, generator = {}, torch.Generator().manual_seed(0)
    for name in names:
        module = SvdModule(decompose(model.get_submodule(name).weight, 8), shape)
        for parameter in module.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
        modules[name] = module
    return InnerPissa(modules, shape)


def planted_lora(model, kind, names=NAMES) -> Lora:
    modules, generator = {}, torch.Generator().manual_seed(0)
    for name in names:
        target = model.get_submodule(name)
        module = modules[name] = kind(target.in_features, target.out_features, 8)
        module.initialise(0.1, generator)
        if isinstance(module, DoraModule):
            module.delta.data = 0.3 * torch.randn(target.out_features, generator=generator)
    return (Dora if kind is DoraModule else Lora)(modules, {})


@torch.no_grad()
def compare(model, steering, c, exported) -> None:
    """The exported logits are the steered ones to float32's rounding, and both are far from the base's."""
    base = model(**INPUTS).logits
    with steering.steer(model, c):
        steered = model(**INPUTS).logits
    assert (steered - base).abs().max() > 0.05
    torch.testing.assert_close(exported, steered, atol=1e-4, rtol=1e-4)


def through_peft(model, steering, c, folder, manifest):
    """Logits of plain peft on a fresh base, from what was written to disk."""
    with wrapped(model, updates(steering, model, c)) as peft_model:
        write_lora(folder, peft_model, Base(manifest, model, None))
    base = AutoModelForCausalLM.from_pretrained(manifest["source"], dtype="float32").eval()
    return plain_logits(PeftModel.from_pretrained(base, folder), INPUTS)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_every_svd_parametrisation_is_a_low_rank_change_of_the_weight(shape, model):
    steering = planted_svd(model, shape)
    for c in (-0.7, 1.0):
        assert all(
            update.A.shape[0] == update.B.shape[1] == 8
            for update in updates(steering, model, c).values()
        )
        compare(model, steering, c, plain_logits(model, INPUTS, baked(steering, model, c)))


@pytest.mark.parametrize("shape", [SHAPES[0], *SHAPES[-2:]], ids=["v", "both", "blocks"])
def test_an_svd_adapter_loads_in_plain_peft(shape, model, manifest, tmp_path):
    steering = planted_svd(model, shape)
    compare(model, steering, -0.7, through_peft(model, steering, -0.7, tmp_path, manifest))
    written = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.shape[0 if "lora_A" in name else 1] for name, tensor in written.items()} == {8}


@pytest.mark.parametrize("kind", [LoraModule, DoraModule])
@pytest.mark.parametrize("c", [-1.5, 1.0])
def test_lora_and_dora_load_in_plain_peft_at_any_coefficient(kind, c, model, manifest, tmp_path):
    steering = planted_lora(model, kind)
    compare(model, steering, c, through_peft(model, steering, c, tmp_path, manifest))
    compare(model, steering, c, plain_logits(model, INPUTS, baked(steering, model, c)))


def test_modules_of_different_ranks_load_in_plain_peft(model, manifest, tmp_path):
    """The weight form of S-space has each weight's full rank: k_proj's is smaller than o_proj's."""
    modules, generator = {}, torch.Generator().manual_seed(0)
    for name in ("model.layers.0.self_attn.k_proj", NAMES[0]):
        U, S, V = decompose(model.get_submodule(name).weight, None)
        modules[name] = {"U": U, "V": V, "change": S * torch.randn(S.shape, generator=generator)}
    assert len({len(parts["change"]) for parts in modules.values()}) == 2
    steering = SSpace(modules)
    compare(model, steering, 0.5, through_peft(model, steering, 0.5, tmp_path, manifest))
    compare(model, steering, 0.5, plain_logits(model, INPUTS, baked(steering, model, 0.5)))


def test_an_added_vector_becomes_a_bias_where_there_is_one(tokenizer, tmp_path):
    model = load_family("qwen2", tmp_path, tokenizer).model
    name = "model.layers.1.self_attn.q_proj"
    steering = SSpace(
        {name: {"vector": torch.randn(64, generator=torch.Generator().manual_seed(0))}}
    )
    found = baked(steering, model, 2.0)
    assert list(found) == [f"{name}.bias"]
    compare(model, steering, 2.0, plain_logits(model, INPUTS, found))
    with pytest.raises(
        InputError, match=r"S-space: a vector is added to .*o_proj, which has no bias"
    ):
        baked(SSpace({NAMES[0]: steering.modules[name]}), model, 1.0)


@pytest.mark.parametrize("name", METHODS)
def test_every_fitted_method_is_baked_or_refused_with_its_reason(name, model, fit):
    changes = {"form": "weight"} if name == "s_space" else {}
    steering = fit(name, **changes)
    if name in LEARNED or name == "s_space":
        exported = plain_logits(model, INPUTS, baked(steering, model, -1.0))
        with torch.no_grad(), steering.steer(model, -1.0):
            torch.testing.assert_close(exported, model(**INPUTS).logits, atol=1e-4, rtol=1e-4)
        return
    for refuses in (baked, updates):
        with pytest.raises(
            InputError,
            match="words of the chat"
            if name == "prompting"
            else f"{steering.label}: a vector is added to",
        ):
            refuses(steering, model, 1.0)


def test_the_model_is_left_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steering = planted_svd(model, SHAPES[0])
    baked(steering, model, 1.0)
    with pytest.raises(KeyError), wrapped(model, updates(steering, model, 1.0)):
        raise KeyError
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        k: v.shape for k, v in before.items()
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with wrapped(model, updates(steering, model, 1.0)) as again:
        compare(load_model_of(model), steering, 1.0, plain_logits(again, INPUTS))


def load_model_of(model):
    return AutoModelForCausalLM.from_pretrained(model.config._name_or_path, dtype="float32").eval()


def test_a_zero_coefficient_bakes_the_base(model):
    for steering in (
        planted_svd(model, SHAPES[0]),
        planted_lora(model, LoraModule),
        planted_lora(model, DoraModule),
    ):
        for name, tensor in baked(steering, model, 0.0).items():
            assert torch.equal(tensor, model.get_parameter(name))


def test_a_quantised_base_is_refused(model, manifest):
    steering = planted_svd(model, SHAPES[0])
    packed = AutoModelForCausalLM.from_pretrained(
        manifest["source"],
        quantization_config=BitsAndBytesConfig(load_in_4bit=True),
        device_map="cpu",
    )
    with pytest.raises(
        InputError, match="the weight of .* is quantised: export from the unquantised base"
    ):
        baked(steering, packed, 1.0)


def test_a_checkpoint_in_half_precision_keeps_it(model, manifest):
    half = load_model(manifest, "bfloat16", CPU)
    found = baked(planted_svd(model, SHAPES[0]), half, 1.0)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
