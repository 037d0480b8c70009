"""The protocol of every steering method: what a fit gets, and what a fitted one can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import polars as pl
import torch
from torch import Tensor, nn

from pipeline.lm.prompts import Message
from pipeline.steering.hooks import Coefficient, Hooks, attached
from pipeline.support.errors import InputError
from pipeline.support.section import Section
from pipeline.support.sections import ModulesParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MethodParams(Section):
    """What every section under `steering` has."""

    method: str
    """The method; a variant names another section here and overrides some of its fields."""


class Look(NamedTuple):
    """How figures draw a method."""

    colour: str
    marker: str


class Update(NamedTuple):
    """W becomes W + B A; with a magnitude, each row is then brought to its length. All float32."""

    A: Tensor
    """[r, i]"""
    B: Tensor
    """[o, r]"""
    magnitude: Tensor | None = None
    """[o]"""


class CostUnit(NamedTuple):
    """The raw coefficients, as sizes, that c = 1 and c = -1 stand for: each costs the budget."""

    positive: float = 1.0
    negative: float = 1.0

    def raw(self, coefficient: Coefficient) -> Coefficient:
        """Return coefficients in the method's own scale: what was trained or extracted is at 1."""
        if isinstance(coefficient, Tensor):
            scale = torch.where(coefficient > 0, self.positive, self.negative)
            return coefficient * scale.to(coefficient.device)
        return coefficient * (self.positive if coefficient > 0 else self.negative)


class Pairs(NamedTuple):
    """Contrast pairs of one split, as rendered chats that end inside the same unfinished reply."""

    positive: list[str]
    negative: list[str]
    neutral: list[str]
    """The same chats without a persona."""

    @classmethod
    def of(cls, frame: pl.DataFrame, split: str) -> Self:
        part = frame.filter(pl.col("split") == split)
        return cls(*(part[column].to_list() for column in cls._fields))


class Sign(NamedTuple):
    """Whether +c is known to be the positive persona, asked by probes at the dose."""

    decided: bool
    why: str | None = None
    """Why it is not decided."""
    t: float | None = None
    """Of the movement from -c to +c, over probes; that of each arm is against c = 0."""
    up_t: float | None = None
    down_t: float | None = None
    flipped: bool = False
    """Whether the probes turned the sign around."""

    @property
    def said(self) -> str:
        """The decision in words."""
        if not self.decided:
            return f"the sign is undecided: {self.why}, so +1 may be either persona"
        one = "" if self.both_ways else ", but one arm goes the wrong way"
        return f"the probes decide the sign (t = {self.t:.1f}){one}"

    @property
    def both_ways(self) -> bool:
        """Whether +c moves the probes up and -c moves them down."""
        return (self.up_t or 0.0) > 0 > (self.down_t or 0.0)


class PairSplits(NamedTuple):
    """All that a method may learn from: pairs to fit on, and held-out ones to choose by."""

    train: Pairs
    calibration: Pairs

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        return cls(*(Pairs.of(frame, split) for split in cls._fields))


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a fit may use of the study besides its own section; never an evaluation item."""

    modules: ModulesParams
    svd: Path
    """The folder of the SVD cache."""
    personas: Sequence[tuple[str, str]] = ()
    """Persona sentences of the behaviour (positive, negative), the standard pair first."""
    engineered: tuple[str, str] | None = None
    """The behaviour's long prompts (positive, negative)."""


class Attachable(Protocol):
    """What scoring needs of a method. Its coefficients are raw: see `CostUnit`."""

    unit: CostUnit

    def hooks(self, model: PreTrainedModel, coefficient: Coefficient) -> Hooks:
        """Return what steers the model; it may be attached again while nothing is trained."""
        ...

    def steer(
        self, model: PreTrainedModel, coefficient: Coefficient
    ) -> AbstractContextManager[None]:
        """Attach to the model for the duration of a `with` block."""
        ...

    def rewrite(self, messages: list[Message], coefficient: float) -> list[Message]:
        """Return the chat as this method would put it; all but prompting leave it alone."""
        ...

    def touched(self) -> list[str]:
        """Return the names of the modules that it changes; all below them is the base model's."""
        ...


class Trainable(Attachable, Protocol):
    """What training needs of a method."""

    def parameters(self) -> list[nn.Parameter]: ...

    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        ...


class Hooked:
    """A method that steers by forward hooks alone."""

    unit = CostUnit()

    def hooks(self, model: PreTrainedModel, coefficient: Coefficient) -> Hooks:
        return []

    @contextmanager
    def steer(self, model: PreTrainedModel, coefficient: Coefficient) -> Iterator[None]:
        with attached(model, self.hooks(model, coefficient)):
            yield

    def rewrite(self, messages: list[Message], coefficient: float) -> list[Message]:
        return messages

    def touched(self) -> list[str]:
        return []


class Steering(Hooked):
    """A fitted method. Coefficient 0 is the base model, bit for bit.

    Each class has `fit(base, pairs, section, study, seed)`, which learns from pairs and leaves the
    model as it was. Section and study are of the class's own types.
    """

    section: ClassVar[type[MethodParams]]
    label: ClassVar[str]
    """Its name in tables and captions."""
    source: ClassVar[str]
    """Who it is by, as the card of an export says it."""
    look: ClassVar[Look | None] = None
    """None takes the next free one."""
    learned: ClassVar[bool] = False
    """Whether it is trained, and so has seeds."""
    graded: ClassVar[bool] = True
    """Whether the coefficient has a size; if not, only its sign counts."""
    free_sign: ClassVar[bool] = False
    """Whether the fit leaves open which sign is the positive persona; if so it has a `flip`."""

    def __init__(self) -> None:
        self.history: pl.DataFrame | None = None
        """Training curves, one row per step and split, where there was training."""
        self.summary: dict[str, float] = {}
        """Figures of the fit, from pairs only."""
        self.sign: Sign | None = None
        """What probes say of its sign; None where the method itself defines it."""
        self.budget_reached: bool | None = None
        """Whether c = 1 and c = -1 both cost the budget; None where the coefficient has no size."""

    @classmethod
    def draws(cls, section: Any) -> int:
        """Return how often an untrained method is fitted, with another seed each time."""
        return 1

    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Return all that must be saved besides `metadata`."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """Return the plain values that, with `tensors`, rebuild the method."""
        return {}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        raise NotImplementedError

    def additions(self, coefficient: float) -> dict[str, Tensor]:
        """Return the vectors [d] that it adds to modules' outputs, by the module's name."""
        return {}

    def updates(self, model: PreTrainedModel, coefficient: float) -> dict[str, Update]:
        """Return its exact change of weights, by the module's name; empty where it is none.

        Raises InputError for a quantised base where the change depends on its weight.
        """
        return {}


def dense(target: nn.Module, name: str) -> Tensor:
    """Return a module's weight [o, i]; refuse a packed one."""
    weight = target.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InputError(
            f"the weight of {name} is quantised: export from the unquantised base, and quantise "
            "the result"
        )
    return weight.detach()
