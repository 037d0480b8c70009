"""What no method can adapt is refused by name; what lies beside it is not."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, XLMConfig

from pipeline.lm.layers import ROLES, decoder_layers, select
from pipeline.lm.load import describe
from pipeline.support.errors import InputError
from pipeline.support.sections import ModelParams
from tests.architectures import FAMILIES, LAYERS, WIDTH, modules, suffixes

MIXTURES = ["mixtral", "qwen3-moe", "olmoe"]


def tiny(name: str, **options):
    torch.manual_seed(0)
    config = FAMILIES[name].build(300)
    for key, value in options.items():
        setattr(config, key, value)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("target", [*ROLES, ["c_attn"], ["q_proj", "c_fc"], r".*c_proj"])
def test_the_conv1d_of_gpt2_is_refused(target):
    with pytest.raises(
        InputError,
        match=r"transformer\.h\.0\..*GPT2LMHeadModel holds in a Conv1D .*take a method that needs none",
    ):
        select(tiny("gpt2"), modules(target))


def test_a_name_that_nothing_has_is_refused_where_nothing_is_linear():
    with pytest.raises(
        InputError, match="matches no linear module in the chosen layers: there are none"
    ):
        select(tiny("gpt2"), modules(["o_proj"]))


@pytest.mark.parametrize(
    "target",
    [*ROLES, ["down_proj"], ["o_proj", "gate_up_proj"], ["experts"], r".*proj", r".*\.experts\..*"],
)
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_in_one_tensor_are_refused(name, target):
    model = tiny(name)
    said = rf"asks for model\.layers\.0\.mlp\..*{type(model).__name__} holds in a .*name linear modules alone, as a list \(k_proj, o_proj, q_proj, v_proj\)"
    with pytest.raises(InputError, match=said):
        select(model, modules(target))


@pytest.mark.parametrize("name", MIXTURES)
def test_a_router_is_refused(name):
    with pytest.raises(InputError, match=r"mlp\.gate\.weight \[4, 64\].*TopKRouter"):
        select(tiny(name), modules(["gate"]))


@pytest.mark.parametrize("target", [["o_proj", "q_proj"], r".*self_attn\.(o|q)_proj"])
@pytest.mark.parametrize("name", MIXTURES)
def test_the_attention_beside_experts_is_found_by_name(name, target):
    found = select(tiny(name), modules(target, to_depth=1.0))
    assert suffixes(found) == {"o_proj", "q_proj"}
    assert len(found) == 2 * LAYERS


def test_roles_are_whole_in_the_dense_layers_of_a_mixture():
    model = tiny("qwen3-moe", mlp_only_layers=[0, 1])
    assert suffixes(select(model, modules("residual-writers", 0.0, 0.5))) == {"o_proj", "down_proj"}
    with pytest.raises(InputError, match=r"asks for model\.layers\.2\.mlp"):
        select(model, modules("residual-writers", 0.0, 0.75))


def test_layers_in_several_lists_are_refused():
    model = AutoModelForCausalLM.from_config(
        XLMConfig(vocab_size=300, emb_dim=WIDTH, n_layers=LAYERS, n_heads=4, causal=True)
    )
    with pytest.raises(
        InputError,
        match=r"XLMWithLMHeadModel keeps its 4 decoder layers in several lists \(attentions, .*not supported",
    ):
        decoder_layers(model)


def test_a_decoder_without_a_list_of_layers_is_refused():
    model = tiny("llama")
    model.config.num_hidden_layers = LAYERS + 1
    with pytest.raises(InputError, match="LlamaForCausalLM has no list of 5 layers"):
        decoder_layers(model)


@pytest.mark.parametrize(("config", "said"), [
    ({"model_type": "t5", "d_model": WIDTH}, "is a t5, no causal language model"),
    ({"model_type": "of-tomorrow"}, "transformers has no code of its own"),
    ({"model_type": "ours", "auto_map": {"AutoConfig": "code.Ours"}}, "transformers has no code of its own"),
])  # fmt: skip
def test_a_model_that_is_no_known_decoder_is_refused(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    params = ModelParams(
        source=str(tmp_path), revision=None, dtype="float32", batch_size=4, template_options={}
    )
    with pytest.raises(InputError, match=said):
        describe("other", params)
