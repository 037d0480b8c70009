"""Signed rotations by the Cayley transform, and the r x r core of an SVD adapter.

R(c) = (I - c A / 2)^-1 (I + c A / 2), A skew-symmetric. Identities: R(0) = I, R(-c) = R(c)^T, R^T R = I.
"""

import torch
from torch import Tensor


def skew(upper: Tensor, rank: int) -> Tensor:
    """Return the skew-symmetric A [r, r] whose entries above the diagonal are `upper` [r (r - 1) / 2]."""
    row, column = torch.triu_indices(rank, rank, offset=1, device=upper.device)
    above = torch.zeros(rank, rank, dtype=upper.dtype, device=upper.device).index_put((row, column), upper)
    return above - above.transpose(0, 1)


def cayley(A: Tensor, c: Tensor) -> Tensor:
    """Return R(c) [k, r, r] for skew A [r, r] and coefficients c [k], solved in float32."""
    X = c[:, None, None] * A.float() / 2
    identity = torch.eye(A.shape[-1], device=A.device)
    return torch.linalg.solve(identity - X, identity + X)


def scaled(S: Tensor, parameter: Tensor | None, c: Tensor, mode: str) -> Tensor:
    """Return S_c [k, r] for singular values S [r], a learned parameter [r] (none for mode none) and coefficients c [k]."""
    dose = c[:, None]
    if parameter is None:
        return S.expand(len(c), -1)
    match mode:
        case "exp":  # InnerPiSSA
            return S * torch.exp(dose * parameter)
        case "additive":  # AntiPaSTO
            return S + dose * parameter
        case "tanh":
            return S * (1 + dose * torch.tanh(parameter))
    raise ValueError(f"unknown scaling {mode!r}")
