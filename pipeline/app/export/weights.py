"""A fitted method at one coefficient as a change of the base's own parameters, exactly.

Each method's file says what it does to weights (`updates`), or which vectors it adds to modules'
outputs (`additions`). The latter change the modules' biases where they have any. Nothing here is an
approximation: all else is refused. Modules are named as plain transformers loads the base, which
may be more than our decoder.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline.lm.base import Base
from pipeline.lm.layers import layers_prefix
from pipeline.lm.load import decoder_config, folder_of
from pipeline.steering.base import Steering, Update, dense
from pipeline.steering.compose import fitted
from pipeline.support.errors import InputError


def updates(steering: Steering, model: PreTrainedModel, coefficient: float) -> dict[str, Update]:
    """Return the change of each weight by its module's name; InputError for what changes none."""
    for part, c in fitted(steering, coefficient):
        if not part.updates(model, c):
            raise refusal(part)
    return steering.updates(model, coefficient)


@torch.no_grad()
def baked(steering: Steering, model: PreTrainedModel, coefficient: float) -> dict[str, Tensor]:
    """Return the parameters that make the plain model the steered one, by name, in its precision.

    The model is left as it is. Raises InputError for a quantised base, and for a method that is
    no change of parameters.
    """
    for part, c in fitted(steering, coefficient):
        if not part.additions(c):
            updates(part, model, c)
    parameters = {}
    for name, update in steering.updates(model, coefficient).items():
        weight = dense(model.get_submodule(name), name)
        parameters[f"{name}.weight"] = changed(weight, update)
    for site, vector in steering.additions(coefficient).items():
        bias = getattr(model.get_submodule(site), "bias", None)
        if not isinstance(bias, Tensor):
            raise refusal(steering, f"the output of {site}, which has no bias to hold it")
        parameters[f"{site}.bias"] = (bias.float() + vector.to(bias.device)).to(bias.dtype)
    return parameters


def changed(weight: Tensor, update: Update) -> Tensor:
    """Return the updated weight [o, i] in its own precision, computed in float32."""
    new = weight.float() + (update.B @ update.A).to(weight.device)
    if update.magnitude is not None:
        new = new * (update.magnitude.to(weight.device) / new.norm(dim=1))[:, None]
    return new.to(weight.dtype)


def refusal(
    part: Steering, where: str = "modules' outputs, which is no change of a weight"
) -> InputError:
    """Return what refuses a method that is no change of a weight."""
    if not part.additions(1.0):
        said = f"{part.label} changes the words of the chat and nothing of the model"
        return InputError(f"{said}: export it with --to hub")
    said = f"{part.label}: a vector is added to {where}"
    return InputError(f"{said}: export it with --to vector, hub or, for whole layers, gguf")


def text_only(base: Base) -> bool:
    """Return whether the base is the text decoder of a multimodal checkpoint."""
    config = AutoConfig.from_pretrained(folder_of(base.manifest))
    return decoder_config(config) is not config


def plain_name(base: Base) -> Callable[[str], str]:
    """Return what names a module of the decoder layers as `AutoModelForCausalLM` does."""
    own = theirs = layers_prefix(base.model)
    if text_only(base):
        config = AutoConfig.from_pretrained(folder_of(base.manifest))
        with torch.device("meta"):
            theirs = layers_prefix(AutoModelForCausalLM.from_config(config))
    return lambda name: theirs + name.removeprefix(own)
