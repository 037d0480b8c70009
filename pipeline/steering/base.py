"""The protocol of every steering method, and how a fitted one is saved and loaded."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.prompts import Message
from pipeline.steering import METHODS
from pipeline.study.sections import ModulesParams, TrainingParams
from pipeline.support.errors import InputError
from pipeline.support.files import new_folder, read_json, write_json
from pipeline.support.scratch import Scratch
from pipeline.support.section import Section

Coefficient = float | Tensor  # one for all rows of a batch, or one per row [b]
Hooks = list[tuple[str, Callable]]  # forward hooks, each with the dotted name of its module


@dataclass(frozen=True)
class Context:
    """What a fit may use besides the pairs: parameters and the SVD cache, never an evaluation
    item.
    """

    section: Section
    personas: list[tuple[str, str]] = field(default_factory=list)
    """The persona sentences of the behaviour (positive, negative), the first pair being the
    standard one.
    """
    engineered: tuple[str, str] | None = None
    """The behaviour's long prompts (positive, negative)."""
    rank: int = 0
    modules: ModulesParams | None = None
    training: TrainingParams | None = None
    svd: Path | None = None
    scratch: Scratch | None = None
    """Where long training keeps what it needs to go on after an interruption."""


@dataclass(frozen=True)
class Pairs:
    """Contrast pairs as rendered chat texts that end inside the same unfinished reply."""

    positive: list[str]
    negative: list[str]
    neutral: list[str]
    """The same chats without a persona."""

    @classmethod
    def of(cls, frame: pl.DataFrame, split: str) -> Self:
        part = frame.filter(pl.col("split") == split)
        return cls(*(part[column].to_list() for column in ("positive", "negative", "neutral")))


class Attachable(Protocol):
    """What scoring needs of a method."""

    def hooks(self, model: PreTrainedModel, coefficient: Coefficient) -> Hooks:
        """Return what steers the model; made once, it may be attached again and again while nothing
        is trained.
        """
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
        """Return the dotted names of the modules whose outputs it changes; what lies below them is
        the base model's.
        """
        ...


class Steering(Attachable, Protocol):
    """A fitted method. Coefficient 0 is the base model, bit for bit."""

    graded: bool
    """Whether the coefficient has a size; if not, only its sign counts."""
    history: pl.DataFrame | None
    """Training curves, one row per step, where there was training."""
    summary: dict[str, float]
    """Figures of the fit, from pairs only."""

    @classmethod
    def fit(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, train: Pairs, calibration: Pairs,
        context: Context, seed: int,
    ) -> Self:  # fmt: skip
        """Learn from pairs; the model is left as it was."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return all that must be saved besides `metadata`."""
        ...

    def metadata(self) -> dict[str, Any]:
        """Return the plain values that, with `tensors`, rebuild the method."""
        ...

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self: ...


def at_rows(coefficient: Coefficient, rows: int) -> Tensor:
    """Return float32 coefficients [rows] of a float or of a tensor that already has one per row."""
    found = torch.as_tensor(coefficient, dtype=torch.float32)
    if found.ndim == 0:
        return found.expand(rows)
    if found.shape != (rows,):
        raise ValueError(
            f"{tuple(found.shape)} coefficients for a batch of {rows} rows: give one, or one per "
            "row"
        )
    return found


def is_zero(coefficient: Coefficient) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == 0


@contextmanager
def attached(model: PreTrainedModel, hooks: Hooks) -> Iterator[None]:
    """Keep forward hooks on the named modules for the duration of a `with` block."""
    with ExitStack() as stack:
        for name, hook in hooks:
            stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        yield


class Hooked:
    """A method that steers by forward hooks alone."""

    def hooks(self, model: PreTrainedModel, coefficient: Coefficient) -> Hooks:
        return []

    @contextmanager
    def steer(self, model: PreTrainedModel, coefficient: Coefficient) -> Iterator[None]:
        with attached(model, self.hooks(model, coefficient)):
            yield


def save_steering(folder: Path, method: str, steering: Steering, about: dict[str, Any]) -> None:
    """Write `steering.safetensors`, `steering.json` and, after training, `history.parquet`; whole
    or not at all.
    """
    with new_folder(folder) as new:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in steering.tensors().items()},
            new / "steering.safetensors",
        )
        content = {
            "method": method,
            **about,
            "summary": steering.summary,
            "metadata": steering.metadata(),
        }
        write_json(new / "steering.json", content)
        if steering.history is not None:
            steering.history.write_parquet(new / "history.parquet")


def base_name(about: dict[str, Any]) -> str:
    """Return what is known of the base that a method was fitted on: its id, and its folder, or its
    hub id and commit.
    """
    source, revision = about.get("source"), about.get("revision")
    where = f"{source} at {revision[:12]}" if revision else source
    return (
        " ".join(part for part in (about.get("model"), f"({where})" if where else None) if part)
        or "a model without a name"
    )


def adapter_hash(folder: Path) -> str:
    """Return the sha256 of a saved method: its tensors and its metadata."""
    files = [(folder / name).read_bytes() for name in ("steering.json", "steering.safetensors")]
    return hashlib.sha256(
        b"".join(hashlib.sha256(content).digest() for content in files)
    ).hexdigest()


def load_steering(folder: Path, weights_sha256: str, device: torch.device) -> Steering:
    """Read a saved method to a device; refuse one that was fitted on another base model."""
    if not (folder / "steering.json").exists():
        raise InputError(f"{folder} holds no steering.json: fit the method first (`dvc repro`)")
    about, file = read_json(folder / "steering.json"), f"{folder}/steering.safetensors"
    if not isinstance(about, dict) or not {"weights_sha256", "method", "metadata"} <= about.keys():
        raise InputError(
            f"{folder}/steering.json lacks weights_sha256, method or metadata: fit the method again"
        )
    if about["method"] not in METHODS:
        known = ", ".join(METHODS)
        raise InputError(
            f"{folder} holds the method {about['method']!r}, which is none of {known}: fit one of "
            "these"
        )
    if about["weights_sha256"] != weights_sha256:
        raise InputError(
            f"{folder} was fitted on weights {str(about['weights_sha256'])[:12]} of "
            f"{base_name(about)}, this base model has "
            f"{weights_sha256[:12]}: load the base it was made for, or fit it again"
        )
    try:
        tensors = load_file(file, device=str(device))
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{file} cannot be read ({error}): fit the method again") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"{folder}: tensor {name} is not finite: fit the method again with a lower "
                "learning rate"
            )
    try:
        return METHODS[about["method"]].load().load(tensors, about["metadata"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{file} and steering.json do not fit together ({said}): fit the method again"
        ) from None


@torch.no_grad()
def check_fits(model: PreTrainedModel, steering: Attachable, folder: Path) -> None:
    """Refuse a loaded method whose tensors have not the shapes of the model's modules: two tokens
    are run through it.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    try:
        with steering.steer(model, 1.0):
            model(input_ids=ids, use_cache=False)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder} does not fit {type(model).__name__} ({said}): fit the method again on this "
            "model"
        ) from None
