"""What makes a trained adapter reversible, measured on the adapter itself and saved beside it.

zero     max |logits at c = 0 - base|, with one coefficient per row, so that adapters are attached
restored max |logits after detaching - base|
reload   max |logits of the saved and loaded adapter - its own| at c = +1 and -1
inverse  max |R(-c) - R(c)^T|,   orthogonal  max |R(c)^T R(c) - I|   over modules, at c = 1
angle    the largest plane angle of any R(1), in radians
"""

from typing import Protocol

import torch
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.steering.angles import largest_angle
from pipeline.steering.base import Attachable
from pipeline.support.errors import InputError

# Exact, or float32's rounding of products of r x r matrices.
TOLERANCE = {"zero": 0.0, "restored": 0.0, "reload": 0.0, "inverse": 1e-4, "orthogonal": 1e-4}


class Rotating(Attachable, Protocol):
    def rotations(self, coefficients: Tensor) -> list[Tensor]: ...


@torch.no_grad()
def certificate(
    base: Base, adapter: Rotating, loaded: Attachable, texts: list[str]
) -> dict[str, float | None]:
    """Measure all of the above on a few texts; None where an adapter has no rotation."""
    model = base.model
    ids, mask = base.encode(texts)

    def logits() -> Tensor:
        return to_logits(model, last_hidden(model, ids, mask)[:, -1])

    plain = logits()
    with adapter.steer(model, torch.zeros(len(ids))):
        zero = logits()
    reload = 0.0
    for c in (1.0, -1.0):
        with adapter.steer(model, c):
            own = logits()
        with loaded.steer(model, c):
            reload = max(reload, largest_difference(logits(), own))
    figures = {
        "zero": largest_difference(zero, plain),
        "restored": largest_difference(logits(), plain),
        "reload": reload,
    }
    return figures | identities(adapter)


def largest_difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def identities(adapter: Rotating) -> dict[str, float | None]:
    """Return the identities of every learned rotation at c = 1, the worst over modules."""
    signed = adapter.rotations(torch.tensor([1.0, -1.0]))
    if not signed:
        return dict.fromkeys(("inverse", "orthogonal", "angle"))
    return {
        "inverse": max(largest_difference(R[1], R[0].T) for R in signed),
        "orthogonal": max(
            largest_difference(R[0].T @ R[0], torch.eye(len(R[0]), device=R.device)) for R in signed
        ),
        "angle": max(largest_angle(R[0]) for R in signed),
    }


def check(figures: dict[str, float | None], max_angle: float | None) -> None:
    """Refuse a certificate out of tolerance; `max_angle` is what the adapter promises to hold."""
    limits = TOLERANCE | ({"angle": max_angle + 1e-4} if max_angle is not None else {})
    for name, limit in limits.items():
        value = figures[name]
        if value is not None and not value <= limit:
            raise InputError(
                f"the adapter is not reversible: {name} is {value:.2g}, at most {limit:.2g} is "
                "allowed; report this"
            )
