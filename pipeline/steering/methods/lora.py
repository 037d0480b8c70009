"""LoRA with a signed coefficient, trained by the same loop, loss and pairs.

    y(c) = base(x) + c (x A^T) B^T,      A [r, i], B [o, r]

c multiplies the update: peft's `scaling` is its c = +1, and c = -1 subtracts the same update.
Identity: odd in c, zero at 0. A and B are drawn as peft draws them. Where a loss has no gradient at
B = 0, B gets a little noise. peft's layers replace the module and take one scaling per batch. A
hook leaves the base model as it is and gives every row its own c.

Source: Hu et al., arXiv 2106.09685; tests hold LoRA and DoRA equal to peft's layers.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.layers import device_of, select
from pipeline.steering.base import Look, Pairs, Update
from pipeline.steering.training.adapter import Adapter, Hook, LearnedModule
from pipeline.steering.training.params import LearnedParams, TrainingStudy


class LoraParams(LearnedParams):
    init_std: float = Field(ge=0)
    """Spread of B; A is drawn as peft does."""


class LoraModule(LearnedModule):
    """A [r, i] and B [o, r] of one linear module."""

    def __init__(self, inputs: int, outputs: int, rank: int, device: torch.device | None = None):
        super().__init__()
        self.A = nn.Parameter(torch.zeros(rank, inputs, device=device))
        self.B = nn.Parameter(torch.zeros(outputs, rank, device=device))

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        drawn = nn.init.kaiming_uniform_(
            torch.empty(self.A.shape), a=math.sqrt(5), generator=generator
        )
        self.A.copy_(drawn)
        self.B.copy_(torch.randn(self.B.shape, generator=generator) * std)

    def low_rank(self, x: Tensor) -> Tensor:
        """Return (x A^T) B^T in float32."""
        return (x.to(self.A.dtype) @ self.A.T) @ self.B.T

    def hook(self, target: nn.Linear, doses: Tensor, index: Tensor) -> Hook:
        c = doses[index].to(self.B.device)[..., None, None]

        def add(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + (c * self.low_rank(inputs[0])).to(output.dtype)

        return add

    def update(self, target: nn.Linear, name: str, coefficient: float) -> Update:
        return Update(self.A, coefficient * self.B)

    @torch.no_grad()
    def flip(self) -> None:
        self.B.neg_()


class Lora(Adapter):
    section = LoraParams
    label = "LoRA"
    source = "LoRA, Hu et al., https://arxiv.org/abs/2106.09685"
    look = Look("#009E73", "D")
    module: ClassVar[type[LoraModule]] = LoraModule
    modules: Mapping[str, LoraModule]

    @classmethod
    def build(
        cls, base: Base, train: Pairs, section: LoraParams, study: TrainingStudy,
        draw: torch.Generator,
    ) -> tuple[dict[str, LearnedModule], int]:  # fmt: skip
        targets = select(base.model, study.modules)
        modules: dict[str, LearnedModule] = {}
        for target in targets:
            linear = target.module
            module = cls.module(
                linear.in_features, linear.out_features, study.rank, device_of(linear)
            )
            module.initialise(section.init_std, draw)
            modules[target.name] = module
        return modules, max(target.layer for target in targets)

    def module_hooks(
        self, targets: dict[str, nn.Linear], doses: Tensor, index: Tensor
    ) -> dict[str, Hook]:
        return {name: self.modules[name].hook(to, doses, index) for name, to in targets.items()}

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], shape: dict[str, Any]) -> LearnedModule:
        (rank, inputs), outputs = tensors["A"].shape, len(tensors["B"])
        module = cls.module(inputs, outputs, rank, tensors["A"].device)
        for key, parameter in module.named_parameters():
            parameter.data.copy_(tensors[key])
        return module
