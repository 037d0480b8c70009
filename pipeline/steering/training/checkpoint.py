"""The state of a training run, kept aside so that a second start goes on with the same bits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lm import processes
from pipeline.support.scratch import ScratchFile

PLAIN = ("step", "best_loss", "best_step", "best", "records")


@dataclass
class TrainingState:
    """What a run has besides what its seed rebuilds: order of the pairs and frozen bases."""

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    kept: list[Tensor] = field(default_factory=list)
    """What the objective itself carries from step to step."""
    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    best: list[Tensor] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, loss: float) -> None:
        """Keep the parameters where no checkpoint had a lower calibration loss."""
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = copies(self.parameters)

    def save(self, file: ScratchFile | None) -> None:
        if file and processes.is_main():
            content = {key: getattr(self, key) for key in PLAIN}
            content["optimizer"] = self.optimizer.state_dict()
            content["schedule"] = self.schedule.state_dict()
            content["kept"] = copies(self.kept)
            file.write({**content, "parameters": copies(self.parameters)})

    def restore(self, file: ScratchFile | None) -> bool:
        """Go back to where an interrupted run was, if there is one; return whether there was."""
        content = file.read() if file else None
        if content is None:
            return False
        assign(self.parameters, content.pop("parameters"))
        self.kept[:] = content.pop("kept")
        self.optimizer.load_state_dict(content.pop("optimizer"))
        self.schedule.load_state_dict(content.pop("schedule"))
        for key, value in content.items():
            setattr(self, key, value)
        print(f"training goes on after step {self.step}, kept by an interrupted run")
        return True


def copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def assign(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
