"""The sections of params.yaml that training reads, and what else a trained fit may use."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pipeline.steering.base import MethodParams, Study
from pipeline.steering.training.antiparallel import AntiParallelParams
from pipeline.steering.training.contrastive import ContrastiveParams
from pipeline.steering.training.distil import DistilParams
from pipeline.support.scratch import Scratch
from pipeline.support.section import Section

LossParams = Annotated[
    ContrastiveParams | AntiParallelParams | DistilParams, Field(discriminator="of")
]
LOSSES = ("contrastive", "antiparallel", "distil")


class TrainingParams(Section):
    loss_depth: float = Field(ge=0, le=1)
    """The layer whose residual stream the loss reads, after the last adapted one (of the depth)."""
    last_tokens: int = Field(ge=1)
    """How many last tokens of a pair the representation loss averages over."""
    epochs: int = Field(ge=1)
    """Passes over the training pairs."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps instead of whole passes; null takes `epochs`."""
    batch_size: int = Field(ge=2)
    """Pairs per micro-batch; each is two texts at two coefficients."""
    accumulate: int = Field(ge=1)
    """Micro-batches per optimiser step, whose gradients are averaged."""
    weight_decay: float = Field(ge=0)
    """AdamW's decoupled weight decay, times the learning rate per step."""
    warmup_share: float = Field(ge=0, lt=1)
    """The share of all steps during which the learning rate rises."""
    clip_norm: float = Field(gt=0)
    """Longest gradient, all parameters together; a longer one is shortened to it."""


class LearnedParams(MethodParams):
    loss: LossParams
    """An id under `losses`; or {of: id, field: value, ...}."""
    lr: float = Field(gt=0)
    """The highest learning rate of the one-cycle schedule."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; null takes training.epochs."""
    batch_size: int | None = Field(default=None, ge=2)
    """Pairs per micro-batch; null takes training.batch_size."""

    def schedule(self, training: TrainingParams) -> TrainingParams:
        """Return the study's training with what this method has of its own."""
        own = {"steps": self.steps, "batch_size": self.batch_size}
        changes = {key: value for key, value in own.items() if value is not None}
        return training.model_copy(update=changes)


@dataclass(frozen=True, kw_only=True)
class TrainingStudy(Study):
    """What a trained fit may use of the study."""

    rank: int
    """How many dimensions of each target module an adapter has."""
    training: TrainingParams
    scratch: Scratch | None = None
    """Where long training keeps what it needs to go on after an interruption."""
