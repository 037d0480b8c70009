"""What makes a trained adapter reversible, measured on the adapter itself and saved beside it.

zero     max |logits at c = 0 - base|, with one coefficient per row, so that the adapters are really
         attached
restored max |logits after detaching - base|
reload   max |logits of the saved and loaded adapter - its own| at c = +1 and -1
inverse  max |R(-c) - R(c)^T|,   orthogonal  max |R(c)^T R(c) - I|   over modules, at c = 1
angle    the largest plane angle of any R(1), in radians
"""

from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Steering
from pipeline.steering.rotation import largest_angle
from pipeline.support.errors import InputError

TOLERANCE = {"zero": 0.0, "restored": 0.0, "reload": 0.0, "inverse": 1e-4, "orthogonal": 1e-4}


class Rotating(Steering, Protocol):
    def rotations(self, doses: Tensor) -> list[Tensor]: ...


@torch.no_grad()
def certificate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: Rotating,
    loaded: Steering,
    texts: list[str],
) -> dict[str, float | None]:
    """Measure all of the above on a few texts; None where an adapter has no rotation."""
    ids, mask = pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id, model.device)

    def logits() -> Tensor:
        return to_logits(model, last_hidden(model, ids, mask)[:, -1])

    base = logits()
    with adapter.steer(model, torch.zeros(len(ids))):
        zero = logits()
    reload = 0.0
    for c in (1.0, -1.0):
        with adapter.steer(model, c):
            own = logits()
        with loaded.steer(model, c):
            reload = max(reload, difference(logits(), own))
    return {
        "zero": difference(zero, base),
        "restored": difference(logits(), base),
        "reload": reload,
    } | rotations(adapter)


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def rotations(adapter: Rotating) -> dict[str, float | None]:
    """Return the identities of every learned rotation at c = 1, the worst over modules."""
    doses = torch.tensor([1.0, -1.0])
    pairs = adapter.rotations(doses)
    if not pairs:
        return dict.fromkeys(("inverse", "orthogonal", "angle"))
    return {
        "inverse": max(difference(R[1], R[0].T) for R in pairs),
        "orthogonal": max(
            difference(R[0].T @ R[0], torch.eye(len(R[0]), device=R.device)) for R in pairs
        ),
        "angle": max(largest_angle(R[0]) for R in pairs),
    }


def check(found: dict[str, float | None], max_angle: float | None) -> None:
    """Refuse a certificate that is out of tolerance; `max_angle` where the adapter promises to hold
    one.
    """
    limits = TOLERANCE | ({"angle": max_angle + 1e-4} if max_angle is not None else {})
    for name, limit in limits.items():
        value = found[name]
        if value is not None and not value <= limit:
            raise InputError(
                f"the adapter is not reversible: {name} is {value:.2g}, at most {limit:.2g} is "
                "allowed; report this"
            )
