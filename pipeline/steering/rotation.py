"""Signed rotations by the Cayley transform, and the r x r core of an SVD adapter.

R(c) = (I - c A / 2)^-1 (I + c A / 2) for skew-symmetric A. Identities: R(0) = I, R(-c) = R(c)^T,
R^T R = I. A plane of A with generator a turns by the angle 2 atan(c a / 2).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def skew(upper: Float[Tensor, "*n m"], size: int) -> Float[Tensor, "*n {size} {size}"]:
    """Return the skew-symmetric matrix whose entries above the diagonal are `upper`."""
    row, column = torch.triu_indices(size, size, offset=1, device=upper.device)
    above = upper.new_zeros(*upper.shape[:-1], size, size)
    above[..., row, column] = upper
    return above - above.transpose(-1, -2)


def cayley(A: Float[Tensor, "*n b b"], c: Float[Tensor, " k"]) -> Float[Tensor, "k *n b b"]:
    """Return R(c) for skew A and coefficients c, solved in float32."""
    X = c.view(-1, *[1] * A.ndim) * A.float() / 2
    identity = torch.eye(A.shape[-1], device=A.device)
    # I - X is never singular, so that nothing need be checked, for which `solve` waits.
    return torch.linalg.solve_ex(identity - X, identity + X).result


def block_diagonal(blocks: Float[Tensor, "*k n b b"]) -> Float[Tensor, "*k n*b n*b"]:
    """Return matrices with the blocks along their diagonals."""
    *k, n, b, _ = blocks.shape
    places = torch.eye(n, device=blocks.device)[:, None, :, None]
    return (blocks[..., None, :] * places).reshape(*k, n * b, n * b)


def singular_values_at(
    S: Float[Tensor, "*n r"], learned: Float[Tensor, "*n r"] | None, c: Float[Tensor, " k"],
    scaling: str,
) -> Float[Tensor, "k *n r"]:  # fmt: skip
    """Return S_c for base singular values S and a learned vector, none for scaling none."""
    column = c.view(-1, *[1] * S.ndim)
    if learned is None:
        return S.expand(len(c), *S.shape)
    match scaling:
        case "exp":  # InnerPiSSA
            return S * torch.exp(column * learned)
        case "additive":  # AntiPaSTO
            return S + column * learned
        case "tanh":
            return S * (1 + column * torch.tanh(learned))
    raise ValueError(f"unknown scaling {scaling!r}")
