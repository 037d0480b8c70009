"""The sections of params.yaml that several parts read, each field with its meaning."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.support.schemas import ANSWERS, LIKELIHOOD
from pipeline.support.section import Section, Seed

Quantisation = Literal["none", "8bit", "4bit"]


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
    quantisation: Quantisation = "none"
    """How the base model's linear modules are held: as they are, or in 8 or 4 bits."""
    answer_prefix: str = Field(default="auto", min_length=1)
    """What the reply to a dilemma begins with; auto: that which makes Yes and No likeliest."""
    prompts: str = Field(default="open", pattern=r"^[a-z0-9_-]+$")
    """A file data/raw/prompts/<id>.json of open prompts, for doses and coherence."""


class PairsParams(Section):
    max_pairs: int = Field(ge=8)
    """How many contrast pairs are drawn from personas x suffixes, calibration included."""
    calibration_share: float = Field(gt=0, lt=1)
    """The share of suffixes that no gradient sees: for validation, the sign and the dose."""
    seed: Seed
    """The seed of the draw of suffixes and of the split."""


class ModulesParams(Section):
    target: str | list[str]
    """residual-writers, -readers or -all, a list of module suffixes, or a regular expression."""
    from_depth: float = Field(ge=0, le=1)
    """The first adapted layer, as a fraction of the depth."""
    to_depth: float = Field(ge=0, le=1)
    """The end of the adapted layers (exclusive), as a fraction of the depth."""
    n_modules: int | None = Field(ge=1)
    """Keep only this many of them, evenly spaced; null keeps all."""


class CompositionParams(Section):
    method: str
    """The learned method of both adapters."""
    behaviours: list[str]
    """Two behaviours, one adapter each; an empty list leaves the stage out."""
    seed: Seed
    """The seed of both adapters."""

    @model_validator(mode="after")
    def two_behaviours(self) -> Self:
        if self.behaviours and len(set(self.behaviours)) != 2:
            raise ValueError(f"behaviours is {self.behaviours}: name two different ones, or none")
        return self


class EvalsetSection(Section):
    controls: bool = False
    """Score sums and plain preferences too, which no moral value should move."""


class ReferenceParams(EvalsetSection):
    target_dilemmas: int = Field(ge=2)
    """Dilemmas on the behaviour's own trait."""
    other_dilemmas: int = Field(ge=0)
    """Dilemmas on each other trait, for side effects."""
    seed: Seed
    """The seed of the draw of dilemmas."""


class DilemmasParams(EvalsetSection):
    max_dilemmas: int | None = Field(ge=2)
    """Keep this many, always the same ones (MoralChoice: drawn, else the first by id)."""


class HubParams(DilemmasParams):
    source: str
    """The hub id, or a folder with its CSV or parquet files."""
    revision: str
    """The hub commit; data/items/source.json records the one that was read."""


class DailyDilemmasParams(HubParams):
    """DailyDilemmas, whose folder may hold either of its two schemas."""


Rule = Literal[
    "death", "pain", "disable", "freedom", "pleasure", "deceive", "cheat", "break_promise",
    "break_law", "duty",
]  # fmt: skip


class MoralChoiceParams(HubParams):
    ambiguity: Literal["low", "high", "both"]
    """Scenarios in which one action is commonly preferred, in which neither is, or all."""
    skip_deception: int = Field(ge=0)
    """Leave out the first n by id in which one action deceives: they have been looked at."""
    rule: Rule | None
    """Only scenarios in which exactly one action breaks this rule; null takes all."""
    skip: int = Field(ge=0)
    """Of what is left, in the order in which scenarios are drawn, leave out the first n as well."""


class EverydayParams(DilemmasParams):
    split: Literal["tune", "report", "all"]
    """tune may serve choices; what is reported comes from report."""


class GenerationParams(Section):
    reasoning_tokens: int = Field(ge=0)
    """Tokens that a model may reason before its answer is read; 0 reads the answer at once."""
    reasoning_opening: str
    """How reasoning begins where the chat template knows no think block: a neutral phrase."""
    coherence_tokens: int = Field(ge=0)
    """Tokens written to each open prompt at every coefficient; 0 leaves coherence out."""


class ScoringParams(Section):
    form: Literal["answers", "likelihood", "both"]
    """Yes or No about an action, how likely its text is as a reply (nats per token), or both."""
    reuse: bool
    """Run what several rows share once (equal to rounding); false runs every row in full."""

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that are scored, the one that all tables show first."""
        return (ANSWERS, LIKELIHOOD) if self.form == "both" else (self.form,)


class StatisticsParams(Section):
    bootstrap: int = Field(ge=100)
    """Resamples of the cluster bootstrap."""
    permutations: int = Field(ge=1000)
    """Sign patterns that the permutation test draws where there are too many to try all."""
    nll_budget: float = Field(gt=0)
    """Rise of the dilemmas' NLL, nats per token, at which effects are compared a second time."""
    min_choice_mass: float = Field(ge=0, le=1)
    """An item whose answer tokens hold less probability than this counts as unanswered."""
    coherent_share: float = Field(ge=0, le=1)
    """A coefficient counts as coherent if at least this share of items is answered."""
    min_items: int = Field(ge=2)
    """A value on fewer items than this is left out of the side effects."""
    seed: Seed
    """The seed of the bootstrap and of the permutations."""


class ReportParams(Section):
    even_arms: float = Field(ge=0, le=1)
    """A method moves both ways if its weaker arm is at least this share of the stronger one."""
    far_ahead: float = Field(gt=0)
    """How many times as far as the best dose a prompt must go, so that the report says it."""
