"""The frozen basis in which AntiPaSTO measures movement: an intersection of residual-stream spaces.

Each space holds the leading eigenvectors of a symmetric [d, d] matrix, at most `Evidence.width`.
The first three have an importance:

    task         sum_i x_i x_i^T of the normalised pair differences at the loss layer; its singular
                 values
    change       cov(D), D = h_L - h_start; its eigenvalues
    suppressed   sum_l cov(dh_l) - cov(D), D = sum_l dh_l; its positive eigenvalues
    write        sum over writers of U_w U_w^T          read   sum over readers of V_w V_w^T
    logits_read  E^T E of the unembedding E [v, d]

`suppressed`: u^T A u = -2 sum_{l<m} cov(u dh_l, u dh_m) is positive where later layers undo what
earlier ones wrote. It is zero for what is written once. `change` is what the source (arXiv
2601.07473, code of 2026-02-08) calls suppressed: its written minus read movement telescopes to D.
Both leave out early layers and logits_read. `not_read` and `not_logits` take the read space and
logits_read out of the basis so far.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.layers import decoder_layers, linear_modules, refuse_others, role
from pipeline.lm.quantisation import Weights
from pipeline.steering.base import Pairs
from pipeline.steering.states import residual_stream
from pipeline.support.errors import InputError

COMPLEMENTS = ("not_read", "not_logits")
# From the source's code of 2026-02-08.
MAX_WIDTH = 256
EARLY = 0.1  # share of the layers that only digest the embeddings
MIN_COSINE = 0.5  # two directions further apart than 60 degrees are not shared
ENERGY = 0.6  # what an automatic rank keeps
# Our own.
ROW_FLOOR = 0.01  # added to each difference's norm, as a share of the median norm
NEGLIGIBLE = 1e-6  # eigenvalues below this share of the largest are rounding
MIN_REMAINDER = 1e-3  # a unit column with less than this left has no direction of its own


class Basis(NamedTuple):
    V: Float[Tensor, "d k"]
    """Orthonormal columns, the first matters most."""
    importance: Float[Tensor, " k"] | None


@dataclass
class Evidence:
    """What the spaces are made from; weights are made float32 one at a time."""

    states: Float[Tensor, "n 2 places d"]
    """The residual stream at the last token: first the embeddings, then each layer's output."""
    layer: int
    """The decoder layer whose output the loss reads."""
    writers: Iterable[Tensor]
    """[d, i] each"""
    readers: Iterable[Tensor]
    """[o, d] each"""
    unembedding: Float[Tensor, "v d"]

    @property
    def width(self) -> int:
        """How many dimensions a space may have; on a small model a quarter, not everything."""
        return max(1, min(MAX_WIDTH, self.states.shape[-1] // 4))

    @cached_property
    def logits_read(self) -> Float[Tensor, "d _"]:
        return leading(gram(self.unembedding), self.width)[1]

    def excluded(self, part: str) -> Float[Tensor, "d _"]:
        """Return the space that a complement takes out."""
        if part == "not_logits":
            return self.logits_read
        return common(map(gram, self.readers), self.width)


@torch.no_grad()
def gather(base: Base, pairs: Pairs, layer: int, parts: list[str]) -> Evidence:
    """Run the pairs once and collect the weights of all that touches the residual stream.

    Raises InputError where `parts` need weights that no linear module holds. It raises one too for
    a square module whose name does not say whether it reads or writes.
    """
    model = base.model
    depth = len(decoder_layers(model))
    if {"write", "not_read"} & set(parts):
        refuse_others(model, list(range(depth)), "a loss subspace of write or not_read")
    states = residual_stream(base, pairs, list(range(depth + 1)))
    modules: dict[str | None, list[nn.Linear]] = {
        "residual-writers": [],
        "residual-readers": [],
        None: [],
    }
    for target in linear_modules(model):
        modules[role(target, states.shape[-1])].append(target.module)
    writers, readers = (
        Weights(modules[kind], model.device) for kind in ("residual-writers", "residual-readers")
    )
    unembedding = model.get_output_embeddings().weight.detach().to(model.device)
    return Evidence(states, layer, writers, readers, unembedding)


@torch.no_grad()
def loss_subspace(
    parts: list[str], evidence: Evidence, rank: int | None, centred: bool
) -> Float[Tensor, "d k"]:
    """Return the intersection of `parts`, from left to right, as orthonormal columns, float32.

    k is `rank`, or fewer where no more are shared. For rank None it is as many as hold 60 % of the
    importance, or all of a basis without one. `centred` subtracts the mean pair difference from
    `task`, and with it the direction common to all pairs. Raises InputError if a complement comes
    first, or a space or the intersection is empty.
    """
    if parts[0] in COMPLEMENTS:
        raise InputError(
            f"the loss subspace cannot start with {parts[0]}, which only removes: put another part "
            "before it"
        )
    basis = space(parts[0], evidence, centred)
    for part in parts[1:]:
        if part in COMPLEMENTS:
            basis = orthonormal(basis, evidence.excluded(part))
        else:
            basis = intersection(basis, space(part, evidence, centred))
        if not basis.V.shape[1]:
            raise InputError(
                f"{part} leaves nothing of the loss subspace {', '.join(parts)}: take it out"
            )
    if rank is None and basis.importance is not None:
        held = basis.importance.cumsum(0)
        rank = int((held < ENERGY * held[-1]).sum()) + 1
    return fix_signs(basis.V[:, :rank]).contiguous()


def space(part: str, evidence: Evidence, centred: bool) -> Basis:
    width, importance = evidence.width, None
    match part:
        case "task":
            squares, V = leading(task(evidence, centred), width)
            importance = squares.sqrt()
        case "change" | "suppressed":
            importance, V = leading(movement(evidence, part), width)
        case "write":
            V = common((gram(weight.T) for weight in evidence.writers), width)
        case "logits_read":
            V = evidence.logits_read
        case _:
            raise ValueError(f"unknown subspace {part!r}")
    if not V.shape[1]:
        raise InputError(
            f"the subspace {part} is empty for these pairs and this model: leave it out of the "
            "loss subspace"
        )
    return Basis(V, importance)


def task(evidence: Evidence, centred: bool) -> Float[Tensor, "d d"]:
    """Return the second moment of the pair differences, normalised but never blown up."""
    positive, negative = evidence.states[:, :, evidence.layer + 1].unbind(1)
    norms = (positive - negative).norm(dim=-1, keepdim=True)
    floor = (ROW_FLOOR * norms.median()).clamp(min=torch.finfo(norms.dtype).tiny)
    rows = (positive - negative) / (norms + floor)
    return gram(rows - rows.mean(0) if centred else rows)


def movement(evidence: Evidence, part: str) -> Float[Tensor, "d d"]:
    """Return the matrix of `change` or `suppressed`, over all texts and without logits_read."""
    start = int(EARLY * (evidence.states.shape[2] - 1))
    path = evidence.states[:, :, start:].flatten(0, 1)
    path = path - path.mean(0)
    path = path - (path @ evidence.logits_read) @ evidence.logits_read.T
    change = gram(path[:, -1] - path[:, 0])
    if part == "suppressed":
        change = sum((gram(after - before) for before, after in pairwise(path.unbind(1))), -change)
    return change / len(path)


def gram(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Return X^T X of rows X, float32."""
    return rows.float().T @ rows.float()


def leading(
    matrix: Float[Tensor, "d d"], width: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "d k"]]:
    """Return at most `width` of a symmetric matrix's largest positive eigenvalues, with vectors."""
    values, vectors = torch.linalg.eigh(matrix)
    keep = (values > NEGLIGIBLE * values.abs().max()).sum().clamp(max=width)
    return values.flip(0)[:keep], vectors.flip(1)[:, :keep]


def common(grams: Iterable[Tensor], width: int) -> Float[Tensor, "d k"]:
    """Return what the weights' leading spaces share most: leading vectors of summed projectors."""
    spaces = [leading(matrix, width)[1] for matrix in grams]
    if not spaces:
        raise InputError(
            "the model has no linear modules of the kind that write or not_read needs: take that "
            "part out"
        )
    return leading(gram(torch.cat([V.T for V in spaces])), width)[1]


def intersection(a: Basis, b: Basis) -> Basis:
    """Return the bisectors of the directions that two bases share.

    Where both have an importance, it weights the overlap, and the singular values are the
    result's importance. Else the principal angles order the result: cosines above 0.5, at
    least the best one.
    """
    if a.importance is not None and b.importance is not None:
        weights = torch.outer(a.importance / a.importance.sum(), b.importance / b.importance.sum())
        left, shared, right = torch.linalg.svd((a.V.T @ b.V) * weights, full_matrices=False)
        least, importance = NEGLIGIBLE * shared[0], shared
    else:
        left, shared, right = torch.linalg.svd(a.V.T @ b.V, full_matrices=False)
        least, importance = shared.new_tensor(MIN_COSINE), None
    keep = int((shared > least).sum().clamp(min=1))
    first, second = a.V @ left[:, :keep], b.V @ right[:keep].T
    # The weights can turn one against the other.
    agree = torch.where((first * second).sum(0) < 0, -1.0, 1.0)
    return orthonormal(Basis(first + agree * second, importance), a.V[:, :0])


def orthonormal(columns: Basis, against: Float[Tensor, "d j"]) -> Basis:
    """Orthonormalise columns in order, and to `against` (Gram-Schmidt); drop those nearly zero."""
    fixed, kept = against, []
    for index, column in enumerate((columns.V / columns.V.norm(dim=0)).unbind(1)):
        for _ in range(2):  # once leaves rounding errors, twice does not
            column = column - fixed @ (fixed.T @ column)
        if column.norm() >= MIN_REMAINDER:
            fixed = torch.cat([fixed, (column / column.norm())[:, None]], dim=1)
            kept.append(index)
    importance = None if columns.importance is None else columns.importance[kept]
    return Basis(fixed[:, against.shape[1] :], importance)


def fix_signs(V: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Turn each column so that its largest entry is positive: devices differ in signs."""
    return V * V.gather(0, V.abs().argmax(0, keepdim=True)).sign()
