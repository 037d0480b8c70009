"""Decoder families as tiny random models, built from transformers' own configs and loaded as the project loads them."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as hub
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.lm.base import Base
from pipeline.lm.load import describe, load_model
from pipeline.support.sections import ModelParams, ModulesParams

LAYERS, WIDTH = 4, 64
SIZES = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
         "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}
WINDOW = GROUPED | {"sliding_window": 16}
WIDE = WINDOW | {"head_dim": 32}  # heads together wider than the residual stream
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}  # fmt: skip
GPT2 = {
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": None,
    "eos_token_id": 2,
}

ATTENTION, MLP = ["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]
SPLIT = (["o_proj", "down_proj"], [*ATTENTION, *MLP])
NAMED = [*ATTENTION, "o_proj"]


@dataclass(frozen=True)
class Family:
    """How to build a family's config, and the suffixes of its residual writers and readers; none where roles are refused."""

    config: str
    options: dict
    roles: tuple[list[str], list[str]] | None = SPLIT
    target: str | list[str] | None = "residual-all"
    """What the chain adapts; None where no module can be."""

    def build(self, vocab_size: int) -> hub.PreTrainedConfig:
        options = self.options | {"vocab_size": vocab_size}
        if self.config == "Gemma3Config":
            options = {
                "text_config": options,
                "vision_config": VISION,
                "mm_tokens_per_image": 4,
                "image_token_index": vocab_size - 1,
            }
        return getattr(hub, self.config)(**options)


FAMILIES = {
    "llama": Family("LlamaConfig", GROUPED | {"tie_word_embeddings": False}),
    "qwen2": Family("Qwen2Config", GROUPED | {"tie_word_embeddings": True}),
    "qwen3": Family("Qwen3Config", WIDE | {"use_sliding_window": True, "max_window_layers": 2}),
    "mistral": Family("MistralConfig", WINDOW),
    "gemma2": Family("Gemma2Config", WIDE | {"query_pre_attn_scalar": 32, "final_logit_softcapping": 0.1}),
    "gemma3": Family("Gemma3TextConfig", WIDE | {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    "gemma3-multimodal": Family("Gemma3Config", WIDE),
    "olmo2": Family("Olmo2Config", GROUPED),
    "olmo3": Family("Olmo3Config", WINDOW),
    "phi3": Family("Phi3Config", WINDOW, (["o_proj", "down_proj"], ["qkv_proj", "gate_up_proj"])),
    "neox": Family("GPTNeoXConfig", SIZES, (["dense", "dense_4h_to_h"], ["query_key_value", "dense_h_to_4h"])),
    "mixtral": Family("MixtralConfig", WINDOW | {"num_local_experts": 4}, None, NAMED),
    "qwen3-moe": Family("Qwen3MoeConfig", WIDE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}, None, NAMED),
    "olmoe": Family("OlmoeConfig", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}, None, NAMED),
    "granite": Family("GraniteConfig", GROUPED | {"logits_scaling": 8.0, "embedding_multiplier": 12.0}),
    "cohere": Family("CohereConfig", GROUPED | {"logit_scale": 0.0625}),
    "gpt2": Family("GPT2Config", GPT2, None, None),
}  # fmt: skip
CPU = torch.device("cpu")


def save_tiny(family: Family, folder: Path, tokenizer) -> Path:
    """Save a random model in the hub's layout, its layers' matrices and biases large enough that steering moves the logits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family.build(len(tokenizer)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1 and re.search(r"\.\d\.", name):
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Loaded:
    """A family's tiny model, as the project loads it."""

    family: Family
    manifest: dict
    model: PreTrainedModel
    folder: Path

    def base(self, tokenizer) -> Base:
        return Base(self.manifest, self.model, tokenizer, batch_size=6)


def load_family(name: str, folder: Path, tokenizer) -> Loaded:
    """Save a family's tiny model and take it through `describe` and `load_model`."""
    source = str(save_tiny(FAMILIES[name], folder / "model", tokenizer))
    params = ModelParams(
        source=source, revision=None, dtype="float32", batch_size=4, template_options={}
    )
    manifest = describe(name, params)
    return Loaded(FAMILIES[name], manifest, load_model(manifest, "float32", CPU), folder)


def modules(
    target: str | list[str], from_depth: float = 0.0, to_depth: float = 0.5
) -> ModulesParams:
    return ModulesParams(target=target, from_depth=from_depth, to_depth=to_depth, n_modules=None)


def suffixes(found) -> set[str]:
    return {target.name.rsplit(".", 1)[-1] for target in found}
