"""Every decoder family: the manifest, the layers and the target modules, found by shape and name without weights."""

import pytest
import torch

from pipeline.lm.forward import last_hidden, read_layers
from pipeline.lm.layers import decoder_layers, role, select
from tests.architectures import FAMILIES, LAYERS, WIDTH, load_family, modules, suffixes

WITH_ROLES = [name for name, family in FAMILIES.items() if family.roles]
ADAPTED = [name for name, family in FAMILIES.items() if family.target]
WINDOWED = [
    "mistral",
    "gemma2",
    "gemma3",
    "gemma3-multimodal",
    "olmo3",
    "phi3",
    "mixtral",
]  # already in the first layer
TIED = ["qwen2", "gemma2", "gemma3", "gemma3-multimodal", "cohere", "gpt2"]


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory, tokenizer):
    return load_family(request.param, tmp_path_factory.mktemp(request.param), tokenizer)


def families(names):
    return pytest.mark.parametrize("loaded", names, indirect=True, scope="module")


@torch.no_grad()
def test_the_manifest_and_the_layers_are_the_text_decoders(loaded):
    manifest, layers = loaded.manifest, decoder_layers(loaded.model)
    assert (manifest["layers"], manifest["hidden_size"], len(layers)) == (LAYERS, WIDTH, LAYERS)
    assert manifest["architecture"] == type(loaded.model).__name__
    ids = torch.tensor([[5, 6, 7]])
    with read_layers(list(layers)) as seen:
        last_hidden(loaded.model, ids, torch.ones_like(ids))
    assert [tuple(states.shape) for states in seen] == [(1, 3, WIDTH)] * LAYERS


@families(WITH_ROLES)
def test_roles_find_the_modules(loaded):
    writers, readers = map(set, loaded.family.roles)
    for target, expected in (
        ("residual-writers", writers),
        ("residual-readers", readers),
        ("residual-all", writers | readers),
    ):
        found = select(loaded.model, modules(target, 0.25, 0.75))
        assert suffixes(found) == expected
        assert len(found) == 2 * len(expected)
        assert {target.layer for target in found} == {1, 2}
        assert not any("vision" in target.name for target in found)


@families(ADAPTED)
def test_names_find_the_modules_of_the_model(loaded):
    found = select(loaded.model, modules(r".*(o_proj|dense|qkv_proj|q_proj)"))
    assert len(found) == LAYERS * len(suffixes(found))
    for target in found:
        assert loaded.model.get_submodule(target.name) is target.module
        assert (
            role(target, WIDTH)
            == f"residual-{'writers' if target.name.endswith(('o_proj', 'dense')) else 'readers'}"
        )


@families(["qwen2"])
def test_qwen2_has_biases_where_it_reads_attention(loaded):
    biased = {
        target.name.rsplit(".", 1)[-1]
        for target in select(loaded.model, modules("residual-all"))
        if target.module.bias is not None
    }
    assert biased == {"q_proj", "k_proj", "v_proj"}


@families(["phi3", "neox", "llama", "gemma2"])
def test_fused_and_grouped_modules_keep_their_shapes(loaded):
    shapes = {
        target.name.rsplit(".", 1)[-1]: (target.module.out_features, target.module.in_features)
        for target in select(loaded.model, modules("residual-all"))
    }
    expected = {
        "phi3": {"qkv_proj": (128, 64), "gate_up_proj": (192, 64)},
        "neox": {"query_key_value": (192, 64), "dense": (64, 64)},
        "llama": {"q_proj": (64, 64), "k_proj": (32, 64)},
        "gemma2": {"q_proj": (128, 64), "k_proj": (64, 64), "o_proj": (64, 128)},
    }[loaded.manifest["model"]]
    assert shapes.items() >= expected.items()


def test_embeddings_are_tied_where_the_family_ties_them(loaded):
    tied = loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight
    assert tied == (loaded.manifest["model"] in TIED)


@families(WINDOWED)
@torch.no_grad()
def test_the_window_is_the_models_own(loaded):
    ids = torch.arange(5, 35)[None].repeat(3, 1)
    ids[1, 0], ids[2, -5] = 40, 40  # out of the window of the last token, and inside it
    with read_layers([decoder_layers(loaded.model)[0]]) as seen:
        last_hidden(loaded.model, ids, torch.ones_like(ids))
    plain, outside, inside = seen[0][:, -1]
    torch.testing.assert_close(plain, outside)
    assert (plain - inside).abs().max() > 1e-4
