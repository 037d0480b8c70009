"""Activation arithmetic: add a direction to the outputs of some modules, mostly decoder layers.

    h_l <- h_l + c (n_l / K) v_l        for K sites l, |v_l| = 1, n_l = |mean pair difference at l|

So c = 1 adds, over all sites together, about as much as the persona itself moves the states.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.forward import layer_output
from pipeline.lm.layers import depth_to_layer, device_of, layers_prefix
from pipeline.steering.base import MethodParams, PairSplits, Steering, Study
from pipeline.steering.hooks import Coefficient, Hooks, at_rows, is_zero
from pipeline.steering.states import pair_differences
from pipeline.support.errors import InputError


class DirectionParams(MethodParams):
    from_depth: float = Field(ge=0, le=1)
    """The first steered layer, as a fraction of the depth."""
    to_depth: float = Field(ge=0, le=1)
    """The end of the steered layers (exclusive), as a fraction of the depth."""
    last_tokens: int = Field(ge=1)
    """How many last tokens of a text its state is the mean of."""


class Direction(Steering):
    """One vector per site, a module by its dotted name."""

    section: ClassVar[type[DirectionParams]] = DirectionParams

    def __init__(self, sites: list[str], vectors: Float[Tensor, "k d"]):
        super().__init__()
        self.sites, self.vectors = sites, vectors

    @classmethod
    def along(
        cls, sites: list[str], directions: Float[Tensor, "k d"], differences: Float[Tensor, "n k d"]
    ) -> "Direction":
        """Return the method that adds c (n_l / K) v_l, for unit directions v."""
        norms = differences.mean(0).norm(dim=-1, keepdim=True)
        steering = cls(sites, directions * norms / len(sites))
        steering.summary = {"mean_norm": norms.mean().item()}
        return steering

    def hooks(self, model, coefficient: Coefficient) -> Hooks:
        if is_zero(coefficient):
            return []
        return [
            (site, addition(vector.to(device_of(model.get_submodule(site))), coefficient))
            for site, vector in zip(self.sites, self.vectors, strict=True)
        ]

    def flip(self) -> None:
        self.vectors = -self.vectors

    def touched(self) -> list[str]:
        return self.sites

    def additions(self, coefficient: float) -> dict[str, Tensor]:
        return dict(zip(self.sites, coefficient * self.vectors, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors}

    def metadata(self) -> dict[str, Any]:
        return {"sites": self.sites}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Any:
        return cls(metadata["sites"], tensors["vectors"])


class PairDirection(Direction):
    """A direction that comes from the pair differences alone."""

    @classmethod
    def unit_directions(
        cls, differences: Float[Tensor, "n k d"], section: Any, seed: int
    ) -> Float[Tensor, "k d"]:
        """Return unit vectors from positive minus negative states."""
        raise NotImplementedError

    @classmethod
    def fit(
        cls, base: Base, pairs: PairSplits, section: DirectionParams, study: Study, seed: int
    ) -> "Direction":
        sites = list(layers_in_range(base.model, section).values())
        differences = pair_differences(base, pairs.train, sites, section.last_tokens)
        return cls.along(sites, cls.unit_directions(differences, section, seed), differences)


def layers_in_range(model: nn.Module, section: DirectionParams) -> dict[int, str]:
    """Return the names of the decoder layers in the section's range, by index; refuse none."""
    first, end = depth_to_layer(model, section.from_depth), depth_to_layer(model, section.to_depth)
    if first >= end:
        raise InputError(
            f"no layer lies between depth {section.from_depth} and {section.to_depth}: widen the "
            "range"
        )
    prefix = layers_prefix(model)
    return {index: f"{prefix}.{index}" for index in range(first, end)}


def addition(vector: Float[Tensor, " d"], coefficient: Coefficient):
    """Return a forward hook that adds c * vector to a module's output [b, t, d]."""

    def hook(_module, _inputs, output):
        hidden = layer_output(output)
        c = at_rows(coefficient, len(hidden)).to(hidden.device)
        moved = hidden + (c[:, None, None] * vector).to(hidden.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook
