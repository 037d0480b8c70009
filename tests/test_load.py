"""Models: folders in the hub's layout, hashes, and refusals in one sentence."""

import shutil

import pytest
import torch

from pipeline.errors import InputError
from pipeline.lm.load import choose_device, describe, load_model, locate
from pipeline.sections import ModelParams


def params(source: str) -> ModelParams:
    return ModelParams(source=source, revision=None, dtype="float32", batch_size=4, template_options={})


def test_a_folder_is_described_by_hash_and_shape(tiny_folder, manifest):
    found = describe("tiny", params(str(tiny_folder)))
    assert found["weights_sha256"] == manifest["weights_sha256"]
    assert (found["layers"], found["hidden_size"], found["architecture"]) == (4, 64, "Qwen3ForCausalLM")
    assert found["revision"] is None


def test_a_loaded_model_is_frozen(model):
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_other_weights_than_the_manifests_are_refused(manifest):
    with pytest.raises(InputError, match="the manifest says 000000000000: run `dvc repro model`"):
        load_model(manifest | {"weights_sha256": "0" * 64}, "float32", torch.device("cpu"))


@pytest.mark.parametrize(("source", "said"), [
    ("no/such-model-anywhere", "hub cannot be reached|neither a folder nor on the hub"),
    ("a/b/c/d", "neither a folder nor a hub id"),
])  # fmt: skip
def test_a_model_that_cannot_be_found_is_refused(source, said):
    with pytest.raises(InputError, match=said):
        locate(source, None)


def test_a_folder_without_weights_is_refused(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no \*\.safetensors"):
        describe("m", params(str(tmp_path / "m")))


def test_a_model_without_a_chat_template_is_refused(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        describe("m", params(str(tmp_path / "m")))


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="device 'abacus' cannot be used here"):
        choose_device("abacus")
