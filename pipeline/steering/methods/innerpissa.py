"""InnerPiSSA: rotate singular vectors V of a weight and scale its singular values S.

    y(c) = base(x) + ((x V) M(c)) U^T,     W ~ U diag(S) V^T, its r chosen singular triples
    M(c) = R_v(c) diag(S_c) R_u(c)^T - diag(S)
    R(c) = (I - c A / 2)^-1 (I + c A / 2), A skew-symmetric and learned;   S_c = S exp(c lambda)

By default R_u = I. This equals the published x V R_v S_c (U R_u)^T + x W_res^T with W_res = W - U S
V^T, but M(0) = 0 exactly. So c = 0 is the base model bit for bit, no residual is stored, and one
batch can hold many c. Further identity: R(-c) = R(c)^T. It is trained with the contrastive loss
(training/contrastive.py) by training/loop.py.

Source: github.com/wassname/InnerPiSSA, README and code of November 2025.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.layers import device_of, role, select
from pipeline.steering.angles import bounded
from pipeline.steering.base import Look, Pairs, Update
from pipeline.steering.dimensions import choose
from pipeline.steering.rotation import block_diagonal, cayley, singular_values_at, skew
from pipeline.steering.states import entering_states
from pipeline.steering.svd import Factors, read_cache
from pipeline.steering.training.adapter import Adapter, Hook, LearnedModule
from pipeline.steering.training.params import LearnedParams, TrainingStudy
from pipeline.support.errors import InputError


class SvdAdapterParams(LearnedParams):
    rotate: Literal["v", "u", "both", "none"]
    """Which singular vectors a Cayley rotation turns."""
    scaling: Literal["exp", "additive", "tanh", "none"]
    """S * exp(c lambda), S + c delta, S * (1 + c tanh lambda), or S alone."""
    angle_bound: Literal["none", "elementwise", "spectral"]
    """Bound nothing, each entry of A (the source; bounds no angle), or the largest plane angle."""
    max_angle: float = Field(gt=0, lt=3.1415)
    """Radians; without meaning for angle_bound none."""
    block_size: int | None = Field(ge=2)
    """Rotate within blocks of this many dimensions; null turns all together."""
    dimensions: Literal["top", "random", "data_aware"]
    """Which singular triples: the largest, random ones, or a third each by the pairs' needs."""
    rotation_init_std: float = Field(gt=0)
    """Spread of the initial entries of A; zero would be a saddle point."""
    scale_init_mean: float
    """Mean of the initial scaling parameters."""
    scale_init_std: float = Field(gt=0)
    """Spread of the initial scaling parameters."""

    @model_validator(mode="after")
    def learns_something(self) -> Self:
        if self.rotate == self.scaling == "none":
            raise ValueError(
                "rotate and scaling are both none, so nothing is learnt: allow one of them"
            )
        return self


class SvdModule(LearnedModule):
    """The adapter of one linear module: frozen factors, packed skew entries, a scaling vector."""

    U: Tensor
    S: Tensor
    V: Tensor
    theta_v: nn.Parameter | None
    theta_u: nn.Parameter | None
    scale: nn.Parameter | None

    def __init__(self, factors: Factors, shape: dict[str, Any]):
        """`shape` are the section's fields that `InnerPissa.shape_fields` names."""
        super().__init__()
        for name, factor in factors._asdict().items():
            self.register_buffer(name, factor)
        self.scaling = shape["scaling"]
        self.angle_bound, self.max_angle = shape["angle_bound"], shape["max_angle"]
        rank = len(self.S)
        self.block_size = shape["block_size"] or rank
        if rank % self.block_size:
            raise InputError(
                f"block_size {self.block_size} does not divide rank {rank}: choose one that does, "
                "or null"
            )
        packed = (rank // self.block_size, self.block_size * (self.block_size - 1) // 2)
        sizes = {
            "theta_v": packed if shape["rotate"] in ("v", "both") else None,
            "theta_u": packed if shape["rotate"] in ("u", "both") else None,
            "scale": (rank,) if self.scaling != "none" else None,
        }
        for name, size in sizes.items():
            zeros = nn.Parameter(torch.zeros(size, device=self.S.device)) if size else None
            self.register_parameter(name, zeros)

    def initialise(self, section: SvdAdapterParams, draw: torch.Generator) -> None:
        """Draw small parameters: at zero both signs coincide, and the loss has no gradient."""
        for name, parameter in self.named_parameters():
            mean, std = 0.0, section.rotation_init_std
            if name == "scale":
                mean, std = section.scale_init_mean, section.scale_init_std
            low, high = mean - 2 * std, mean + 2 * std
            drawn = torch.empty(parameter.shape)
            nn.init.trunc_normal_(drawn, mean=mean, std=std, a=low, b=high, generator=draw)
            parameter.data.copy_(drawn)

    def rotation(self, theta: Tensor, c: Tensor) -> Tensor:
        """Return R(c) [k, *n, r, r] of packed parameters [*n, ...], turned within blocks."""
        A = bounded(skew(theta, self.block_size), self.angle_bound, self.max_angle)
        return block_diagonal(cayley(A, c))

    def rotations(self, c: Tensor) -> list[Tensor]:
        """Return every learned R(c) [k, r, r]."""
        learned = [theta for theta in (self.theta_v, self.theta_u) if theta is not None]
        return [self.rotation(theta, c.to(self.S.device)) for theta in learned]

    def bases(self) -> list[Tensor]:
        return [self.U]

    def core(self, c: Tensor) -> Tensor:
        """Return M(c) [k, r, r] for coefficients c [k]."""
        return cores([self], c)[:, 0]

    def add_core(self, M: Tensor, index: Tensor) -> Hook:
        """Return a hook by M(c) [k, r, r]; row i of a batch gets the one at index[i]."""
        M, out = M[index.to(M.device, non_blocking=True)], self.U.transpose(0, 1)

        def add(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            delta = (inputs[0].to(self.V.dtype) @ self.V) @ M @ out
            return output + delta.to(output.dtype)

        if index.ndim or M.requires_grad:
            return add
        into = self.V @ M  # one coefficient for all rows: a product less for every token

        def add_folded(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + (inputs[0].to(into.dtype) @ into @ out).to(output.dtype)

        return add_folded

    def update(self, target: nn.Linear, name: str, coefficient: float) -> Update:
        M = self.core(torch.tensor([coefficient], device=self.S.device))[0]
        return Update(self.V.T, self.U @ M.T)

    @torch.no_grad()
    def flip(self) -> None:
        for parameter in self.parameters():
            parameter.neg_()


def cores(modules: list[SvdModule], c: Tensor) -> Tensor:
    """Return M(c) [k, n, r, r] of n modules of one shape for coefficients c [k], in one batch."""

    def stacked(name: str) -> Tensor | None:
        own = [getattr(module, name) for module in modules]
        return None if own[0] is None else torch.stack(own)

    S, scale, theta_v, theta_u = map(stacked, ("S", "scale", "theta_v", "theta_u"))
    assert S is not None
    first = modules[0]
    S_c = singular_values_at(S, scale, c, first.scaling)
    M = torch.diag_embed(S_c)
    if theta_v is not None:
        M = first.rotation(theta_v, c) * S_c[..., None, :]
    if theta_u is not None:
        M = M @ first.rotation(theta_u, c).mT
    return M - torch.diag_embed(S)


class InnerPissa(Adapter):
    section = SvdAdapterParams
    label = "InnerPiSSA"
    source = "InnerPiSSA, M. J. Clark, https://github.com/wassname/InnerPiSSA"
    look = Look("#0072B2", "o")
    shape_fields = ("rotate", "scaling", "angle_bound", "max_angle", "block_size")
    modules: Mapping[str, SvdModule]

    def __init__(self, modules: Mapping[str, SvdModule], shape: dict[str, Any]):
        super().__init__(modules, shape)
        self.kept: dict[float, dict[str, Tensor]] = {}
        self.versions: list[tuple] = []

    @classmethod
    def build(
        cls, base: Base, train: Pairs, section: SvdAdapterParams, study: TrainingStudy,
        draw: torch.Generator,
    ) -> tuple[dict[str, LearnedModule], int]:  # fmt: skip
        targets = select(base.model, study.modules)
        width = base.model.config.get_text_config().hidden_size
        layers = sorted({target.layer for target in targets})
        aware = section.dimensions == "data_aware"
        entering = entering_states(base, train, layers) if aware else {}
        modules: dict[str, LearnedModule] = {}
        for target in targets:
            factors = read_cache(study.svd, target.name, None, device_of(target.module))
            writes = role(target, width) == "residual-writers"
            states = entering.get(target.layer)
            chosen = choose(section.dimensions, factors, study.rank, states, writes, draw)
            shape = section.model_dump(include=set(cls.shape_fields))
            module = SvdModule(factors.take(chosen), shape)
            module.initialise(section, draw)
            modules[target.name] = module
        return modules, layers[-1]

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], shape: dict[str, Any]) -> LearnedModule:
        module = SvdModule(Factors(*(tensors[key] for key in Factors._fields)), shape)
        for key, parameter in module.named_parameters():
            parameter.data.copy_(tensors[key])
        return module

    def cores(self, doses: Tensor) -> dict[str, Tensor]:
        """Return every module's M(c) [k, r, r], those of one shape in one batch."""
        alike: dict[tuple, list[str]] = {}
        for name, module in self.modules.items():
            alike.setdefault((module.S.device, module.S.shape), []).append(name)
        by_name: dict[str, Tensor] = {}
        for (device, _), names in alike.items():
            c = doses.to(device, non_blocking=True)
            batch = cores([self.modules[name] for name in names], c)
            by_name |= zip(names, batch.unbind(1), strict=True)
        return by_name

    def kept_cores(self, doses: Tensor) -> dict[str, Tensor]:
        """Return the same; while nothing learns, each c is solved once."""
        parameters = self.parameters()
        if any(parameter.requires_grad for parameter in parameters):
            return self.cores(doses)
        versions = [(each._version, each.device, each.dtype) for each in parameters]
        if self.versions != versions:  # changed in place, or moved
            self.kept, self.versions = {}, versions
        for c in set(doses.tolist()) - self.kept.keys():
            self.kept[c] = self.cores(torch.tensor([c]))
        by_dose = [self.kept[c] for c in doses.tolist()]
        return {name: torch.cat([each[name] for each in by_dose]) for name in self.modules}

    def module_hooks(
        self, targets: dict[str, nn.Linear], doses: Tensor, index: Tensor
    ) -> dict[str, Hook]:
        by_name = self.kept_cores(doses)
        return {name: self.modules[name].add_core(M, index) for name, M in by_name.items()}

    @property
    def promised_angle(self) -> float | None:
        return self.shape["max_angle"] if self.shape["angle_bound"] == "spectral" else None
