"""Find a decoder's layers and its linear modules by shape and name."""

import re
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import InputError
from pipeline.sections import ModulesParams

ROLES = ("residual-writers", "residual-readers", "residual-all")
WRITERS = ("o_proj", "down_proj", "out_proj", "dense", "fc2", "c_proj", "dense_4h_to_h")
READERS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "gate_proj", "up_proj", "gate_up_proj", "fc1")


@dataclass(frozen=True)
class Target:
    """One linear module inside a decoder layer."""

    name: str
    layer: int
    module: nn.Linear


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of decoder layers: the one ModuleList as long as the config says."""
    depth = model.config.get_text_config().num_hidden_layers
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and not re.search(r"vision|audio|expert", name)
    ]
    if not lists:
        raise InputError(f"{type(model).__name__} has no list of {depth} decoder layers: its layout is not supported")
    return lists[0]


def depth_to_layer(model: PreTrainedModel, depth: float) -> int:
    """Return the layer index at a fraction of the depth, between 0 and the number of layers."""
    return int(depth * len(decoder_layers(model)))


def linear_modules(model: PreTrainedModel) -> list[Target]:
    """Return every linear module of the decoder layers, in order."""
    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    return [
        Target(f"{prefix}.{index}.{name}", index, module)
        for index, layer in enumerate(layers)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]


def role(target: Target, hidden_size: int) -> str | None:
    """Return whether a module writes to or reads from the residual stream; by shape, and by name where it is square."""
    suffix = target.name.rsplit(".", 1)[-1]
    writes, reads = target.module.out_features == hidden_size, target.module.in_features == hidden_size
    if writes and reads:
        if suffix in WRITERS or suffix in READERS:
            return "residual-writers" if suffix in WRITERS else "residual-readers"
        raise InputError(f"{target.name} is square, so its role is not clear: name the target modules one by one")
    return "residual-writers" if writes else "residual-readers" if reads else None


def select(model: PreTrainedModel, params: ModulesParams) -> list[Target]:
    """Return the target modules: by role or suffix within the depth range, or all that a regular expression matches."""
    modules, wanted = linear_modules(model), params.target
    if isinstance(wanted, str) and wanted not in ROLES:
        try:
            found = [target for target in modules if re.fullmatch(wanted, target.name)]
        except re.error as error:
            raise InputError(f"modules.target {wanted!r} is no role ({', '.join(ROLES)}) and no valid regex: {error}") from None
    else:
        first, end = depth_to_layer(model, params.from_depth), depth_to_layer(model, params.to_depth)
        inside = [target for target in modules if first <= target.layer < end]
        width = model.config.get_text_config().hidden_size
        if isinstance(wanted, str):
            found = [t for t in inside if (is_role := role(t, width)) and wanted in (is_role, "residual-all")]
        else:
            found = [target for target in inside if target.name.rsplit(".", 1)[-1] in wanted]
    if not found:
        names = ", ".join(sorted({target.name.rsplit(".", 1)[-1] for target in modules}))
        raise InputError(f"modules.target {wanted!r} matches no linear module in the chosen layers: there are {names}")
    return evenly(found, params.n_modules)


def evenly(found: list[Target], count: int | None) -> list[Target]:
    """Return `count` evenly spaced targets."""
    if count is None:
        return found
    if count > len(found):
        raise InputError(f"modules.n_modules {count} is above the {len(found)} modules that match: lower it, or null for all")
    return [found[index * len(found) // count] for index in range(count)]
