"""S-space arithmetic: the mean pair difference in a weight's own singular basis.

    a = y (U sqrt(S)),   delta = mean(a+ - a-) / |mean(a+ - a-)|          W = U diag(S) V^T
    additive   y <- y + c (n / K) u,   u = U (sqrt(S) delta) / |U (sqrt(S) delta)|
    weight     y <- y + c ((x V) (S delta)) U^T: W + c (U sqrt(S)) diag(delta) (V sqrt(S))^T

There are K modules; y are their outputs and n = |mean(y+ - y-)|. In the additive form c has the
unit of `Direction`. In the weight form it scales relative changes delta of the singular values,
which are at most 1.

A singular pair (u, v) is unique only up to its sign. The additive form does not depend on it, but
the weight form does: delta changes sign with u, while u v^T stays. So each pair is signed such that
the texts' mean input has a positive coordinate on v. Then c > 0 moves that input's output towards
the positive persona, however the decomposition came out.

Source: the InnerPiSSA repository.
"""

from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.lm.base import Base
from pipeline.lm.layers import device_of, select
from pipeline.steering.base import Look, MethodParams, PairSplits, Steering, Study, Update
from pipeline.steering.direction import addition
from pipeline.steering.hooks import Coefficient, Hooks, at_rows, is_zero
from pipeline.steering.states import site_states
from pipeline.steering.svd import Factors, read_cache
from pipeline.steering.training.adapter import by_module


class SSpaceParams(MethodParams):
    last_tokens: int = Field(ge=1)
    """How many last tokens of a text its outputs are the mean of."""
    form: Literal["additive", "weight"]
    """y + c U sqrt(S) delta, or y + c (U sqrt(S)) (delta * (sqrt(S) V^T x))."""


class SSpace(Steering):
    section = SSpaceParams
    label = "S-space"
    source = "InnerPiSSA, M. J. Clark, https://github.com/wassname/InnerPiSSA"
    look = Look("#882255", "p")

    def __init__(self, modules: dict[str, dict[str, Tensor]]):
        """Of each module a `vector` [o] to add; or U [o, r], V [i, r], `change` S delta [r]."""
        super().__init__()
        self.modules = modules

    @classmethod
    def fit(
        cls, base: Base, pairs: PairSplits, section: SSpaceParams, study: Study, seed: int
    ) -> Self:
        targets = select(base.model, study.modules)
        names = [target.name for target in targets]
        positive, negative = (
            site_states(base, texts, names, section.last_tokens)
            for texts in (pairs.train.positive, pairs.train.negative)
        )
        modules, norms = {}, []
        for target, a, b in zip(targets, positive, negative, strict=True):
            difference, middle = (a - b).mean(0), (a + b).mean(0) / 2
            bias = 0 if target.module.bias is None else target.module.bias.to(middle)
            cached = read_cache(study.svd, target.name, None, base.model.device)
            factors = signed_by(cached, middle - bias)
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

    def hooks(self, model, coefficient: Coefficient) -> Hooks:
        if is_zero(coefficient):
            return []
        hooks: Hooks = []
        for name, parts in self.modules.items():
            place = device_of(model.get_submodule(name))
            here = {key: tensor.to(place) for key, tensor in parts.items()}
            if "vector" in here:
                hooks.append((name, addition(here["vector"], coefficient)))
            else:
                hooks.append((name, rescaling(**here, coefficient=coefficient)))
        return hooks

    def touched(self) -> list[str]:
        return list(self.modules)

    def additions(self, coefficient: float) -> dict[str, Tensor]:
        return {
            name: coefficient * parts["vector"]
            for name, parts in self.modules.items()
            if "vector" in parts
        }

    def updates(self, model, coefficient: float) -> dict[str, Update]:
        return {
            name: Update(parts["V"].T, coefficient * parts["U"] * parts["change"])
            for name, parts in self.modules.items()
            if "change" in parts
        }

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor
            for name, parts in self.modules.items()
            for key, tensor in parts.items()
        }

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        return cls(by_module(tensors))


def signed_by(factors: Factors, product: Tensor) -> Factors:
    """Sign every pair (u, v) so that x v >= 0, for the product x W^T [o] of an input x."""
    sign = torch.where(product @ factors.U < 0, -1.0, 1.0)
    return Factors(factors.U * sign, factors.S, factors.V * sign)


def rescaling(U: Tensor, V: Tensor, change: Tensor, coefficient: Coefficient):
    """Return a hook that adds c ((x V) change) U^T, in float32, to a linear output [b, t, o]."""

    def hook(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        c = at_rows(coefficient, len(output)).to(output.device)
        added = (inputs[0].to(V.dtype) @ V) * (c[:, None, None] * change) @ U.transpose(0, 1)
        return output + added.to(output.dtype)

    return hook
