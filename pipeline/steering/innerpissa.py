"""InnerPiSSA: rotate and rescale a weight's own singular triples, in either direction by the sign of c.

    y(c) = base(x) + ((x V) M(c)) U^T,   M(c) = R_v(c) diag(S_c) R_u(c)^T - diag(S),   S_c = S exp(c lambda)

Equal to the published x V R_v S_c (U R_u)^T + x W_res^T (github.com/wassname/InnerPiSSA) with W_res = W - U S V^T, but
M(0) = 0 exactly, so c = 0 is the base model bit for bit; no residual is stored; and one batch can hold many c.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import polars as pl
import torch
from torch import Tensor, nn

from pipeline.lm.layers import select
from pipeline.sections import InnerPissaParams
from pipeline.steering.base import Coefficient, Context, Pairs, is_zero
from pipeline.steering.losses import ContrastiveLoss
from pipeline.steering.optimise import optimise
from pipeline.steering.rotation import cayley, scaled, skew
from pipeline.steering.svd import Factors, read_cache


class SvdModule(nn.Module):
    """The adapter of one linear module: frozen factors, packed skew parameters and a scaling vector."""

    U: Tensor
    S: Tensor
    V: Tensor
    theta_v: nn.Parameter | None
    theta_u: nn.Parameter | None
    scale: nn.Parameter | None

    def __init__(self, factors: Factors, rotate: str, scaling: str):
        super().__init__()
        for name, factor in factors._asdict().items():
            self.register_buffer(name, factor)
        self.scaling = scaling
        rank = len(self.S)
        packed = rank * (rank - 1) // 2
        shapes = {
            "theta_v": packed if rotate in ("v", "both") else 0,
            "theta_u": packed if rotate in ("u", "both") else 0,
            "scale": rank if scaling != "none" else 0,
        }
        for name, size in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(size, device=self.S.device)) if size else None)

    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Draw small parameters: at zero both signs of c coincide and the symmetric loss has no gradient."""
        for parameter in self.parameters():
            drawn = torch.empty(parameter.shape)
            nn.init.trunc_normal_(drawn, std=std, a=-2 * std, b=2 * std, generator=generator)
            parameter.data.copy_(drawn)

    def core(self, c: Tensor) -> Tensor:
        """Return M(c) [k, r, r] for coefficients c [k]."""
        rank = len(self.S)
        S_c = scaled(self.S, self.scale, c, self.scaling)
        M = torch.diag_embed(S_c)
        if self.theta_v is not None:
            M = cayley(skew(self.theta_v, rank), c) * S_c[:, None, :]
        if self.theta_u is not None:
            M = M @ cayley(skew(self.theta_u, rank), c).transpose(1, 2)
        return M - torch.diag(self.S)


class InnerPissa:
    """A set of `SvdModule`s by dotted module name."""

    graded = True

    def __init__(self, modules: dict[str, SvdModule], rotate: str, scaling: str):
        self.modules, self.rotate, self.scaling = modules, rotate, scaling
        self.history: pl.DataFrame | None = None
        self.summary: dict[str, float] = {}

    @classmethod
    def fit(cls, model, tokenizer, train: Pairs, calibration: Pairs, context: Context, seed: int) -> Self:
        section, modules, svd, training = context.section, context.modules, context.svd, context.training
        assert isinstance(section, InnerPissaParams) and modules and svd and training
        generator = torch.Generator().manual_seed(seed)
        adapters, targets = {}, select(model, modules)
        for target in targets:
            factors = read_cache(svd, target.name, context.rank, model.device)
            adapters[target.name] = SvdModule(factors, section.rotate, section.scaling)
            adapters[target.name].initialise(section.init_std, generator)
        steering = cls(adapters, section.rotate, section.scaling)
        last_layer, loss = max(target.layer for target in targets), ContrastiveLoss(section)
        steering.history, steering.summary = optimise(
            model, tokenizer, steering, last_layer, loss, train, calibration, training, generator
        )
        return steering

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules.values() for parameter in module.parameters()]

    @torch.no_grad()
    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        for parameter in self.parameters():
            parameter.neg_()

    @contextmanager
    def steer(self, model, coefficient: Coefficient) -> Iterator[None]:
        if is_zero(coefficient):
            yield
            return
        doses, index = torch.unique(torch.as_tensor(coefficient, dtype=torch.float32), return_inverse=True)
        index = index if index.ndim else None
        with ExitStack() as attached:
            for name, adapter in self.modules.items():
                M = adapter.core(doses.to(adapter.S.device))
                M = M[0] if index is None else M[index.to(M.device)]
                handle = model.get_submodule(name).register_forward_hook(addition(adapter.U, M, adapter.V))
                attached.callback(handle.remove)
            yield

    def rewrite(self, messages, coefficient: float):
        return messages

    def tensors(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": value for name, module in self.modules.items() for key, value in module.state_dict().items()}

    def metadata(self) -> dict[str, Any]:
        return {"rotate": self.rotate, "scaling": self.scaling}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        names = dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
        modules = {}
        for name in names:
            factors = Factors(*(tensors[f"{name}.{key}"] for key in Factors._fields))
            modules[name] = SvdModule(factors, metadata["rotate"], metadata["scaling"])
            for key, parameter in modules[name].named_parameters():
                parameter.data.copy_(tensors[f"{name}.{key}"])
        return cls(modules, metadata["rotate"], metadata["scaling"])

    def to(self, device: torch.device) -> Self:
        for module in self.modules.values():
            module.to(device)
        return self


def addition(U: Tensor, M: Tensor, V: Tensor):
    """Return a forward hook that adds ((x V) M) U^T, in float32, to a linear module's output; M is [r, r] or [b, r, r]."""

    def hook(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        delta = (inputs[0].to(V.dtype) @ V) @ M @ U.transpose(0, 1)
        return output + delta.to(output.dtype)

    return hook
