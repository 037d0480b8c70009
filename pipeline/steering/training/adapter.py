"""What every learned method shares: one small trained module beside each target module, one
coefficient for all.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import polars as pl
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.load import device_of
from pipeline.lm.quantisation import memory
from pipeline.steering.base import Coefficient, Context, Hooked, Hooks, Pairs, is_zero
from pipeline.steering.training.contrastive import make_loss
from pipeline.steering.training.optimise import optimise
from pipeline.study.sections import LearnedParams
from pipeline.support.errors import InputError

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


def guarded(hook: Hook, index: Tensor) -> Hook:
    """Refuse a batch that does not have one row per coefficient: one coefficient would be broadcast
    silently.
    """

    def run(module, inputs, output):
        if output.ndim != 3:
            raise InputError(
                "a target module sees its tokens without batch rows, as experts do: leave it out "
                "of modules.target"
            )
        if index.ndim and len(index) != len(output):
            raise ValueError(
                f"{len(index)} coefficients for a batch of {len(output)} rows: give one number, or "
                "one per row"
            )
        return hook(module, inputs, output)

    return run


class LearnedModule(nn.Module):
    """The adapter of one linear module; subclasses hold its parameters."""

    def hook(self, target: nn.Linear, doses: Tensor, index: Tensor) -> Hook:
        """Return a forward hook for `target`: row i of a batch gets coefficient doses[index[i]]; a
        0-d index serves all rows.

        Both lie on the CPU, where their values can be read without waiting for a device.
        """
        raise NotImplementedError

    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        raise NotImplementedError


class Adapter(Hooked):
    """A set of `LearnedModule`s by dotted module name. Subclasses say how they are built and
    rebuilt.
    """

    graded = True
    shape_fields: ClassVar[tuple[str, ...]] = ()
    """The fields of the section that a saved adapter needs besides its tensors."""

    def __init__(self, modules: dict[str, LearnedModule], shape: dict[str, Any]):
        self.modules, self.shape = modules, shape
        self.history: pl.DataFrame | None = None
        self.summary: dict[str, float] = {}

    @classmethod
    def build(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, train: Pairs, context: Context,
        generator: torch.Generator,
    ) -> tuple[dict[str, LearnedModule], int]:  # fmt: skip
        """Return untrained modules by the target's name, and the last adapted layer."""
        raise NotImplementedError

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], shape: dict[str, Any]) -> LearnedModule:
        """Return one module from its saved tensors."""
        raise NotImplementedError

    @classmethod
    def fit(
        cls, model, tokenizer, train: Pairs, calibration: Pairs, context: Context, seed: int
    ) -> Self:
        section, training = context.section, context.training
        assert isinstance(section, LearnedParams) and training
        generator = torch.Generator().manual_seed(seed)
        modules, last_layer = cls.build(model, tokenizer, train, context, generator)
        steering = cls(modules, section.model_dump(include=set(cls.shape_fields)))
        loss = make_loss(section.loss, steering.outputs())
        history, summary = optimise(
            model,
            tokenizer,
            steering,
            last_layer,
            loss,
            train,
            calibration,
            training,
            section.lr,
            generator,
            context.scratch,
        )
        count = sum(parameter.numel() for parameter in steering.parameters())
        held = sum(tensor.nbytes for tensor in steering.tensors().values()) / 2**20
        summary |= {
            "modules": len(modules),
            "parameters": count,
            "adapter_mib": held,
            "base_mib": memory(model),
        }
        steering.history, steering.summary = history, summary
        return steering

    def outputs(self) -> list[Tensor]:
        """Return the bases [o, r] that each module writes its change in; none where there is no
        fixed one.
        """
        return []

    def rotations(self, doses: Tensor) -> list[Tensor]:
        """Return every learned rotation R(c) [k, r, r] at doses [k]; none where nothing rotates."""
        return []

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules.values() for parameter in module.parameters()]

    def flip(self) -> None:
        for module in self.modules.values():
            module.flip()

    def hooks(self, model, coefficient: Coefficient) -> Hooks:
        if is_zero(coefficient):
            return []
        doses, index = torch.unique(
            torch.as_tensor(coefficient, dtype=torch.float32, device="cpu"), return_inverse=True
        )
        hooks: Hooks = []
        for name, module in self.modules.items():
            target = model.get_submodule(name)
            place = device_of(target)
            if next(module.parameters()).device != place:
                module.to(place)
            hooks.append((name, guarded(module.hook(target, doses, index), index)))
        return hooks

    def rewrite(self, messages, coefficient: float):
        return messages

    def touched(self) -> list[str]:
        return list(self.modules)

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
        own: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, field = key.rpartition(".")
            own.setdefault(name, {})[field] = tensor
        # Frozen: what is loaded is for use, and hooks can then fold what no gradient needs apart.
        return cls(
            {
                name: cls.rebuild(found, metadata).requires_grad_(False)
                for name, found in own.items()
            },
            metadata,
        )
