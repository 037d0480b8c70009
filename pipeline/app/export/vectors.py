"""Control vectors of the arithmetic methods, as safetensors and as gguf for llama.cpp and repeng.

safetensors: one tensor [d] float32 per module, named as in plain transformers (`model.layers.3`).
Add it to that module's output at every token. The coefficient is in the vectors already.

gguf: one tensor [d] float32 `direction.<layer>` per decoder layer; in llama.cpp use scale 1.
llama.cpp adds direction.N to the output of layer N counted from 0; repeng writes the same index. So
N is transformers' layer index. llama.cpp has no place for layer 0, so it is refused.
"""

from pathlib import Path

import gguf
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.lm.layers import layers_prefix
from pipeline.steering.base import Steering
from pipeline.steering.compose import fitted
from pipeline.support.errors import InputError


def vectors(steering: Steering, coefficient: float) -> dict[str, Tensor]:
    """Return the vectors [d] float32 to add, by module name; refuse a method that adds none."""
    for part, c in fitted(steering, coefficient):
        if not part.additions(c):
            said = f"{part.label}: no vector is added to any output"
            raise InputError(f"{said}: export it with --to bake, lora or hub")
    added = steering.additions(coefficient)
    return {site: vector.detach().float().cpu().contiguous() for site, vector in added.items()}


def by_layer(added: dict[str, Tensor], model: PreTrainedModel) -> dict[int, Tensor]:
    """Return the vectors by decoder layer, counted from 0; refuse what gguf cannot hold."""
    prefix = f"{layers_prefix(model)}."
    layers: dict[int, Tensor] = {}
    for site, vector in added.items():
        index = site.removeprefix(prefix)
        if not index.isdecimal():
            said = f"a vector is added to {site}, and gguf control vectors go to whole layers"
            raise InputError(f"{said}: export with --to vector")
        if index == "0":
            said = f"a vector is added to {site}, for which gguf has no place"
            raise InputError(f"{said}: fit the method with a from_depth above 0")
        layers[int(index)] = vector
    return layers


def write_gguf(file: Path, layers: dict[int, Tensor], model_type: str) -> None:
    writer = gguf.GGUFWriter(file, "controlvector")
    writer.add_string("controlvector.model_hint", model_type)
    writer.add_uint32("controlvector.layer_count", len(layers))
    for index, vector in sorted(layers.items()):
        writer.add_tensor(f"direction.{index}", vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
