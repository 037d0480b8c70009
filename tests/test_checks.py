"""What a model must be is found out when it is loaded, for all who read logits or run texts."""

import pytest
import torch
import transformers as hub
from transformers import AutoModelForCausalLM

from pipeline.app.answers import answers
from pipeline.lm import checks
from pipeline.lm.base import Base
from pipeline.lm.checks import check_model
from pipeline.lm.forward import check_length, last_hidden, position_limit, to_logits
from pipeline.lm.load import describe, read_tokenizer
from pipeline.scoring.answer_prefix import choice_masses
from pipeline.scoring.coherence import free_texts
from pipeline.scoring.reasoning import reason
from pipeline.scoring.score import score
from pipeline.scoring.wording import dilemma_prompt
from pipeline.steering.dose import cost_function
from pipeline.steering.elicitation import persona_shift
from pipeline.steering.rollouts import Rollouts
from pipeline.steering.untouched import Untouched
from pipeline.support.sections import ModelParams
from tests.architectures import GROUPED, SIZES, WIDTH
from tests.refusals import refused

SCALED = {
    "GraniteConfig": GROUPED | {"logits_scaling": 8.0},
    "CohereConfig": GROUPED | {"logit_scale": 0.0625},
    "Gemma2Config": GROUPED | {"head_dim": 16, "final_logit_softcapping": 0.5},
    "FalconH1Config": GROUPED
    | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "lm_head_multiplier": 0.1},
    "OPTConfig": {"hidden_size": WIDTH, "ffn_dim": 96, "word_embed_proj_dim": WIDTH}
    | {"num_hidden_layers": 4, "num_attention_heads": 4},
}
BERT = {
    "hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96,
    "initializer_range": 0.2,
}  # fmt: skip
GEMMA3N = GROUPED | {
    "head_dim": 16, "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 16,
    "laurel_rank": 8, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16,
}  # fmt: skip


def build(config: str, options: dict, **changes):
    torch.manual_seed(0)
    options = options | {"vocab_size": 300} | changes
    return AutoModelForCausalLM.from_config(getattr(hub, config)(**options)).eval()


@pytest.mark.parametrize("config", SCALED)
@torch.no_grad()
def test_logits_are_the_models_own_whatever_its_head_does(config):
    model = build(config, SCALED[config])
    check_model(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    hidden = last_hidden(model, ids, torch.ones_like(ids))
    own = model(input_ids=ids).logits
    plain = model.get_output_embeddings()(hidden)
    torch.testing.assert_close(to_logits(model, hidden), own)
    torch.testing.assert_close(to_logits(model, hidden[0, -1]), own[0, -1])
    assert torch.allclose(plain, own) == (config == "OPTConfig")


def test_layers_may_return_lists():
    check_model(build("OpenAIGPTConfig", {"n_embd": WIDTH, "n_layer": 4, "n_head": 4}))


def test_gradients_pass_through_the_head():
    model = build("GraniteConfig", SCALED["GraniteConfig"])
    hidden = torch.randn(3, WIDTH, requires_grad=True)
    to_logits(model, hidden).sum().backward()
    assert hidden.grad.abs().sum() > 0


@pytest.mark.parametrize(("config", "options", "said"), [
    ("Gemma3nTextConfig", GEMMA3N, r"passes states of shape \[4, 2, 6, 64\] between its layers"),
    ("RwkvConfig", {"hidden_size": WIDTH, "num_hidden_layers": 4}, "reads padding as text"),
    ("Llama4TextConfig", GROUPED | {"head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 96},
     "does not run as a text decoder"),
    ("BertConfig", BERT, "lets a token see what comes after it, .*: set is_decoder"),
])  # fmt: skip
def test_an_architecture_without_the_shapes_is_refused(config, options, said):
    refused(said, check_model, build(config, options))


def test_a_head_that_cannot_be_repeated_is_refused(monkeypatch):
    model = build("LlamaConfig", GROUPED)
    monkeypatch.setattr(checks, "to_logits", lambda model, hidden: 2 * to_logits(model, hidden))
    refused("makes its logits in a way that cannot be repeated", check_model, model)


def test_logits_that_are_not_finite_are_refused():
    model = build("LlamaConfig", GROUPED)
    model.get_output_embeddings().weight.data[3] = float("inf")
    refused("logits that are not finite: take dtype", check_model, model)


@pytest.mark.parametrize(("config", "options", "limit"), [
    ("OPTConfig", SCALED["OPTConfig"] | {"max_position_embeddings": 128}, 128),
    ("LlamaConfig", GROUPED | {"max_position_embeddings": 128}, 128),
    ("GPT2Config", {"n_embd": WIDTH, "n_layer": 4, "n_head": 4, "n_positions": 128}, 128),
    ("MptConfig", {"d_model": WIDTH, "n_heads": 4, "n_layers": 4, "max_seq_len": 128}, 128),
    ("BloomConfig", {"hidden_size": WIDTH, "n_layer": 4, "n_head": 4}, float("inf")),
])  # fmt: skip
def test_a_text_longer_than_the_positions_is_refused(config, options, limit):
    model = build(config, options)
    assert position_limit(model) == limit
    check_length(model, 128)
    ids = torch.ones(1, 129, dtype=torch.long)
    if limit == 128:
        refused("129 tokens is too long for the 128 positions", last_hidden, model, ids, ids)
    else:
        last_hidden(model, ids, ids)


@pytest.mark.parametrize(("config", "options"), [
    ("LlamaConfig", GROUPED | {"max_position_embeddings": 24}),
    ("OPTConfig", SCALED["OPTConfig"] | {"max_position_embeddings": 24}),
    ("MptConfig", {"d_model": WIDTH, "n_heads": 4, "n_layers": 4, "max_seq_len": 24}),
    ("GPT2Config", {"n_embd": WIDTH, "n_layer": 4, "n_head": 4, "n_positions": 24}),
])  # fmt: skip
def test_whoever_runs_a_text_refuses_one_that_is_too_long(config, options, tokenizer, frame):
    """Scoring, writing, reasoning and free texts, the dose, training and the check of personas."""
    base = Base({}, build(config, options, vocab_size=len(tokenizer)), tokenizer)
    item = {"item_id": "0", "prompt": dilemma_prompt("The lamp is broken. " * 8, "Say so.")}
    chat = [{"role": "user", "content": item["prompt"]}]
    texts = frame["positive"].to_list(), frame["negative"].to_list()
    replies = Rollouts([item["prompt"]], [[1, 2]], {})
    for said, call, *arguments in (
        ("too long for the 24 positions", score, base, [item], Untouched(), [0.0]),
        ("than the model's 24", reason, base, [item], Untouched(), [0.0], 4, "Well."),
        ("than the model's 24", free_texts, base, [item["prompt"]], Untouched(), [0.0], 4),
        ("than the model's 24", next, answers(base, Untouched(), chat, [0.0], 4)),
        ("too long for the 24 positions", persona_shift, base, *texts),
        ("too long for the 24 positions", cost_function, base, Untouched(), replies),
    ):  # fmt: skip
        refused(said, call, *arguments)


def test_a_tokenizer_without_pad_and_end_is_refused(tmp_path, tokenizer):
    model = build("LlamaConfig", SIZES | {"vocab_size": len(tokenizer)})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"pad_token"', '"x"'), encoding="utf-8")
    assert read_tokenizer(tmp_path).pad_token_id == tokenizer.eos_token_id
    file.write_text(
        text.replace('"pad_token"', '"x"').replace('"eos_token"', '"y"'), encoding="utf-8"
    )
    section = ModelParams(
        source=str(tmp_path), revision=None, dtype="float32", batch_size=1, template_options={}
    )
    refused("neither a padding nor an end token: name eos_token", describe, "it", section)


@pytest.mark.parametrize(("config", "options"), [
    ("BloomConfig", {"hidden_size": WIDTH, "n_layer": 4, "n_head": 4}),
    ("FalconConfig", {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4, "alibi": True}),
])  # fmt: skip
def test_alibi_is_refused_with_what_helps_before_any_fit(config, options, tokenizer):
    base = Base({}, build(config, options, vocab_size=len(tokenizer)), tokenizer)
    entries = [{"situation": "The lamp of the boss is broken.", "actions": ["Lie.", "Say so."]}]
    refused(
        "share their beginning .*: set scoring.reuse false",
        choice_masses,
        base,
        entries,
        "My",
        True,
    )
    assert choice_masses(base, entries, "My", False)["My"] > 0
