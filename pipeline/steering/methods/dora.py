"""DoRA with a signed coefficient: LoRA, and a learned length for each row of the weight.

    W(c) = m(c) (W + c B A) / |W + c B A|,   m(c) = |W| + c delta,   |.| by output row
    y(c) = base(x) + (g - 1) (base(x) - bias) + g c (x A^T) B^T,   g = m(c) / |W + c B A|

At c = 0, g is exactly one. c = +1 is peft's DoRA with magnitude |W| + delta; as there, the norm
carries no gradient. c = -1 mirrors direction and magnitude. Of two adapters on one module, a later
DoRA scales what the earlier one added as well.

Source: Liu et al., arXiv 2402.09353, section 4.3.
"""

import torch
from torch import Tensor, nn

from pipeline.lm.quantisation import weight_of
from pipeline.steering.base import Look, Update, dense
from pipeline.steering.methods.lora import Lora, LoraModule
from pipeline.steering.training.adapter import Hook


class DoraModule(LoraModule):
    """A, B and the change of each output row's length, delta [o]."""

    def __init__(self, inputs: int, outputs: int, rank: int, device: torch.device | None = None):
        super().__init__(inputs, outputs, rank, device)
        self.delta = nn.Parameter(torch.zeros(outputs, device=device))

    def gain(self, W: Tensor, doses: Tensor) -> Tensor:
        """Return g [k, o] for a base weight W [o, i], float32, and coefficients [k]."""
        with torch.no_grad():
            own, update = W.square().sum(1), self.B @ self.A
            across, square, c = (W * update).sum(1), update.square().sum(1), doses[:, None]
            norm = (own + c * (2 * across + c * square)).sqrt()
        return (own.sqrt() + c * self.delta) / norm

    def hook(self, target: nn.Linear, doses: Tensor, index: Tensor) -> Hook:
        doses, index = doses.to(self.B.device), index.to(self.B.device)
        g = self.gain(weight_of(target), doses)[index].unsqueeze(-2)
        c = doses[index][..., None, None]

        def add(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            plain = output if target.bias is None else output - target.bias
            delta = (g - 1) * plain.float() + g * c * self.low_rank(inputs[0])
            return output + delta.to(output.dtype)

        return add

    def update(self, target: nn.Linear, name: str, coefficient: float) -> Update:
        length = dense(target, name).float().norm(dim=1).to(self.delta.device)
        return Update(self.A, coefficient * self.B, length + coefficient * self.delta)

    @torch.no_grad()
    def flip(self) -> None:
        super().flip()
        self.delta.neg_()


class Dora(Lora):
    label = "DoRA"
    source = "DoRA, Liu et al., https://arxiv.org/abs/2402.09353"
    look = Look("#CC79A7", "^")
    module = DoraModule
