"""The protocol of every steering method: what a fit gets, and what a fitted one can do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self
from weakref import WeakKeyDictionary

import polars as pl
import torch
from torch import Tensor, nn

from pipeline.lm.prompts import Message
from pipeline.support.errors import InputError
from pipeline.support.section import Section
from pipeline.support.sections import ModulesParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Coefficient = float | int | Tensor  # one for all rows of a batch, or one per row [b]
Hooks = list[tuple[str, Callable]]  # forward hooks, each with the dotted name of its module

# Models on which hooks were seen to act, each with the names of the modules and its code.
ACTING: WeakKeyDictionary[nn.Module, tuple[set[str], list]] = WeakKeyDictionary()
# Models with hooks on them, each with the threads that attached these.
HELD: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()


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


def at_rows(coefficient: Coefficient, rows: int) -> Tensor:
    """Return float32 coefficients [rows] of a float or of a tensor that already has one per row."""
    by_row = torch.as_tensor(coefficient, dtype=torch.float32)
    if by_row.ndim == 0:
        return by_row.expand(rows)
    check_rows(by_row, rows)
    return by_row


def check_rows(coefficients: Tensor, rows: int) -> None:
    """Refuse coefficients that are not one per row: one would be broadcast silently."""
    if coefficients.shape != (rows,):
        raise ValueError(
            f"{len(coefficients)} coefficients for a batch of {rows} rows: give one number, or one "
            "per row"
        )


def check_batched(output: Tensor) -> None:
    """Refuse the output of a module that is not [b, t, o]."""
    if output.ndim != 3:
        raise InputError(
            "a target module sees its tokens without batch rows, as experts do: leave it out of "
            "modules.target"
        )


def is_zero(coefficient: Coefficient) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == 0


def dense(target: nn.Module, name: str) -> Tensor:
    """Return a module's weight [o, i]; refuse a packed one."""
    weight = target.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InputError(
            f"the weight of {name} is quantised: export from the unquantised base, and quantise "
            "the result"
        )
    return weight.detach()


@torch.no_grad()
def check_acts(model: nn.Module, hooks: Hooks, rows: int = 1) -> None:
    """Refuse a model that, run on two tokens, passes by a module that hooks are meant for.

    It is tried once for the same modules and the same code.
    """
    tried = ({name for name, _ in hooks}, code_of(model))
    if not hooks or ACTING.get(model) == tried:
        return
    ran: set[str] = set()
    watchers: Hooks = [(name, lambda *_, name=name: ran.add(name)) for name, _ in hooks]
    ids = torch.zeros(rows, 2, dtype=torch.long, device=next(model.parameters()).device)
    with attached(model, [*hooks, *watchers]):
        model(input_ids=ids, use_cache=False)
    if idle := [name for name, _ in hooks if name not in ran]:
        raise InputError(
            f"{type(model).__name__} passes by {idle[0]}, as traced or fused code does, so that "
            "steering would not act: load the base anew (load_base) and leave its forward alone"
        )
    ACTING[model] = tried


def code_of(model: nn.Module) -> list[tuple[int, int, int]]:
    """Return what changes where a module, its forward or what it is compiled to is replaced."""
    return [
        (id(module), id(module.__dict__.get("forward")), id(module._compiled_call_impl))
        for module in model.modules()
    ]


def hold(model: nn.Module, stack: ExitStack) -> None:
    """Keep a model to this thread until the stack is left."""
    own, threads = threading.get_ident(), HELD.setdefault(model, [])
    if set(threads) - {own}:
        raise InputError(
            "another thread steers this model, and both coefficients would act at once: give each "
            "thread a model of its own, or each row of one batch its coefficient"
        )
    threads.append(own)
    stack.callback(threads.remove, own)


@contextmanager
def attached(model: nn.Module, hooks: Hooks) -> Iterator[None]:
    """Keep forward hooks on the named modules for the duration of a `with` block.

    What torch has compiled knows nothing of them, so that all code runs eagerly meanwhile. Raises
    InputError while another thread steers the model, since both would act at once.
    """
    with ExitStack() as stack:
        if hooks and not torch.compiler.is_dynamo_compiling():
            hold(model, stack)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, hook in hooks:
            stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        yield
