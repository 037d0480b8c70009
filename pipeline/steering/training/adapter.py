"""What every learned method shares: one small trained module beside each target module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.layers import device_of
from pipeline.lm.quantisation import memory
from pipeline.steering.base import Pairs, PairSplits, Steering, Update
from pipeline.steering.hooks import Coefficient, Hooks, check_batched, check_rows, is_zero
from pipeline.steering.training.loop import optimise
from pipeline.steering.training.params import LearnedParams, TrainingStudy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


class LearnedModule(nn.Module):
    """The adapter of one linear module; subclasses hold its parameters."""

    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        raise NotImplementedError

    def bases(self) -> list[Tensor]:
        """Return the fixed bases [o, r] that it writes its change in."""
        return []

    def rotations(self, c: Tensor) -> list[Tensor]:
        """Return every learned rotation R(c) [k, r, r]."""
        return []

    def update(self, target: nn.Linear, name: str, coefficient: float) -> Update:
        """Return the change of the target's weight at a coefficient; `name` is for errors."""
        raise NotImplementedError


class Adapter(Steering):
    """`LearnedModule`s by the target's dotted name. Subclasses say how they are built."""

    learned = True
    free_sign = True
    section: ClassVar[type[LearnedParams]] = LearnedParams
    shape_fields: ClassVar[tuple[str, ...]] = ()
    """The fields of the section that a saved adapter needs besides its tensors."""

    def __init__(self, modules: Mapping[str, LearnedModule], shape: dict[str, Any]):
        super().__init__()
        self.modules, self.shape = modules, shape

    @classmethod
    def build(
        cls, base: Base, train: Pairs, section: Any, study: TrainingStudy, draw: torch.Generator
    ) -> tuple[dict[str, LearnedModule], int]:
        """Return untrained modules by the target's name, and the last adapted layer."""
        raise NotImplementedError

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], shape: dict[str, Any]) -> LearnedModule:
        """Return one module from its saved tensors."""
        raise NotImplementedError

    @classmethod
    def fit(
        cls, base: Base, pairs: PairSplits, section: LearnedParams, study: TrainingStudy, seed: int
    ) -> Self:
        draw = torch.Generator().manual_seed(seed)
        modules, last_layer = cls.build(base, pairs.train, section, study, draw)
        steering = cls(modules, section.model_dump(include=set(cls.shape_fields)))
        loss = section.loss.build(steering.outputs())
        training = section.schedule(study.training)
        steering.history, steering.summary = optimise(
            base, pairs, steering, loss, last_layer, training, section.lr, draw, study.scratch
        )
        steering.summary |= {
            "modules": len(modules),
            "parameters": sum(parameter.numel() for parameter in steering.parameters()),
            "adapter_mib": sum(held.nbytes for held in steering.tensors().values()) / 2**20,
            "base_mib": memory(base.model),
        }
        return steering

    def outputs(self) -> list[Tensor]:
        """Return the fixed bases [o, r] that modules write their change in."""
        return [basis for module in self.modules.values() for basis in module.bases()]

    def rotations(self, coefficients: Tensor) -> list[Tensor]:
        """Return every learned rotation R(c) [k, r, r]."""
        return [R for module in self.modules.values() for R in module.rotations(coefficients)]

    @property
    def promised_angle(self) -> float | None:
        """The largest plane angle (radians) that it promises at |c| = 1, if any."""
        return None

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules.values() for parameter in module.parameters()]

    def flip(self) -> None:
        for module in self.modules.values():
            module.flip()

    def hooks(self, model: PreTrainedModel, coefficient: Coefficient) -> Hooks:
        if is_zero(coefficient):
            return []
        by_row = torch.as_tensor(coefficient, dtype=torch.float32, device="cpu")
        doses, index = torch.unique(by_row, return_inverse=True)
        targets = {name: model.get_submodule(name) for name in self.modules}
        for name, module in self.modules.items():
            place = device_of(targets[name])
            if next(module.parameters()).device != place:
                module.to(place)
        by_name = self.module_hooks(targets, doses, index)
        return [(name, guarded(hook, index)) for name, hook in by_name.items()]

    def module_hooks(
        self, targets: dict[str, nn.Linear], doses: Tensor, index: Tensor
    ) -> dict[str, Hook]:
        """Return each module's forward hook: row i of a batch gets coefficient doses[index[i]].

        A 0-d index serves all rows. Both lie on the CPU, where reading them waits for no device.
        """
        raise NotImplementedError

    def touched(self) -> list[str]:
        return list(self.modules)

    @torch.no_grad()
    def updates(self, model: PreTrainedModel, coefficient: float) -> dict[str, Update]:
        return {
            name: module.update(model.get_submodule(name), name, coefficient)
            for name, module in self.modules.items()
        }

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }

    def metadata(self) -> dict[str, Any]:
        return self.shape

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        # Frozen: what is loaded is for use, and hooks can then fold what no gradient needs apart.
        return cls(
            {
                name: cls.rebuild(own, metadata).requires_grad_(False)
                for name, own in by_module(tensors).items()
            },
            metadata,
        )


def by_module(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return saved tensors `<module>.<name>` by module and name."""
    modules: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        module, _, name = path.rpartition(".")
        modules.setdefault(module, {})[name] = tensor
    return modules


def guarded(hook: Hook, index: Tensor) -> Hook:
    """Refuse a batch that does not have one row per coefficient."""

    def run(module, inputs, output):
        check_batched(output)
        if index.ndim:
            check_rows(index, len(output))
        return hook(module, inputs, output)

    return run
