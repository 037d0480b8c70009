"""S-space arithmetic: the mean pair difference in a weight's own singular basis, without training.

    a = y (U sqrt(S)),   delta = mean(a+ - a-) / |mean(a+ - a-)|          W = U diag(S) V^T
    additive   y <- y + c (n / K) u,   u = U (sqrt(S) delta) / |U (sqrt(S) delta)|
    weight     y <- y + c ((x V) (S delta)) U^T,   that is W + c (U sqrt(S)) diag(delta) (V
               sqrt(S))^T

for K modules, y their outputs and n = |mean(y+ - y-)|. In the additive form c has the unit of
`Direction`; in the weight form it scales relative changes delta of the singular values, which are
at most 1. Source: the InnerPiSSA repository.

A singular pair (u, v) is unique only up to its sign. The additive form does not depend on it, the
weight form does: delta changes sign with u, but u v^T stays. So each pair is signed such that the
texts' mean input has a positive coordinate on v; then c > 0 moves that input's output towards the
positive persona, however the decomposition came out.
"""

from typing import Any, ClassVar, Self

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from pipeline.lm.layers import select
from pipeline.lm.load import device_of
from pipeline.steering.base import Coefficient, Context, Hooked, Hooks, Pairs, at_rows, is_zero
from pipeline.steering.direction import addition, site_states
from pipeline.steering.svd import Factors, read_cache
from pipeline.study.sections import SSpaceParams


class SSpace(Hooked):
    """Per module, by dotted name: a vector [o] of the additive form, or U [o, r], V [i, r] and
    change S delta [r].
    """

    graded: ClassVar[bool] = True
    history: pl.DataFrame | None = None

    def __init__(self, modules: dict[str, dict[str, Tensor]]):
        self.modules = modules
        self.summary: dict[str, float] = {}

    @classmethod
    def fit(
        cls, model, tokenizer, train: Pairs, calibration: Pairs, context: Context, seed: int
    ) -> Self:
        section = context.section
        assert isinstance(section, SSpaceParams) and context.modules and context.svd
        targets = select(model, context.modules)
        names = [target.name for target in targets]
        positive, negative = (
            site_states(model, tokenizer, texts, names, section.last_tokens)
            for texts in (train.positive, train.negative)
        )
        modules, norms = {}, []
        for target, a, b in zip(targets, positive, negative, strict=True):
            difference, middle = (a - b).mean(0), (a + b).mean(0) / 2
            bias = 0 if target.module.bias is None else target.module.bias.to(middle)
            factors = signed(
                read_cache(context.svd, target.name, None, model.device), middle - bias
            )
            delta = normalize((difference @ factors.U) * factors.S.sqrt(), dim=0)
            if section.form == "additive":
                vector = normalize(factors.U @ (factors.S.sqrt() * delta), dim=0)
                modules[target.name] = {"vector": vector * difference.norm() / len(targets)}
            else:
                modules[target.name] = {"U": factors.U, "V": factors.V, "change": factors.S * delta}
            norms.append(difference.norm().item())
        steering = cls(modules)
        steering.summary = {"mean_norm": sum(norms) / len(norms)}
        return steering

    def hooks(self, model: PreTrainedModel, coefficient: Coefficient) -> Hooks:
        if is_zero(coefficient):
            return []
        hooks = {}
        for name, parts in self.modules.items():
            place = device_of(model.get_submodule(name))
            here = {key: tensor.to(place) for key, tensor in parts.items()}
            hooks[name] = (
                addition(here["vector"], coefficient)
                if "vector" in here
                else rescaling(**here, coefficient=coefficient)
            )
        return list(hooks.items())

    def rewrite(self, messages, coefficient: float):
        return messages

    def touched(self) -> list[str]:
        return list(self.modules)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor
            for name, parts in self.modules.items()
            for key, tensor in parts.items()
        }

    def metadata(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        modules: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            name, key = path.rsplit(".", 1)
            modules.setdefault(name, {})[key] = tensor
        return cls(modules)


def signed(factors: Factors, product: Tensor) -> Factors:
    """Return the same factors with every pair (u, v) signed so that x v >= 0, for the product x W^T
    [o] of an input x.
    """
    sign = torch.where(product @ factors.U < 0, -1.0, 1.0)
    return Factors(factors.U * sign, factors.S, factors.V * sign)


def rescaling(U: Tensor, V: Tensor, change: Tensor, coefficient: Coefficient):
    """Return a forward hook that adds c ((x V) change) U^T, in float32, to a linear module's output
    [b, t, o].
    """

    def hook(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        c = at_rows(coefficient, len(output)).to(output.device)
        added = (inputs[0].to(V.dtype) @ V) * (c[:, None, None] * change) @ U.transpose(0, 1)
        return output + added.to(output.dtype)

    return hook
