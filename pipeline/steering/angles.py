"""Angles of rotations: what bounds them, and how large they are.

In R(c) = (I - c A / 2)^-1 (I + c A / 2), a plane of A with generator a turns by 2 atan(c a / 2).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SQUARINGS = 20  # two singular values are told apart from a distance of 1e-6 on; others are as one


def spectral_norm(A: Float[Tensor, "*n b b"]) -> Float[Tensor, "*n 1 1"]:
    """Return the largest singular value, at least 1e-12; an SVD would wait for the device.

    (A^T A)^(2^k) keeps the leading singular vectors alone. Their Rayleigh quotient, and so its
    gradient with these vectors held fixed, is the largest singular value's.
    """
    with torch.no_grad():
        P = A.mT @ A
        for _ in range(SQUARINGS):
            P = P / trace(P)
            P = P @ P
        P = P / trace(P)
    return ((A @ P) * A).sum((-2, -1), keepdim=True).clamp_min(1e-24).sqrt()


def trace(P: Float[Tensor, "*n b b"]) -> Float[Tensor, "*n 1 1"]:
    return P.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp_min(1e-24)


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
            size = spectral_norm(A)
            return A * (limit * torch.tanh(size / limit) / size)
    raise ValueError(f"unknown angle bound {kind!r}")


def largest_angle(R: Float[Tensor, "*n r r"]) -> float:
    """Return the largest plane angle (radians) of rotations."""
    return torch.linalg.eigvals(R).angle().abs().max().item()
