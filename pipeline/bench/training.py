"""Our training step against peft's LoRA on the same rows, modules and rank.

Ours: both signs of c in one forward pass over the pairs' texts twice, their common beginnings once,
and the base model's part cached. Then the study's contrastive loss, one backward pass and AdamW.
peft: the texts once per sign, so two forward passes. Then the mean NLL of the same tokens, one
backward pass and AdamW.
"""

import copy

import torch

from pipeline.bench.lora import Lora
from pipeline.bench.ratios import Figure, Timer
from pipeline.bench.subject import Subject
from pipeline.lm.forward import tails, token_nll
from pipeline.lm.prompts import pad_left
from pipeline.steering.base import PairSplits
from pipeline.steering.training.partwise import PartwiseObjective
from pipeline.steering.training.task import contrasted, loss_layer


class Ours:
    def __init__(self, subject: Subject):
        params, base = subject.params, subject.base
        adapter = copy.deepcopy(subject.adapter)
        self.parameters = [parameter.requires_grad_() for parameter in adapter.parameters()]
        loss = params.steering["innerpissa"].loss.build(adapter.outputs())
        splits = PairSplits(subject.pairs, subject.pairs)
        index = loss_layer(base, params.training, last_adapted=-1)
        task = contrasted(base, splits, adapter, loss, index, params.training)
        self.split = task.splits["train"]
        self.objective = PartwiseObjective(task.objective, params.training.batch_size)
        self.rows = list(range(min(params.training.batch_size, len(self.split))))
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)

    @torch.enable_grad()
    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.objective.terms(self.split, self.rows, 1.0)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


class Peft:
    def __init__(self, subject: Subject, ours: Ours, lora: Lora):
        data = ours.split.data
        texts = [ids for row in ours.rows for ids in data.texts[2 * row : 2 * row + 2]]
        counts = [data.shared[row] for row in ours.rows for _ in range(2)]
        self.ids, self.mask = pad_left(texts, data.pad_id, subject.base.device)
        self.places = tails(counts, self.ids.shape[1], subject.base.device)
        self.lora = lora

    @torch.enable_grad()
    def __call__(self) -> None:
        inner, losses = self.lora.model.get_base_model(), []
        for _ in range(2):
            hidden = inner.base_model(
                input_ids=self.ids, attention_mask=self.mask, use_cache=False
            ).last_hidden_state
            losses.append(token_nll(inner, hidden, self.ids, self.places).mean())
        self.lora.optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.lora.parameters, 1.0)
        self.lora.optimizer.step()


def training(ours: Ours, peft: Peft, timer: Timer) -> list[Figure]:
    times = timer({"ours": ours, "peft": peft})
    return [times.ratio("training step / peft LoRA step", "ours", "peft", at_most=1.0)]
