"""The typed form of params.yaml."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import InputError
from pipeline.evalsets import EVALSETS
from pipeline.sections import (
    AntiParallelParams,
    CompositionParams,
    ContrastiveParams,
    DoseParams,
    ModelParams,
    ModulesParams,
    PairsParams,
    ScoringParams,
    Section,
    StatisticsParams,
    SvdParams,
    TrainingParams,
)
from pipeline.steering import METHODS
from pipeline.variants import resolve


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


LOSSES: dict[str, type[Section]] = {"contrastive": ContrastiveParams, "antiparallel": AntiParallelParams}


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
    seeds: Annotated[list[int], AfterValidator(check_unique), Field(min_length=1)]
    """Seeds of the learned methods."""
    coefficients: Annotated[list[float], AfterValidator(check_unique)]
    """The doses: 0, and every other one with both signs."""
    rank: int = Field(ge=2)
    """How many singular triples of each target module an adapter may turn and scale."""
    device: str
    """auto, cpu, cuda, cuda:N or mps."""
    models: dict[Id, ModelParams]
    pairs: PairsParams
    modules: ModulesParams
    """Which modules the low-rank adapters sit on."""
    svd: SvdParams
    training: TrainingParams
    dose: DoseParams
    """The dose at which all methods cost the same."""
    losses: dict[Id, Any]
    """What learned methods minimise; each section of `steering` names one."""
    steering: dict[Id, Any]
    """One section per method, and variants that name another section and override some of its fields."""
    composition: CompositionParams
    """Two adapters, to be attached at once."""
    evalsets: dict[Id, Any]
    scoring: ScoringParams
    statistics: StatisticsParams

    @field_validator("coefficients")
    @classmethod
    def both_arms(cls, values: list[float]) -> list[float]:
        if not all(map(math.isfinite, values)) or 0.0 not in values or {-c for c in values} != set(values) or len(values) < 3:
            raise ValueError(f"{values} must hold 0 and, for each coefficient, its negative, e.g. [-1, 0, 1]")
        return sorted(values)

    @model_validator(mode="before")
    @classmethod
    def whole_sections(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("steering"), dict) and isinstance(data.get("losses"), dict):
            return {**data, "steering": resolve(data["steering"], data["losses"])}
        return data

    @field_validator("losses")
    @classmethod
    def typed_losses(cls, sections: dict) -> dict:
        return typed(sections, LOSSES)

    @field_validator("steering")
    @classmethod
    def typed_steering(cls, sections: dict) -> dict:
        types = {name: METHODS[section["method"]].section for name, section in sections.items() if section["method"] in METHODS}
        if unknown := sections.keys() - types:
            name = min(unknown)
            known = f"name one of {', '.join(METHODS)} as its method"
            raise ValueError(f"{name!r} is unknown here: {known}")
        return typed(sections, types)

    @field_validator("evalsets")
    @classmethod
    def typed_evalsets(cls, sections: dict) -> dict:
        return typed(sections, EVALSETS)

    @model_validator(mode="after")
    def consistent(self) -> "Params":
        for name, allowed in (("model", self.models), ("evalset", self.evalsets)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        if not self.methods + self.baselines:
            raise ValueError("methods and baselines are both empty: name at least one")
        check_methods("methods", self.methods, self.steering, learned=True)
        check_methods("baselines", self.baselines, self.steering, learned=False)
        check_methods("composition.method", [self.composition.method], self.steering, learned=True)
        if not self.modules.from_depth < self.modules.to_depth <= self.training.loss_depth:
            raise ValueError("modules.from_depth < modules.to_depth <= training.loss_depth must hold")
        return self


def check_methods(field: str, names: list[str], steering: dict[str, Any], learned: bool) -> None:
    """Refuse an id without a section, and one that belongs in the other list."""
    for name in names:
        if name not in steering:
            raise ValueError(f"{name!r} in `{field}` has no section under steering: there are {', '.join(steering)}")
        if METHODS[steering[name].method].learned != learned:
            where = "`methods`" if not learned else "`baselines`"
            raise ValueError(f"{name!r} does not belong in `{field}`: put it in {where}")


def typed(sections: dict, types: Mapping[str, type[Section]]) -> dict:
    for name in sections:
        if name not in types:
            raise ValueError(f"{name!r} is unknown here: allowed are {', '.join(types)}")
    return {name: types[name].model_validate(value) for name, value in sections.items()}


def read_yaml(path: Path | str) -> Any:
    """Read YAML 1.2, as DVC does: PyYAML would take the `1e-05` that `-S lr=1e-5` writes for a string."""
    try:
        return YAML(typ="safe").load(Path(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: run from the project's root, or create it") from None
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def load_params(path: Path | str = "params.yaml") -> Params:
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        shown = "" if isinstance(first["input"], (dict, Params)) else f" (found {first['input']!r})"
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {where}: {said}{shown}") from None
