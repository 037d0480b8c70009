"""Base models in 8 or 4 bits by bitsandbytes, and the one place that reads a weight.

    4bit   nf4 in blocks of 64 entries, computed in the model's dtype: y = x dequantised(W)^T
    8bit   LLM.int8(): rows of W and tokens of x in int8, input features beyond 6 in the model's
           dtype (arXiv 2208.07339)

Embeddings and the head stay as they are. Packed weights are read and never written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

# They speak at every product (8 bit casts to float16) and every start (a kernel to download).
NOISY = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops")


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return what `from_pretrained` takes for none, 8bit or 4bit."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    if kind == "none":
        return None
    from transformers import BitsAndBytesConfig

    match kind:
        case "8bit":
            return BitsAndBytesConfig(load_in_8bit=True)
        case "4bit":
            return BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
    raise ValueError(f"unknown quantisation {kind!r}")


def keep_packed(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    It does so at the first forward pass, into a form that it cannot dequantise or differentiate.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_packed(module: nn.Linear) -> bool:
    """Return whether a linear module holds its weight quantised."""
    return type(module.weight).__name__ in ("Params4bit", "Int8Params")


@torch.no_grad()
def weight_of(module: nn.Linear) -> Tensor:
    """Return the weight [o, i] of a linear module in float32, a copy unless it is that already.

    An offloaded weight comes to the device that the module computes on; a packed one stays packed.
    """
    weight = module.weight
    if is_packed(module):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(weight, getattr(module, "state", None)).float()
    if weight.is_meta:
        from accelerate.utils import align_module_device

        with align_module_device(module):
            return weight_of(module).clone()
    return weight.detach().float()


@dataclass(frozen=True)
class Weights:
    """The float32 weights [o, i] of linear modules on one device, each made when its turn comes."""

    modules: list[nn.Linear]
    device: torch.device

    def __len__(self) -> int:
        return len(self.modules)

    def __iter__(self) -> Iterator[Tensor]:
        return (weight_of(module).to(self.device) for module in self.modules)


def memory(model: PreTrainedModel) -> float:
    """Return the MiB of the model's tensors: scales of quantised ones too, shared ones once."""
    tensors = model.state_dict()
    sizes = {(tensor.data_ptr() or name): tensor.nbytes for name, tensor in tensors.items()}
    return sum(sizes.values()) / 2**20
