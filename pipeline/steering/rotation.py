"""Signed rotations by the Cayley transform, and the r x r core of an SVD adapter.

R(c) = (I - c A / 2)^-1 (I + c A / 2) for skew-symmetric A. Identities: R(0) = I, R(-c) = R(c)^T,
R^T R = I. A plane of A with generator a turns by the angle 2 atan(c a / 2).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def skew(upper: Float[Tensor, "*n m"], size: int) -> Float[Tensor, "*n {size} {size}"]:
    """Return the skew-symmetric matrix whose entries above the diagonal are `upper`."""
    row, column = torch.triu_indices(size, size, offset=1, device=upper.device)
    above = upper.new_zeros(*upper.shape[:-1], size, size)
    above[..., row, column] = upper
    return above - above.transpose(-1, -2)


def bounded(A: Float[Tensor, "*n b b"], kind: str, max_angle: float) -> Float[Tensor, "*n b b"]:
    """Return A with its plane angles at |c| = 1 held below `max_angle` (radians).

    `spectral` shrinks A as a whole and so bounds every plane. Its largest singular value s becomes
    a tanh(s / a), a = 2 tan(max_angle / 2). `elementwise` is a tanh(A / a), as in AntiPaSTO's code.
    It bounds entries: planes of b > 2 dimensions can turn by almost pi. Both keep A odd in its
    parameters, so that R(-c) = R(c)^T still holds.
    """
    limit = 2 * math.tan(max_angle / 2)
    match kind:
        case "none":
            return A
        case "elementwise":
            return limit * torch.tanh(A / limit)
        case "spectral":
            size = torch.linalg.matrix_norm(A, ord=2, keepdim=True).clamp_min(1e-12)
            return A * (limit * torch.tanh(size / limit) / size)
    raise ValueError(f"unknown angle bound {kind!r}")


def cayley(A: Float[Tensor, "*n b b"], c: Float[Tensor, " k"]) -> Float[Tensor, "k *n b b"]:
    """Return R(c) for skew A and coefficients c, solved in float32."""
    X = c.view(-1, *[1] * A.ndim) * A.float() / 2
    identity = torch.eye(A.shape[-1], device=A.device)
    return torch.linalg.solve(identity - X, identity + X)


def block_diagonal(blocks: Float[Tensor, "k n b b"]) -> Float[Tensor, "k n*b n*b"]:
    """Return matrices with the blocks along their diagonals."""
    k, n, b, _ = blocks.shape
    whole = blocks.new_zeros(k, n, b, n, b)
    index = torch.arange(n, device=blocks.device)
    whole[:, index, :, index, :] = blocks.transpose(0, 1)
    return whole.reshape(k, n * b, n * b)


def largest_angle(R: Float[Tensor, "*n r r"]) -> float:
    """Return the largest plane angle (radians) of rotations."""
    return torch.linalg.eigvals(R).angle().abs().max().item()


def singular_values_at(
    S: Float[Tensor, " r"],
    learned: Float[Tensor, " r"] | None,
    c: Float[Tensor, " k"],
    scaling: str,
) -> Float[Tensor, "k r"]:
    """Return S_c for base singular values S and a learned vector, none for scaling none."""
    column = c[:, None]
    if learned is None:
        return S.expand(len(c), -1)
    match scaling:
        case "exp":  # InnerPiSSA
            return S * torch.exp(column * learned)
        case "additive":  # AntiPaSTO
            return S + column * learned
        case "tanh":
            return S * (1 + column * torch.tanh(learned))
    raise ValueError(f"unknown scaling {scaling!r}")
