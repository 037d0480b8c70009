"""peft's LoRA as the measure: on a copy of the model, since peft changes the one it is given."""

import copy

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from pipeline.bench.subject import Subject


class Lora:
    """A LoRA of the study's rank on the modules that our adapter has."""

    def __init__(self, subject: Subject, model: PreTrainedModel | None = None):
        rank = subject.params.rank
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=subject.adapter.touched())
        self.model = get_peft_model(model or copy.deepcopy(subject.base.model), config)
        self.parameters = [own for own in self.model.parameters() if own.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)
