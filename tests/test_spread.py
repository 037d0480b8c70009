"""A model spread by accelerate: here layers on disk, which come to the CPU one at a time; several GPUs need GPUs."""

from dataclasses import replace

import pytest
import torch
from accelerate import dispatch_model

from pipeline.lm.layers import device_of, select
from pipeline.lm.load import SPREAD, load_model
from pipeline.lm.quantisation import memory, weight_of
from pipeline.steering.svd import read_cache, write_cache
from tests.test_contract import encode, logits

CPU = torch.device("cpu")


@pytest.fixture
def spread(manifest, tmp_path):
    places = {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.norm": "cpu",
        "lm_head": "cpu",
    }
    places |= {f"model.layers.{index}": "disk" if index in (1, 3) else "cpu" for index in range(4)}
    model = load_model(manifest, "float32", CPU)
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path / "offload"))


@torch.no_grad()
def test_spread_on_a_machine_without_gpus_is_the_cpu(manifest, model, tokenizer):
    found = load_model(manifest, "float32", SPREAD)
    assert torch.equal(logits(found, *encode(tokenizer)), logits(model, *encode(tokenizer)))
    assert load_model(manifest | {"quantisation": "4bit"}, "float32", SPREAD).device == CPU


@torch.no_grad()
def test_weights_on_disk_are_read_where_they_are_computed_with(
    spread, model, manifest, modules, svd_folder, tmp_path
):
    targets, others = select(spread, modules), select(model, modules)
    assert any(target.module.weight.is_meta for target in targets)
    assert memory(spread) == memory(model)
    for target, other in zip(targets, others, strict=True):
        assert device_of(target.module) == CPU
        assert torch.equal(weight_of(target.module), weight_of(other.module))
    assert any(target.module.weight.is_meta for target in targets)
    write_cache(tmp_path / "svd", targets, None, manifest["weights_sha256"])
    for target in targets:
        found, own = (
            read_cache(folder, target.name, None, CPU) for folder in (tmp_path / "svd", svd_folder)
        )
        assert torch.equal(found.S, own.S)


@pytest.mark.parametrize("method", ["innerpissa", "dora", "s_space", "mean_diff", "gradient"])
def test_methods_fit_and_steer_the_same(method, spread, model, tokenizer, base, fit):
    apart, whole = fit(method, base=replace(base, model=spread)), fit(method)
    for key, tensor in whole.tensors().items():
        torch.testing.assert_close(apart.tensors()[key], tensor, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for c in (torch.zeros(3), torch.tensor([1.0, -1.0, 0.5])):
            found = []
            for each in (spread, model):
                with whole.steer(each, c):
                    found.append(logits(each, *encode(tokenizer)))
            assert torch.equal(*found)
