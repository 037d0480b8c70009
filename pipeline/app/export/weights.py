"""What a fitted method does to the weights at one coefficient, exactly.

    SVD adapters   W(c) = W + B A,     A = V^T [r, i],  B = U M(c)^T [o, r]
    LoRA           W(c) = W + B A,     B = c times the learned one
    DoRA           W(c) = m(c) (W + B A) / |W + B A| by output row,   m(c) = |W| + c delta
    S-space        W(c) = W + B A,     A = V^T,  B = c U diag(S delta)                    (weight
                   form)
    additions      b(c) = b + c v      where the vector is added to a linear module's output and the
                   module has a bias b

Nothing here is an approximation: what is none of these (words, additions to a decoder layer's
output) is refused.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.steering import METHODS
from pipeline.steering.base import Steering
from pipeline.steering.direction import Direction
from pipeline.steering.methods.dora import DoraModule
from pipeline.steering.methods.lora import LoraModule
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.methods.s_space import SSpace
from pipeline.steering.methods.svd_adapter import SvdModule
from pipeline.steering.training.adapter import Adapter, LearnedModule
from pipeline.support.errors import InputError


class Update(NamedTuple):
    """W becomes W + B A; with a magnitude, each row of that is then brought to its length. All
    float32.
    """

    A: Tensor
    """[r, i]"""
    B: Tensor
    """[o, r]"""
    magnitude: Tensor | None = None
    """[o]"""


def method_id(steering: Steering) -> str:
    """Return the id of a fitted method's class in the registry."""
    return next(
        name
        for name, method in METHODS.items()
        if method.code.endswith(f":{type(steering).__name__}")
    )


def additions(steering: Steering, coefficient: float) -> dict[str, Tensor]:
    """Return the vectors c v [d] that a method adds to modules' outputs, by the module's dotted
    name; none if it adds none.
    """
    if isinstance(steering, Direction):
        return {
            site: coefficient * vector
            for site, vector in zip(steering.sites, steering.vectors, strict=True)
        }
    if isinstance(steering, SSpace):
        return {
            name: coefficient * parts["vector"]
            for name, parts in steering.modules.items()
            if "vector" in parts
        }
    return {}


@torch.no_grad()
def updates(steering: Steering, model: PreTrainedModel, coefficient: float) -> dict[str, Update]:
    """Return the exact change of each weight by its module's dotted name.

    Raises InputError for a method that changes no weight, and for a quantised base where the change
    depends on its weight.
    """
    if isinstance(steering, Adapter):
        return {
            name: update(module, model.get_submodule(name), name, coefficient)
            for name, module in steering.modules.items()
        }
    if isinstance(steering, SSpace) and not additions(steering, coefficient):
        changed = steering.modules.items()
        return {
            name: Update(parts["V"].T, coefficient * parts["U"] * parts["change"])
            for name, parts in changed
        }
    raise InputError(no_weight(steering))


def update(module: LearnedModule, target: nn.Module, name: str, coefficient: float) -> Update:
    match module:
        case SvdModule():
            M = module.core(torch.tensor([coefficient], device=module.S.device))[0]
            return Update(module.V.T, module.U @ M.T)
        case DoraModule():
            length = dense(target, name).float().norm(dim=1).to(module.delta.device)
            return Update(module.A, coefficient * module.B, length + coefficient * module.delta)
        case LoraModule():
            return Update(module.A, coefficient * module.B)
    raise TypeError(f"{type(module).__name__} does not say what it does to a weight")


@torch.no_grad()
def baked(steering: Steering, model: PreTrainedModel, coefficient: float) -> dict[str, Tensor]:
    """Return the parameters that make the plain model the steered one, by name, in the model's
    precision.

    Raises InputError for what is no change of parameters, and for a quantised base. The model is
    left as it is.
    """
    vectors = additions(steering, coefficient)
    if not vectors:
        found = updates(steering, model, coefficient)
        return {
            f"{name}.weight": changed(dense(model.get_submodule(name), name), found[name])
            for name in found
        }
    biases = {}
    for site, vector in vectors.items():
        bias = getattr(model.get_submodule(site), "bias", None)
        if not isinstance(bias, Tensor):
            raise InputError(no_weight(steering, site))
        biases[f"{site}.bias"] = (bias.float() + vector.to(bias.device)).to(bias.dtype)
    return biases


def dense(target: nn.Module, name: str) -> Tensor:
    """Return a module's weight [o, i]; refuse a packed one."""
    weight = target.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InputError(
            f"the weight of {name} is quantised: export from the unquantised base, and quantise "
            "the result"
        )
    return weight.detach()


def changed(weight: Tensor, update: Update) -> Tensor:
    """Return the updated weight [o, i] in its own precision, computed in float32."""
    new = weight.float() + (update.B @ update.A).to(weight.device)
    if update.magnitude is not None:
        new = new * (update.magnitude.to(weight.device) / new.norm(dim=1))[:, None]
    return new.to(weight.dtype)


def no_weight(steering: Steering, site: str | None = None) -> str:
    """Return the sentence that refuses a method which is no change of a weight."""
    name = method_id(steering)
    if isinstance(steering, Prompting):
        return (
            f"{name} changes the words of the chat and nothing of the model: export it with "
            "--to hub"
        )
    where = (
        f"the output of {site}, which has no bias to hold it"
        if site
        else "modules' outputs, which is no change of a weight"
    )
    return (
        f"{name} adds a vector to {where}: export it with --to vector, hub or, for whole "
        "layers, gguf"
    )
