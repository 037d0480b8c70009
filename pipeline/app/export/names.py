"""Names of modules where plain transformers loads the base, which may be more than our decoder."""

from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline.lm.base import Base
from pipeline.lm.layers import layers_prefix
from pipeline.lm.load import decoder_config, folder_of


def text_only(base: Base) -> bool:
    """Return whether the base is the text decoder of a multimodal checkpoint."""
    config = AutoConfig.from_pretrained(folder_of(base.manifest))
    return decoder_config(config) is not config


def plain_name(base: Base) -> Callable[[str], str]:
    """Return what names a module of the decoder layers as `AutoModelForCausalLM` does."""
    model: PreTrainedModel = base.model
    if text_only(base):
        config = AutoConfig.from_pretrained(folder_of(base.manifest))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    own, theirs = layers_prefix(base.model), layers_prefix(model)
    return lambda name: theirs + name.removeprefix(own)
