"""The adapter in a weight's own SVD basis that InnerPiSSA and AntiPaSTO share.

    y(c) = base(x) + ((x V) M(c)) U^T,   M(c) = R_v(c) diag(S_c) R_u(c)^T - diag(S)

Equal to the published x V R_v S_c (U R_u)^T + x W_res^T with W_res = W - U S V^T, but M(0) = 0
exactly, so c = 0 is the base model bit for bit; no residual is stored; and one batch can hold many
c.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.lm.layers import role, select
from pipeline.lm.load import device_of
from pipeline.steering.base import Context, Pairs
from pipeline.steering.dimensions import choose, entering_states
from pipeline.steering.rotation import block_diagonal, bounded, cayley, scaled, skew
from pipeline.steering.svd import Factors, read_cache
from pipeline.steering.training.adapter import Adapter, Hook, LearnedModule
from pipeline.study.sections import SvdAdapterParams
from pipeline.support.errors import InputError

SHAPE = ("rotate", "scaling", "angle_bound", "max_angle", "block_size")


class SvdModule(LearnedModule):
    """The adapter of one linear module: frozen factors, packed skew parameters and a scaling
    vector.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    theta_v: nn.Parameter | None
    theta_u: nn.Parameter | None
    scale: nn.Parameter | None

    def __init__(self, factors: Factors, shape: dict[str, Any]):
        super().__init__()
        for name, factor in factors._asdict().items():
            self.register_buffer(name, factor)
        self.kept: dict[float, Tensor] = {}
        self.kept_versions: list[int] = []
        self.scaling, self.angle_bound, self.max_angle = (
            shape["scaling"],
            shape["angle_bound"],
            shape["max_angle"],
        )
        rank = len(self.S)
        self.block_size = shape["block_size"] or rank
        if rank % self.block_size:
            raise InputError(
                f"block_size {self.block_size} does not divide rank {rank}: choose one that does, "
                "or null"
            )
        packed = (rank // self.block_size, self.block_size * (self.block_size - 1) // 2)
        shapes = {
            "theta_v": packed if shape["rotate"] in ("v", "both") else None,
            "theta_u": packed if shape["rotate"] in ("u", "both") else None,
            "scale": (rank,) if self.scaling != "none" else None,
        }
        for name, size in shapes.items():
            self.register_parameter(
                name, nn.Parameter(torch.zeros(size, device=self.S.device)) if size else None
            )

    def initialise(self, section: SvdAdapterParams, generator: torch.Generator) -> None:
        """Draw small parameters: at zero both signs of c coincide and a symmetric loss has no
        gradient.
        """
        for name, parameter in self.named_parameters():
            mean, std = (
                (section.scale_init_mean, section.scale_init_std)
                if name == "scale"
                else (0.0, section.rotation_init_std)
            )
            drawn = torch.empty(parameter.shape)
            nn.init.trunc_normal_(
                drawn, mean=mean, std=std, a=mean - 2 * std, b=mean + 2 * std, generator=generator
            )
            parameter.data.copy_(drawn)

    def rotation(self, theta: Tensor, c: Tensor) -> Tensor:
        """Return R(c) [k, r, r] of packed parameters, turned within blocks."""
        A = bounded(skew(theta, self.block_size), self.angle_bound, self.max_angle)
        return block_diagonal(cayley(A, c))

    def rotations(self, c: Tensor) -> list[Tensor]:
        """Return every learned R(c) [k, r, r]."""
        return [
            self.rotation(theta, c) for theta in (self.theta_v, self.theta_u) if theta is not None
        ]

    def core(self, c: Tensor) -> Tensor:
        """Return M(c) [k, r, r] for coefficients c [k]."""
        S_c = scaled(self.S, self.scale, c, self.scaling)
        M = torch.diag_embed(S_c)
        if self.theta_v is not None:
            M = self.rotation(self.theta_v, c) * S_c[:, None, :]
        if self.theta_u is not None:
            M = M @ self.rotation(self.theta_u, c).transpose(1, 2)
        return M - torch.diag(self.S)

    def cores(self, doses: Tensor) -> Tensor:
        """Return M(c) [k, r, r]; a frozen module computes each once and keeps it: M(c) costs a
        solve, and batches are many.
        """
        parameters = list(self.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            return self.core(doses.to(self.S.device))
        if self.kept_versions != (versions := [parameter._version for parameter in parameters]):
            self.kept, self.kept_versions = {}, versions  # changed in place
        for c in set(doses.tolist()) - self.kept.keys():
            self.kept[c] = self.core(torch.tensor([c], device=self.S.device))[0]
        return torch.stack([self.kept[c] for c in doses.tolist()])

    def _apply(self, fn, recurse=True):
        self.kept.clear()  # the module moves to another device or precision
        return super()._apply(fn, recurse)

    def hook(self, target: nn.Linear, doses: Tensor, index: Tensor) -> Hook:
        M, out = self.cores(doses)[index.to(self.S.device)], self.U.transpose(0, 1)

        def add(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            delta = (inputs[0].to(self.V.dtype) @ self.V) @ M @ out
            return output + delta.to(output.dtype)

        if index.ndim or M.requires_grad:
            return add
        into = self.V @ M  # one coefficient for all rows: a product less for every token

        def add_folded(_module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + (inputs[0].to(into.dtype) @ into @ out).to(output.dtype)

        return add_folded

    @torch.no_grad()
    def flip(self) -> None:
        for parameter in self.parameters():
            parameter.neg_()


class SvdAdapter(Adapter):
    """A set of `SvdModule`s by dotted module name."""

    shape_fields: ClassVar[tuple[str, ...]] = SHAPE

    @classmethod
    def build(
        cls, model, tokenizer, train: Pairs, context: Context, generator: torch.Generator
    ) -> tuple[dict[str, LearnedModule], int]:
        section, modules, svd = context.section, context.modules, context.svd
        assert isinstance(section, SvdAdapterParams) and modules and svd
        targets, width = select(model, modules), model.config.get_text_config().hidden_size
        aware = section.dimensions == "data_aware"
        states = (
            entering_states(model, tokenizer, train, sorted({t.layer for t in targets}))
            if aware
            else {}
        )
        built: dict[str, LearnedModule] = {}
        for target in targets:
            factors = read_cache(svd, target.name, None, device_of(target.module))
            writes = role(target, width) == "residual-writers"
            chosen = choose(
                section.dimensions,
                factors,
                context.rank,
                states.get(target.layer),
                writes,
                generator,
            )
            module = SvdModule(factors.take(chosen), section.model_dump(include=set(SHAPE)))
            module.initialise(section, generator)
            built[target.name] = module
        return built, max(target.layer for target in targets)

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], shape: dict[str, Any]) -> LearnedModule:
        module = SvdModule(Factors(*(tensors[key] for key in Factors._fields)), shape)
        for key, parameter in module.named_parameters():
            parameter.data.copy_(tensors[key])
        return module

    def outputs(self) -> list[Tensor]:
        return [module.U for module in self.modules.values() if isinstance(module, SvdModule)]

    def rotations(self, doses: Tensor) -> list[Tensor]:
        modules = [module for module in self.modules.values() if isinstance(module, SvdModule)]
        return [R for module in modules for R in module.rotations(doses.to(module.S.device))]
