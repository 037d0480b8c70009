"""The typed form of params.yaml."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from pipeline.evalsets import EVALSETS, EvalsetsParams
from pipeline.steering import METHODS
from pipeline.steering.dose import DoseParams
from pipeline.steering.svd import SvdParams
from pipeline.steering.training.params import LOSSES, LossParams, TrainingParams
from pipeline.study.variants import resolve
from pipeline.support import sections
from pipeline.support.schemas import LIKELIHOOD
from pipeline.support.section import Section, Seed, parse, read_yaml

if TYPE_CHECKING:
    SteeringParams = Any
else:  # the section of the class that the field `method` names
    SteeringParams = Annotated[
        Union[tuple(Annotated[method.section, Tag(id)] for id, method in METHODS.items())],  # noqa: UP007
        Discriminator(
            lambda section: section["method"] if isinstance(section, dict) else section.method
        ),
    ]


def check_id(value: str) -> str:
    # A dot would break DVC's parameter paths.
    if not re.fullmatch(r"[a-z0-9_-]+", value):
        raise ValueError(f"{value!r} is not an id: use lower-case letters, digits, - and _")
    return value


def check_unique(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names something twice: name each once")
    return values


Id = Annotated[str, AfterValidator(check_id)]


class Params(Section):
    """The whole of params.yaml."""

    model: Id
    """The base model: an id under `models`."""
    behaviour: Id
    """What to steer: a file data/raw/behaviours/<id>.yaml."""
    evalset: Id
    """What to measure on: an id under `evalsets`."""
    methods: Annotated[list[Id], AfterValidator(check_unique)]
    """Learned methods: sections of `steering`, one adapter per seed."""
    baselines: Annotated[list[Id], AfterValidator(check_unique)]
    """Methods without training: sections of `steering`."""
    seeds: Annotated[list[Seed], AfterValidator(check_unique), Field(min_length=1)]
    """Seeds of the learned methods."""
    coefficients: Annotated[list[float], AfterValidator(check_unique)]
    """Where methods are measured, in units: 0, ±1 (which cost dose.budget), and others by pairs."""
    rank: int = Field(ge=2)
    """How many singular triples of each target module an adapter may turn and scale."""
    device: str
    """auto, cpu, cuda, cuda:N, mps, or spread (all GPUs; the rest in main memory and on disk)."""
    quantisation: sections.Quantisation | None = None
    """none, 8bit or 4bit for whichever model is chosen; null takes what its section says."""
    processes: int = Field(ge=1)
    """How many processes share training and scoring, each with a whole model of its own."""
    models: dict[Id, sections.ModelParams]
    """The base models that can be named."""
    pairs: sections.PairsParams
    """The contrast pairs that every method learns from."""
    modules: sections.ModulesParams
    """Which modules the low-rank adapters sit on."""
    svd: SvdParams
    """The decompositions of the target modules' weights."""
    training: TrainingParams
    """How learned methods are trained."""
    dose: DoseParams
    """The dose at which all methods cost the same."""
    losses: dict[Id, LossParams]
    """What learned methods minimise; each section of `steering` names one."""
    steering: dict[Id, SteeringParams]
    """One section per method, and variants, which name another section and override its fields."""
    composition: sections.CompositionParams
    """Two adapters, to be attached at once."""
    evalsets: EvalsetsParams
    """The evaluation sets that can be named."""
    generation: sections.GenerationParams
    """What a model writes freely: reasoning before an answer, and texts to judge coherence on."""
    scoring: sections.ScoringParams
    """How items are run."""
    statistics: sections.StatisticsParams
    """Intervals, tests and what counts as an answer."""
    report: sections.ReportParams
    """Which findings the report's sentences name."""

    @field_validator("coefficients")
    @classmethod
    def both_arms(cls, values: list[float]) -> list[float]:
        if not {-1.0, 0.0, 1.0} <= set(values) or {-c for c in values} != set(values):
            said = "must hold -1, 0, 1 and, for each coefficient, its negative, e.g. [-1, 0, 1]"
            raise ValueError(f"{values} {said}")
        return sorted(values)

    @model_validator(mode="before")
    @classmethod
    def whole_sections(cls, data: Any) -> Any:
        return resolve(data, LOSSES, list(METHODS)) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def consistent(self) -> "Params":
        for name, allowed in (("model", self.models), ("evalset", EVALSETS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}: allowed are {', '.join(allowed)}")
        if not self.methods + self.baselines:
            raise ValueError("methods and baselines are both empty: name at least one")
        check_methods("methods", self.methods, self.steering, learned=True)
        check_methods("baselines", self.baselines, self.steering, learned=False)
        check_methods("composition.method", [self.composition.method], self.steering, learned=True)
        first, end, loss = self.modules.from_depth, self.modules.to_depth, self.training.loss_depth
        if not first < end <= loss:
            raise ValueError(
                "modules.from_depth < modules.to_depth <= training.loss_depth must hold, and they "
                f"are {first}, {end} and {loss}: change one of them"
            )
        if LIKELIHOOD in self.scoring.forms and self.generation.reasoning_tokens:
            raise ValueError(
                f"scoring.form is {self.scoring.form!r}, which cannot follow reasoning: set "
                "generation.reasoning_tokens 0, or scoring.form answers"
            )
        if (most := self.svd.max_rank) is not None and self.rank > most:
            said = f"rank is {self.rank}, above svd.max_rank {most}"
            raise ValueError(f"{said}: lower rank, or raise svd.max_rank")
        return self


def check_methods(field: str, names: list[str], steering: dict[str, Any], learned: bool) -> None:
    """Refuse an id without a section, and one that belongs in the other list."""
    for name in names:
        if name not in steering:
            said = f"{name!r} in `{field}` has no section under steering"
            raise ValueError(f"{said}: there are {', '.join(steering)}")
        if METHODS[steering[name].method].learned != learned:
            where = "`methods`" if not learned else "`baselines`"
            raise ValueError(f"{name!r} does not belong in `{field}`: put it in {where}")


def load_params(path: Path | str = "params.yaml") -> Params:
    return parse(Params, read_yaml(path), path)
