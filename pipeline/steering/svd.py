"""Singular value decompositions of target modules, cached on disk for any method and rank."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.layers import Target, linear_modules, refuse_others, role
from pipeline.lm.quantisation import weight_of
from pipeline.support.errors import InputError
from pipeline.support.files import new_folder
from pipeline.support.section import Section


class SvdParams(Section):
    max_rank: int | None = Field(ge=2)
    """Keep only this many singular triples per matrix; null keeps them all."""


class Factors(NamedTuple):
    """W ~ U diag(S) V^T for a weight W [o, i]: float32, singular values in falling order."""

    U: Float[Tensor, "o r"]
    S: Float[Tensor, " r"]
    V: Float[Tensor, "i r"]

    def take(self, chosen: Tensor) -> "Factors":
        """Return the chosen triples."""
        return Factors(self.U[:, chosen], self.S[chosen], self.V[:, chosen])


def decompose(weight: Float[Tensor, "o i"], max_rank: int | None) -> Factors:
    """Return the exact SVD of a weight, cut to `max_rank`.

    A singular pair is unique only up to sign, in which devices differ. Here each V column's
    largest entry is positive.
    """
    U, S, Vh = torch.linalg.svd(weight.detach().float(), full_matrices=False)
    U, S, V = U[:, :max_rank], S[:max_rank], Vh.transpose(0, 1)[:, :max_rank]
    sign = V.gather(0, V.abs().argmax(0, keepdim=True)).sign()
    return Factors((U * sign).contiguous(), S.contiguous(), (V * sign).contiguous())


def writers_basis(base: Base, layer: int) -> Float[Tensor, "d d"]:
    """Return left singular vectors of a layer's writers to the residual stream, largest first."""
    model = base.model
    width = model.config.get_text_config().hidden_size
    refuse_others(model, [layer], "direction top_s")
    writers = [
        target.module
        for target in linear_modules(model)
        if target.layer == layer and role(target, width) == "residual-writers"
    ]
    gram = torch.stack([weight @ weight.T for weight in map(weight_of, writers)]).sum(0)
    return torch.linalg.eigh(gram).eigenvectors.flip(-1).to(model.device)


def write_cache(
    folder: Path, targets: list[Target], max_rank: int | None, weights_sha256: str
) -> dict[str, int | float]:
    """Decompose every target into a file of its own; return the largest relative error."""
    worst = 0.0
    with new_folder(folder) as new:
        for target in targets:
            weight = weight_of(target.module)
            factors = decompose(weight, max_rank)
            save_file(
                {name: factor.cpu() for name, factor in factors._asdict().items()},
                new / f"{target.name}.safetensors",
                metadata={"weights_sha256": weights_sha256},
            )
            rebuilt = (factors.U * factors.S) @ factors.V.transpose(0, 1)
            worst = max(worst, ((weight - rebuilt).norm() / weight.norm()).item())
    return {"modules": len(targets), "relative_error": worst}


def read_cache(folder: Path, name: str, rank: int | None, device: torch.device) -> Factors:
    """Return the top `rank` factors of one module; all that are cached for None."""
    file = folder / f"{name}.safetensors"
    if not file.exists():
        raise InputError(f"{name} is not in the SVD cache {folder}: run `dvc repro svd`")
    try:
        cached = load_file(file, device=str(device))
    except SafetensorError as error:
        raise InputError(f"{file} cannot be read ({error}): run `dvc repro svd`") from None
    if rank is not None and rank > len(cached["S"]):
        raise InputError(
            f"rank {rank} is above the {len(cached['S'])} cached singular values of {name}: "
            "lower rank, raise svd.max_rank, or choose other modules"
        )
    return Factors(cached["U"][:, :rank], cached["S"][:rank], cached["V"][:, :rank])
