"""The sections of params.yaml, each field with its one-line meaning; unknown keys and wrong types are refused."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelParams(Section):
    source: str
    """A local folder in the hub's layout, or a hub id."""
    revision: str | None
    """The hub commit, tag or branch; the manifest records the commit that it meant."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """The precision that the base model runs in; adapters stay in float32."""
    batch_size: int = Field(ge=1)
    """Rows per forward pass without gradients, all coefficients counted."""
    template_options: dict[str, Any]
    """Further variables of the chat template, e.g. enable_thinking."""


class PairsParams(Section):
    max_pairs: int = Field(ge=8)
    """How many contrast pairs are drawn from personas x suffixes, calibration included."""
    calibration_share: float = Field(gt=0, lt=1)
    """The share of suffixes kept for validation and orientation."""
    seed: int


class ModulesParams(Section):
    target: str | list[str]
    """residual-writers, residual-readers, residual-all, a list of module suffixes, or a regular expression."""
    from_depth: float = Field(ge=0, le=1)
    """The first adapted layer, as a fraction of the depth."""
    to_depth: float = Field(ge=0, le=1)
    """The end of the adapted layers (exclusive), as a fraction of the depth."""


class SvdParams(Section):
    max_rank: int | None
    """Keep only this many singular triples per matrix; null keeps them all."""


class TrainingParams(Section):
    loss_depth: float = Field(ge=0, le=1)
    """The layer whose residual stream the loss reads, as a fraction of the depth; after the last adapted one."""
    last_tokens: int = Field(ge=1)
    """How many last tokens of a pair the representation loss averages over."""
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    """Pairs per step; each is two texts at two coefficients."""
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_share: float = Field(ge=0, lt=1)
    """The share of all steps during which the learning rate rises."""
    clip_norm: float = Field(gt=0)


class InnerPissaParams(Section):
    rotate: Literal["v", "u", "both", "none"]
    """Which singular vectors a Cayley rotation turns."""
    scaling: Literal["exp", "additive", "tanh", "none"]
    """S * exp(c lambda), S + c lambda, S * (1 + c tanh lambda), or S alone."""
    init_std: float = Field(gt=0)
    """Spread of the initial parameters; zero would be a saddle point."""
    direction: Literal["mean", "pca"]
    """The reference direction: mean pair difference, or first uncentred principal component."""
    separation: Literal["difference", "common"]
    """Widen the difference within pairs (the paper), or move both texts of a pair together."""
    coherence_bound: float = Field(ge=0)
    """Nats that a token's log-probability may lose for free."""
    coherence_weight: float = Field(ge=0)
    ordering_margin: float = Field(ge=0)
    """Nats by which c = +1 and c = -1 should lie on opposite sides of the base."""
    ordering_weight: float = Field(ge=0)

    @model_validator(mode="after")
    def learns_something(self) -> Self:
        if self.rotate == self.scaling == "none":
            raise ValueError("rotate and scaling are both none, so nothing is learnt: allow one of them")
        return self


class DirectionParams(Section):
    from_depth: float = Field(ge=0, le=1)
    to_depth: float = Field(ge=0, le=1)
    last_tokens: int = Field(ge=1)


class PcaParams(DirectionParams):
    centred: bool
    """Subtract the mean pair difference first, as sklearn and the published baseline do."""


class RandomParams(DirectionParams):
    directions: int = Field(ge=1)
    """How many random directions make the band."""


class PromptingParams(Section):
    placement: Literal["user", "system"]
    """Where the persona sentence goes: before the user's text, or in a system turn."""


class ReferenceParams(Section):
    target_dilemmas: int = Field(ge=2)
    """Dilemmas on the behaviour's own trait."""
    other_dilemmas: int = Field(ge=0)
    """Dilemmas on each other trait, for side effects."""
    seed: int


class DailyDilemmasParams(Section):
    source: str
    """The hub id, or a folder with CSV or parquet files of either schema."""
    revision: str
    max_dilemmas: int | None
    """Keep the first n dilemmas by id; null keeps all."""


class StatisticsParams(Section):
    bootstrap: int = Field(ge=100)
    """Resamples of the cluster bootstrap."""
    min_choice_mass: float = Field(ge=0, le=1)
    """An item whose answer tokens hold less probability than this counts as unanswered."""
    min_items: int = Field(ge=2)
    """A value on fewer items than this is left out of the side effects."""
    seed: int
