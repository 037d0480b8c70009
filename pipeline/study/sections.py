"""The sections of params.yaml that several parts read, each field with its meaning."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.support.section import ON_KINDNESS, PUBLISHED, Section, Seed

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
    answer_prefix: str = Field(default="My choice:", min_length=1)
    """What the reply to a dilemma begins with; "My choice: **" where a model writes it bold."""


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
    from_depth: float = Field(ge=0, le=1, json_schema_extra=ON_KINDNESS)
    """The first adapted layer, as a fraction of the depth."""
    to_depth: float = Field(ge=0, le=1, json_schema_extra=ON_KINDNESS)
    """The end of the adapted layers (exclusive), as a fraction of the depth."""
    n_modules: int | None = Field(ge=1)
    """Keep only this many of them, evenly spaced; null keeps all."""


class SvdParams(Section):
    max_rank: int | None = Field(ge=2)
    """Keep only this many singular triples per matrix; null keeps them all."""


class TrainingParams(Section):
    loss_depth: float = Field(ge=0, le=1, json_schema_extra=ON_KINDNESS)
    """The layer whose residual stream the loss reads, after the last adapted one (of the depth)."""
    last_tokens: int = Field(ge=1, json_schema_extra=PUBLISHED)
    """How many last tokens of a pair the representation loss averages over."""
    epochs: int = Field(ge=1)
    """Passes over the training pairs."""
    batch_size: int = Field(ge=2)
    """Pairs per micro-batch; each is two texts at two coefficients."""
    accumulate: int = Field(ge=1)
    """Micro-batches per optimiser step, whose gradients are averaged."""
    weight_decay: float = Field(ge=0)
    """AdamW's decoupled weight decay, times the learning rate per step."""
    warmup_share: float = Field(ge=0, lt=1, json_schema_extra=PUBLISHED)
    """The share of all steps during which the learning rate rises."""
    clip_norm: float = Field(gt=0, json_schema_extra=PUBLISHED)
    """Longest gradient, all parameters together; a longer one is shortened to it."""


class ContrastiveParams(Section):
    """The loss of InnerPiSSA."""

    form: Literal[
        "raw",
        "softplus_strong",
        "logsigmoid_weak",
        "logsigmoid_dpo",
        "tanh_symmetric",
        "softplus_ratio",
        "focal_balanced",
    ]
    """How the separation of a pair becomes a loss; logsigmoid_weak limits itself and leaves
    coherence out.
    """
    separation: Literal["difference", "common"]
    """Widen the difference within pairs (the paper), or move both texts of a pair together."""
    direction: Literal["mean", "pca", "top_s", "adapter"]
    """The reference: mean pair difference, first principal components, or the mean within the top
    left singular vectors of the modules that write to the loss layer, or within the adapter's own
    output dimensions."""
    directions: int = Field(ge=1)
    """How many components pca takes, and how many singular vectors top_s; mean and adapter ignore
    it.
    """
    coherence_bound: float = Field(ge=0)
    """Nats that a token's log-probability may lose for free."""
    coherence_weight: float = Field(ge=0)
    ordering_margin: float = Field(ge=0)
    """Nats by which c = +1 and c = -1 should lie on opposite sides of the base."""
    ordering_weight: float = Field(ge=0)


SUBSPACES = ("task", "suppressed", "change", "write", "not_read", "not_logits", "logits_read")


class AntiParallelParams(Section):
    """The loss of AntiPaSTO."""

    projection: Literal["cosine", "symlog"]
    """The product of cosines with focus (the code), or symlog of the product of the two movements
    (the README).
    """
    projection_weight: float = Field(gt=0)
    focus_softness: float = Field(ge=0, le=1)
    """The exponent of the focus is 1 minus this; it falls from 1 during the ramp."""
    coherence_threshold: float = Field(ge=0)
    """A token may change by this times the root of its entropy, in total variation, for free."""
    coherence_weight: float = Field(ge=0)
    """Inside the logarithm of the barrier; 0 leaves the barrier out."""
    ordering_margin: float = Field(ge=0)
    """The margin of the hinge, times the root of the mean entropy."""
    ordering_weight: float = Field(ge=0)
    ramp_share: float = Field(ge=0, le=1)
    """The share of all optimiser steps over which coherence, ordering and focus come in."""
    subspace: list[
        Literal["task", "suppressed", "change", "write", "not_read", "not_logits", "logits_read"]
    ] = Field(min_length=1)
    """What the loss basis is the intersection of, from left to right."""
    subspace_rank: int | None = Field(ge=1)
    """Its number of dimensions; null keeps 60 % of the energy."""
    centred: bool
    """Subtract the mean pair difference from the task differences, as published."""


class LearnedParams(Section):
    method: str
    """The method whose class this is; a variant names another section here and overrides some of
    its fields.
    """
    loss: ContrastiveParams | AntiParallelParams
    """An id under `losses`; or {of: id, field: value, ...}."""
    lr: float = Field(gt=0)


class SvdAdapterParams(LearnedParams):
    rotate: Literal["v", "u", "both", "none"]
    """Which singular vectors a Cayley rotation turns."""
    scaling: Literal["exp", "additive", "tanh", "none"]
    """S * exp(c lambda), S + c delta, S * (1 + c tanh lambda), or S alone."""
    angle_bound: Literal["none", "elementwise", "spectral"]
    """Bound nothing, each entry of A (the source, which bounds no angle), or the largest plane
    angle at |c| = 1.
    """
    max_angle: float = Field(gt=0, lt=3.1415)
    """Radians; without meaning for angle_bound none."""
    block_size: int | None = Field(ge=2)
    """Rotate within blocks of this many dimensions; null turns all together."""
    dimensions: Literal["top", "random", "data_aware"]
    """Which singular triples: the largest, random ones, or a third each by what the pairs' states
    need.
    """
    rotation_init_std: float = Field(gt=0)
    """Spread of the initial entries of A; zero would be a saddle point."""
    scale_init_mean: float
    scale_init_std: float = Field(gt=0)

    @model_validator(mode="after")
    def learns_something(self) -> Self:
        if self.rotate == self.scaling == "none":
            raise ValueError(
                "rotate and scaling are both none, so nothing is learnt: allow one of them"
            )
        return self


class LoraParams(LearnedParams):
    init_std: float = Field(ge=0)
    """Spread of B; A is drawn as peft does."""


class BaselineParams(Section):
    method: str
    """As in the learned methods' sections."""


class DirectionParams(BaselineParams):
    from_depth: float = Field(ge=0, le=1)
    to_depth: float = Field(ge=0, le=1)
    last_tokens: int = Field(ge=1)


class PcaParams(DirectionParams):
    centred: bool
    """Subtract the mean pair difference first, as sklearn and the published baseline do."""


class RandomParams(DirectionParams):
    directions: int = Field(ge=1)
    """How many random directions make the band."""


class GradientParams(DirectionParams):
    site: Literal["hidden", "q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    """Where gradients are taken and the direction is added: layer outputs, or the outputs of one
    kind of module.
    """
    kind: Literal["fisher", "svd"]
    """(F + lambda I)^-1 mean gradient, or the first right singular vector of the centred
    gradients.
    """
    fisher: Literal["empirical", "normalised", "covariance"]
    """G^T G / n, the same of rows of unit length, or centred with n - 1."""
    regularisation: float | None = Field(gt=0)
    """lambda as a share of F's mean eigenvalue; null takes a hundredth."""
    rows: Literal["pooled", "positive", "negative", "difference"]
    """Gradients of both texts (the negative ones reversed), of one, or the difference of two
    directions (dual).
    """
    loss_depth: float = Field(ge=0, le=1)
    """The layer whose states the ReprPO loss pushes apart, as a fraction of the depth."""
    margin: float = Field(ge=0)
    """Share of the base log-probability that the margin leaves, 0.99 in the source. At last_tokens
    1, as published, the margin cannot act: the last token of a text predicts nothing of it."""
    margin_weight: float = Field(ge=0)


class SSpaceParams(BaselineParams):
    last_tokens: int = Field(ge=1)
    form: Literal["additive", "weight"]
    """y + c U sqrt(S) delta, or y + c (U sqrt(S)) (delta * (sqrt(S) V^T x))."""


class PromptingParams(BaselineParams):
    wording: Literal["persona", "engineered"]
    """The persona sentence, or the behaviour's long engineered prompt."""
    placement: Literal["user", "system"]
    """Where the persona sentence goes: before the user's text, or in a system turn."""


class DoseParams(Section):
    measure: Literal["kl", "delta_nll"]
    """The cost on calibration texts without a persona: KL(base || steered), or the rise of NLL."""
    budget: float = Field(gt=0)
    """What every method may cost: nats per token, the mean of both signs."""
    max_coefficient: float = Field(gt=0)
    """Where the search for a method's dose stops."""


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


class MoralChoiceParams(HubParams):
    ambiguity: Literal["low", "high", "both"]
    """Scenarios in which one action is commonly preferred, in which neither is, or all."""
    skip_deception: int = Field(ge=0)
    """Leave out the first n by id in which one action deceives: they have been looked at."""


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
    coherence_prompts: str = Field(pattern=r"^[a-z0-9_-]+$")
    """A file data/raw/prompts/<id>.json: open for real models, reference for the bundled one."""


class ScoringParams(Section):
    reuse: bool
    """Run what several rows share once (equal to rounding); false runs every row in full."""


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
    sure_sign: float = Field(gt=0)
    """An adapter's sign whose |t| over calibration texts is smaller is called a guess."""
    even_arms: float = Field(ge=0, le=1)
    """A method moves both ways if its weaker arm is at least this share of the stronger one."""
