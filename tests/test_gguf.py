"""Weights in a GGUF file: a tiny Llama, written as llama.cpp's own converter names its tensors."""

import json

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.app.use import load_base
from pipeline.lm import gguf as ours
from pipeline.lm.load import describe, load_model, load_tokenizer, weights_hash
from pipeline.support.sections import ModelParams
from tests.architectures import CPU, GROUPED
from tests.refusals import refused

HEADS = {"q_proj": 4, "k_proj": 2}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def named(name: str) -> str:
    if ".layers." not in name:
        return {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}.get(
            name, "output_norm.weight"
        )  # fmt: skip
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def in_pairs(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a matrix with each head's rows in llama.cpp's order: halves become neighbours."""
    heads = next((count for part, count in HEADS.items() if part in name), None)
    if heads is None:
        return tensor
    return tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)


def write_gguf(file, model, tokenizer, architecture: str = "llama") -> None:
    writer, config = gguf.GGUFWriter(file, architecture), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index in special else 1 for index in range(len(tokens))])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["merges"]]
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(named(name), in_pairs(name, tensor).float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(**GROUPED, vocab_size=len(tokenizer), tie_word_embeddings=False)
    return AutoModelForCausalLM.from_config(config).bfloat16().float().eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory, tiny, tokenizer):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny, tokenizer)
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(ours, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def section(file) -> ModelParams:
    return ModelParams(
        source=str(file), revision=None, dtype="float32", batch_size=1, template_options={}
    )


@torch.no_grad()
def test_a_gguf_file_is_the_model_that_it_was_written_from(file, tiny, tokenizer, tmp_path, cache):
    manifest = describe("it", section(file), keep=tmp_path / "weights")
    assert not cache.exists()
    assert manifest["gguf_sha256"] == ours.file_hash(file)
    assert manifest["weights_sha256"] == weights_hash(tmp_path / "weights")
    assert (manifest["source"], manifest["revision"]) == (str(file), None)
    manifest["folder"] = str(tmp_path / "weights")
    model, own = load_model(manifest, "float32", CPU), load_tokenizer(manifest)
    text = "<|im_start|>user\nDo you lie?<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert own(text, add_special_tokens=False, return_tensors="pt")["input_ids"].equal(ids)
    assert own.chat_template == tokenizer.chat_template
    torch.testing.assert_close(model(input_ids=ids).logits, tiny(input_ids=ids).logits)


def test_load_base_takes_the_file_and_converts_it_once(file, cache, monkeypatch):
    base = load_base(str(file), device="cpu")
    folders = list(cache.iterdir())
    assert [folder.name for folder in folders] == [ours.file_hash(file)]
    assert base.fingerprint == weights_hash(folders[0])
    monkeypatch.setattr(ours, "dequantise", lambda *_: pytest.fail("converted again"))
    load_base(str(file), device="cpu")


def test_what_cannot_be_read_is_refused(tmp_path, tiny, tokenizer):
    refused("does not exist: correct its path", describe, "it", section(tmp_path / "no.gguf"))
    (tmp_path / "text.gguf").write_text("not weights", encoding="utf-8")
    refused("is no GGUF file", describe, "it", section(tmp_path / "text.gguf"))
    write_gguf(tmp_path / "other.gguf", tiny, tokenizer, "plamo")
    refused("cannot read .*plamo", describe, "it", section(tmp_path / "other.gguf"))
