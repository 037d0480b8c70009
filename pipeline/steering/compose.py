"""Several adapters on one model at once, each with its own coefficient.

SVD adapters and LoRA on one module add up in any order; a DoRA scales what was attached before.
"""

from dataclasses import dataclass

from pipeline.steering.base import Attachable, Coefficient, Hooked, Hooks


@dataclass(frozen=True)
class Composed(Hooked):
    """Fitted methods with a weight each: at c each is attached at c times its weight."""

    parts: list[tuple[Attachable, float]]

    def hooks(self, model, coefficient: Coefficient) -> Hooks:
        return [
            hook
            for steering, weight in self.parts
            for hook in steering.hooks(model, coefficient * weight)
        ]

    def rewrite(self, messages, coefficient: float):
        for steering, weight in self.parts:
            messages = steering.rewrite(messages, coefficient * weight)
        return messages

    def touched(self) -> list[str]:
        return [name for steering, _ in self.parts for name in steering.touched()]
