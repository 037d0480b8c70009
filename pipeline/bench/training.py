"""Our training step against peft's LoRA on the same rows, modules and rank.

Ours: both signs of c in one forward pass over the pairs' texts twice, their common beginnings once,
and the base model's part cached. Then the study's contrastive loss, one backward pass and AdamW.
peft: the texts once per sign, so two forward passes. Then the mean NLL of the same tokens, one
backward pass and AdamW.
"""

import copy

import torch
from peft import LoraConfig, get_peft_model

from pipeline.bench.ratios import Figure, Timed
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
    """The same modules of a copy of the model, since peft changes the model that it is given."""

    def __init__(self, subject: Subject, ours: Ours):
        data, rank = ours.split.data, subject.params.rank
        texts = [ids for row in ours.rows for ids in data.texts[2 * row : 2 * row + 2]]
        counts = [data.shared[row] for row in ours.rows for _ in range(2)]
        self.ids, self.mask = pad_left(texts, data.pad_id, subject.base.device)
        self.places = tails(counts, self.ids.shape[1], subject.base.device)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=subject.adapter.touched())
        self.model = get_peft_model(copy.deepcopy(subject.base.model), config)
        self.parameters = [own for own in self.model.parameters() if own.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)

    @torch.enable_grad()
    def __call__(self) -> None:
        inner, losses = self.model.get_base_model(), []
        for _ in range(2):
            hidden = inner.base_model(
                input_ids=self.ids, attention_mask=self.mask, use_cache=False
            ).last_hidden_state
            losses.append(token_nll(inner, hidden, self.ids, self.places).mean())
        self.optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def training(subject: Subject, timed: Timed) -> list[Figure]:
    ours = Ours(subject)
    return [timed("training step / peft LoRA step", ours, Peft(subject, ours), at_most=1.2)]
