"""Find a decoder's layers and its linear modules by shape and name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.support.errors import InputError
from pipeline.support.sections import ModulesParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROLES = ("residual-writers", "residual-readers", "residual-all")
WRITERS = ("o_proj", "down_proj", "out_proj", "dense", "fc2", "c_proj", "dense_4h_to_h")
READERS = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "gate_proj", "up_proj",
    "gate_up_proj", "fc1", "dense_h_to_4h",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One linear module inside a decoder layer."""

    name: str
    layer: int
    module: nn.Linear


@dataclass(frozen=True)
class OtherWeight:
    """A matrix of a layer, or a stack of them, that no linear module holds: none can adapt it."""

    module: str
    """The name of the module that holds it."""
    key: str
    """Its name in that module."""
    layer: int
    kind: str
    """That module's class."""
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.module}.{self.key}"

    def answers_to(self, wanted: str | list[str]) -> bool:
        """Return whether a target asks for it: any role, or a regex or suffix of its names."""
        names = (self.name, self.module)
        if isinstance(wanted, str):
            return wanted in ROLES or any(re.fullmatch(wanted, name) for name in names)
        return any(suffix(name) in wanted for name in names)


def suffix(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the one outermost ModuleList of the text decoder that is as long as the config says.

    Raises InputError where there is none, or more than one (XLM has two).
    """
    depth = model.config.get_text_config().num_hidden_layers
    others = re.compile(r"vision|visual|audio|expert")
    lists = {
        name: module
        for name, module in model.get_decoder().named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and not others.search(name)
    }
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outermost) != 1:
        how = f"has no list of {depth} layers"
        if lists:
            how = f"keeps its {depth} decoder layers in several lists ({', '.join(outermost)})"
        raise InputError(
            f"{type(model).__name__} {how}, and its layout is not supported: take a decoder with "
            "one list of layers"
        )
    return lists[outermost[0]]


def depth_to_layer(model: PreTrainedModel, depth: float) -> int:
    """Return the layer index at a fraction of the depth, between 0 and the number of layers."""
    return int(depth * len(decoder_layers(model)))


def layers_prefix(model: PreTrainedModel) -> str:
    """Return the dotted name of the list of decoder layers."""
    layers = decoder_layers(model)
    return next(name for name, module in model.named_modules() if module is layers)


def linear_modules(model: PreTrainedModel) -> list[Target]:
    """Return every linear module of the decoder layers, in order."""
    prefix = layers_prefix(model)
    return [
        Target(f"{prefix}.{index}.{name}", index, module)
        for index, layer in enumerate(decoder_layers(model))
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]


def other_weights(model: PreTrainedModel) -> list[OtherWeight]:
    """Return the layers' matrices on the residual stream that no linear module holds, in order.

    They are a mixture's experts [e, o, i] with their router [e, d], and GPT-2's Conv1D [i, o].
    """
    prefix, width = layers_prefix(model), model.config.get_text_config().hidden_size
    return [
        OtherWeight(f"{prefix}.{index}.{name}", key, index, type(module).__name__, weight.shape)
        for index, layer in enumerate(decoder_layers(model))
        for name, module in layer.named_modules()
        if not isinstance(module, nn.Linear)
        for key, weight in module.named_parameters(recurse=False)
        if weight.ndim >= 2 and width in weight.shape[-2:] and min(weight.shape[-2:]) > 1
    ]


def refuse_others(model: PreTrainedModel, layers: list[int], what: str) -> None:
    """Refuse what needs every weight of some layers where linear modules do not hold them all."""
    if missing := next((weight for weight in other_weights(model) if weight.layer in layers), None):
        raise InputError(
            f"{what} needs every weight of the layer, and {missing.name} is held in a "
            f"{missing.kind}: take another one"
        )


def role(target: Target, hidden_size: int) -> str | None:
    """Return whether a module writes to or reads from the residual stream, by shape or name."""
    own = suffix(target.name)
    writes = target.module.out_features == hidden_size
    reads = target.module.in_features == hidden_size
    if writes and reads:
        if own in WRITERS or own in READERS:
            return "residual-writers" if own in WRITERS else "residual-readers"
        raise InputError(
            f"{target.name} is square, so its role is not clear: name the target modules one by one"
        )
    return "residual-writers" if writes else "residual-readers" if reads else None


def select(model: PreTrainedModel, params: ModulesParams) -> list[Target]:
    """Return the targets: by role or suffix within the depth range, or all that a regex matches.

    A role means every such weight. So it is refused where a layer holds some outside of linear
    modules (a mixture's experts). Suffixes or a regex that name linear modules only are taken.
    Raises InputError too for a square module of unknown role, and if nothing matches.
    """
    wanted = params.target
    modules = linear_modules(model)
    others = other_weights(model)
    names = ", ".join(sorted({suffix(target.name) for target in modules}))
    if not is_pattern(wanted):
        first, end = (depth_to_layer(model, d) for d in (params.from_depth, params.to_depth))
        layers = range(first, end)
        modules = [target for target in modules if target.layer in layers]
        others = [weight for weight in others if weight.layer in layers]
    if refused := [weight for weight in others if weight.answers_to(wanted)]:
        raise InputError(not_linear(model, refused[0], wanted, names))
    width = model.config.get_text_config().hidden_size
    targets = [target for target in modules if is_wanted(target, wanted, width)]
    if not targets:
        raise InputError(
            f"modules.target {wanted!r} matches no linear module in the chosen layers: there are "
            f"{names or 'none'}, so name others, or widen modules.from_depth to modules.to_depth"
        )
    return evenly(targets, params.n_modules)


def is_pattern(wanted: str | list[str]) -> bool:
    """Return whether a target is a regular expression; refuse one that is not valid."""
    if not isinstance(wanted, str) or wanted in ROLES:
        return False
    try:
        re.compile(wanted)
    except re.error as error:
        raise InputError(
            f"modules.target {wanted!r} is no role ({', '.join(ROLES)}) and no valid regex: {error}"
        ) from None
    return True


def is_wanted(target: Target, wanted: str | list[str], hidden_size: int) -> bool:
    if not isinstance(wanted, str):
        return suffix(target.name) in wanted
    if wanted not in ROLES:
        return re.fullmatch(wanted, target.name) is not None
    own = role(target, hidden_size)
    return own is not None and wanted in (own, "residual-all")


def not_linear(
    model: PreTrainedModel, weight: OtherWeight, wanted: str | list[str], names: str
) -> str:
    """Return the sentence that refuses a weight; `names` are the suffixes of linear modules."""
    none = "its layers have none, so take a method that needs none (mean_diff, pca, gradient)"
    advice = f"name linear modules alone, as a list ({names})" if names else none
    return (
        f"modules.target {wanted!r} asks for {weight.name} {list(weight.shape)}, which "
        f"{type(model).__name__} holds in a {weight.kind} and not in a linear module, so that it "
        f"cannot be adapted: {advice}"
    )


def evenly(targets: list[Target], count: int | None) -> list[Target]:
    """Return `count` evenly spaced targets."""
    if count is None:
        return targets
    if count > len(targets):
        raise InputError(
            f"modules.n_modules {count} is above the {len(targets)} modules that match: lower it, "
            "or null for all"
        )
    return [targets[index * len(targets) // count] for index in range(count)]


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module computes on; each module of a spread model has its own."""
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if place is None:
        return next(module.parameters()).device
    return torch.empty(0, device=place).device
