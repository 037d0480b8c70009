"""Our training step against peft's LoRA on the same rows, modules and rank.

Ours: both signs of c in one forward pass over the pairs' texts twice, the base model's part cached.
Then the study's contrastive loss, one backward pass and AdamW. peft: the texts once per sign, so
two forward passes. Then the mean NLL of the same tokens, one backward pass and AdamW.
"""

import copy
from collections.abc import Iterable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from pipeline.bench.ratios import Figure, ratio
from pipeline.bench.subject import Subject
from pipeline.lm.forward import token_nll
from pipeline.lm.layers import decoder_layers, depth_to_layer
from pipeline.lm.trunk import trunk_depth
from pipeline.steering.pair_batches import base_pass, pair_tensors, run_pairs
from pipeline.steering.training.loop import reference
from pipeline.steering.training.losses import Observed


class Ours:
    def __init__(self, subject: Subject):
        params = subject.params
        self.model = subject.base.model
        self.size = params.training.batch_size
        self.last = params.training.last_tokens
        self.adapter = copy.deepcopy(subject.adapter)
        for parameter in self.adapter.parameters():
            parameter.requires_grad_()
        layers = decoder_layers(self.model)
        index = min(depth_to_layer(self.model, params.training.loss_depth), len(layers) - 1)
        self.layer = layers[index]
        self.data = pair_tensors(subject.base, subject.pairs, self.last)
        self.loss = params.steering["innerpissa"].loss.build(self.adapter.outputs())
        self.base = base_pass(
            self.model,
            self.layer,
            self.data,
            self.last,
            2 * self.size,
            self.loss.reads_distribution,
        )
        self.loss.prepare(reference(subject.base, subject.pairs, index, self.base.states))
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=1e-6)
        self.depth = trunk_depth(self.model, self.adapter.touched())
        self.rows = list(range(min(self.size, len(self.data.lengths))))

    def __call__(self) -> None:
        batch = self.data.batch(self.rows)
        base = self.base.batch(self.rows, batch.ids.shape[-1])
        with torch.enable_grad():
            with self.adapter.steer(
                self.model, torch.tensor([1.0, -1.0]).repeat_interleave(2 * len(self.rows))
            ):
                found = run_pairs(
                    self.model, self.layer, batch, self.last, 2, base.final, self.depth
                )
            seen = Observed(
                found.states,
                found.nll,
                base.states,
                base.nll,
                batch.chosen,
                found.shift,
                base.entropy,
            )
            descend(
                self.optimizer,
                self.adapter.parameters(),
                torch.stack(list(self.loss(seen, 1.0).values())).sum(),
            )


class Peft:
    """The same modules of a copy of the model, since peft changes the model that it is given."""

    def __init__(self, subject: Subject, ours: Ours):
        batch = ours.data.batch(ours.rows)
        self.ids, self.mask = (tensor.flatten(0, 1) for tensor in (batch.ids, batch.mask))
        self.places = batch.places()
        config = LoraConfig(
            r=subject.params.rank,
            lora_alpha=subject.params.rank,
            target_modules=subject.adapter.touched(),
        )
        self.model = get_peft_model(copy.deepcopy(subject.base.model), config)
        self.parameters = [
            parameter for parameter in self.model.parameters() if parameter.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)

    def __call__(self) -> None:
        inner = self.model.get_base_model()
        with torch.enable_grad():
            losses = []
            for _ in range(2):
                hidden = inner.base_model(
                    input_ids=self.ids, attention_mask=self.mask, use_cache=False
                ).last_hidden_state
                losses.append(token_nll(inner, hidden, self.ids, self.places).mean())
            descend(self.optimizer, self.parameters, torch.stack(losses).sum())


def descend(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], loss: Tensor
) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def training(subject: Subject, repeats: int) -> list[Figure]:
    ours = Ours(subject)
    theirs = Peft(subject, ours)
    name = "training step / peft LoRA step"
    return [ratio(name, ours, theirs, repeats, subject.base.device, at_most=1.2)]
