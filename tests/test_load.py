"""Models: folders in the hub's layout, hashes, and refusals in one sentence."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.lm.layers import select
from pipeline.lm.load import choose_device, describe, load_model
from pipeline.lm.sources import locate, weights_hash
from pipeline.support.errors import InputError
from pipeline.support.sections import ModelParams
from tests.architectures import FAMILIES, modules, save_tiny
from tests.conftest import ROOT


def params(source: str) -> ModelParams:
    return ModelParams(
        source=source, revision=None, dtype="float32", batch_size=4, template_options={}
    )


def test_a_folder_is_described_by_hash_and_shape(tiny_folder, manifest):
    found = describe("tiny", params(str(tiny_folder)))
    assert found["weights_sha256"] == manifest["weights_sha256"]
    assert (found["layers"], found["hidden_size"], found["architecture"]) == (
        4,
        64,
        "Qwen3ForCausalLM",
    )
    assert found["revision"] is None


def test_a_loaded_model_is_frozen(model):
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_other_weights_than_the_manifests_are_refused(manifest):
    with pytest.raises(InputError, match="the manifest says 000000000000: run `dvc repro`"):
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
    with pytest.raises(InputError, match=r"holds no model\*\.safetensors"):
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


def error(kind):
    return kind("said by the hub", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(("raised", "said"), [
    (error(GatedRepoError), "model 'org/it' is gated: accept its terms on the hub and run `hf auth login`"),
    (error(RevisionNotFoundError), "model 'org/it' has no revision 'v9': name a commit, tag or branch of it"),
    (error(RepositoryNotFoundError), "model 'org/it' is neither a folder nor on the hub: correct its name"),
    (LocalEntryNotFoundError("offline"), "model 'org/it' is not in the local cache and the hub cannot be reached"),
    (OfflineModeIsEnabled("offline"), "model 'org/it' is not in the local cache and the hub cannot be reached"),
    (error(HfHubHTTPError), "model 'org/it' is not in the local cache and the hub cannot be reached"),
    (HTTPError("no route"), "model 'org/it' is not in the local cache and the hub cannot be reached"),
    (ConnectionError("no route"), "model 'org/it' is not in the local cache and the hub cannot be reached"),
    (LocalTokenNotFoundError("no token"), "model 'org/it' needs a login: run `hf auth login`"),
    (OSError(28, "No space left on device"), "model 'org/it' cannot be stored .*No space left on device"),
])  # fmt: skip
def test_every_way_a_download_fails_is_one_sentence(monkeypatch, raised, said):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("pipeline.lm.sources.snapshot_download", fail)
    with pytest.raises(InputError, match=said) as caught:
        locate("org/it", "v9")
    assert "\n" not in str(caught.value)


def test_a_gated_model_that_was_not_read_before_offline_is_refused_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        InputError,
        match="not in the local cache and the hub cannot be reached: connect, or give a local folder",
    ):
        describe(
            "llama",
            params("meta-llama/Llama-3.2-1B-Instruct").model_copy(update={"revision": "main"}),
        )


def test_the_hub_snapshots_commit_is_what_the_manifest_keeps(monkeypatch, tmp_path, tiny_folder):
    snapshot = tmp_path / "snapshots" / ("c" * 40)
    shutil.copytree(tiny_folder, snapshot)
    asked = {}

    def download(source, **options):
        asked.update(options, source=source)
        return str(snapshot)

    monkeypatch.setattr("pipeline.lm.sources.snapshot_download", download)
    found = describe("it", params("org/it").model_copy(update={"revision": "main"}))
    assert (found["source"], found["revision"], asked["revision"]) == ("org/it", "c" * 40, "main")
    load_model(found, "float32", torch.device("cpu"))
    assert asked["revision"] == "c" * 40


def test_weights_that_a_repository_holds_twice_count_once(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "m")
    shutil.copy(tiny_folder / "model.safetensors", tmp_path / "m" / "consolidated.safetensors")
    assert weights_hash(tmp_path / "m") == weights_hash(tiny_folder)


@torch.no_grad()
@pytest.mark.parametrize("old_names", [True, False])
def test_of_a_multimodal_model_the_text_decoder_alone_is_loaded(tmp_path, tokenizer, old_names):
    folder = save_tiny(FAMILIES["gemma3-multimodal"], tmp_path / "m", tokenizer)
    file = folder / "model.safetensors"
    names = {
        k: k if old_names else re.sub(r"^language_model\.model\.", "model.language_model.", k)
        for k in load_file(file)
    }
    save_file({names[k]: v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    whole = AutoModelForCausalLM.from_pretrained(folder)
    assert any("vision_tower" in name for name, _ in whole.named_parameters())
    for kind in ("none", "4bit"):
        manifest = describe("it", params(str(folder)), kind)
        model = load_model(manifest, "float32", torch.device("cpu"))
        assert type(model).__name__ == "Gemma3ForCausalLM"
        assert manifest["architecture"] == "Gemma3ForCausalLM"
        assert not any("vision" in name for name, _ in model.named_parameters())
        assert len(select(model, modules("residual-writers", 0.0, 1.0))) == 8
        ids = torch.randint(5, 100, (2, 9), generator=torch.Generator().manual_seed(0))
        same = torch.equal(model(input_ids=ids).logits, whole(input_ids=ids).logits)
        assert same == (kind == "none")


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    save_file(
        {k: v for k, v in load_file(file).items() if "layers.1.mlp.down" not in k},
        file,
        metadata={"format": "pt"},
    )
    with pytest.raises(
        InputError,
        match=r"lack model\.layers\.1\.mlp\.down_proj\.weight: copy or download the model again",
    ):
        load_model(describe("m", params(str(tmp_path / "m"))), "float32", torch.device("cpu"))


def test_every_listed_model_has_the_keys_that_stages_declare():
    sections = YAML(typ="safe").load(ROOT / "params.yaml")["models"]
    assert all(set(section) == set(ModelParams.model_fields) for section in sections.values())
    local = ("reference", "smollm2-gguf")
    pinned = [section["revision"] for name, section in sections.items() if name not in local]
    assert pinned and all(re.fullmatch("[0-9a-f]{40}", revision) for revision in pinned)
