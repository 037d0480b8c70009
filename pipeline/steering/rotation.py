"""Signed rotations by the Cayley transform, and the r x r core of an SVD adapter.

R(c) = (I - c A / 2)^-1 (I + c A / 2), A skew-symmetric. Identities: R(0) = I, R(-c) = R(c)^T, R^T R
= I. A plane of A with generator a turns by the angle 2 atan(c a / 2).
"""

import math

import torch
from torch import Tensor


def skew(upper: Tensor, size: int) -> Tensor:
    """Return skew-symmetric A [..., b, b] whose entries above the diagonal are `upper` [..., b (b -
    1) / 2]; b is `size`.
    """
    row, column = torch.triu_indices(size, size, offset=1, device=upper.device)
    above = upper.new_zeros(*upper.shape[:-1], size, size)
    above[..., row, column] = upper
    return above - above.transpose(-1, -2)


def bounded(A: Tensor, kind: str, max_angle: float) -> Tensor:
    """Return A [..., b, b] with its plane angles at |c| = 1 held below `max_angle` (radians).

    `spectral` shrinks A as a whole by its largest singular value s to a tanh(s / a), a = 2
    tan(max_angle / 2), and so bounds every plane. `elementwise` is a tanh(A / a), as in AntiPaSTO's
    code: it bounds entries, and planes of b > 2 dimensions can turn by almost pi. Both keep A odd
    in its parameters, so that R(-c) = R(c)^T still holds.
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


def cayley(A: Tensor, c: Tensor) -> Tensor:
    """Return R(c) [k, ..., b, b] for skew A [..., b, b] and coefficients c [k], solved in
    float32.
    """
    X = c.view(-1, *[1] * A.ndim) * A.float() / 2
    identity = torch.eye(A.shape[-1], device=A.device)
    return torch.linalg.solve(identity - X, identity + X)


def block_diagonal(blocks: Tensor) -> Tensor:
    """Return [k, n b, n b] with the blocks [k, n, b, b] along the diagonal."""
    k, n, b, _ = blocks.shape
    whole = blocks.new_zeros(k, n, b, n, b)
    index = torch.arange(n, device=blocks.device)
    whole[:, index, :, index, :] = blocks.transpose(0, 1)
    return whole.reshape(k, n * b, n * b)


def largest_angle(R: Tensor) -> float:
    """Return the largest plane angle (radians) of rotations R [..., r, r]."""
    return torch.linalg.eigvals(R).angle().abs().max().item()


def scaled(S: Tensor, parameter: Tensor | None, c: Tensor, mode: str) -> Tensor:
    """Return S_c [k, r] for singular values S [r], a learned parameter [r] (none for mode none) and
    coefficients c [k].
    """
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
