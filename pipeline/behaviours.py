"""A behaviour: two personas in words, and the label that counts as its effect on each evaluation set."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from pipeline.errors import InputError
from pipeline.params import read_yaml
from pipeline.sections import Section


def has_persona(template: str) -> str:
    if template.count("{persona}") != 1:
        raise ValueError(f"{template!r} must hold {{persona}} once")
    return template


class Target(Section):
    label: str
    """The framework/value whose choice is the effect."""
    opposite: list[str]
    """Labels that are the target's mere opposite, so no side effect."""


class Engineered(Section):
    positive: str = Field(min_length=1)
    negative: str = Field(min_length=1)


class Behaviour(Section):
    template: Annotated[str, AfterValidator(has_persona)]
    personas: list[tuple[str, str]] = Field(min_length=1)
    engineered: Engineered | None = None
    """Two long prompts, for prompting with wording: engineered."""
    targets: dict[str, Target]

    def sentences(self) -> list[tuple[str, str]]:
        """Return the persona sentences (positive, negative)."""
        return [(self.template.format(persona=p), self.template.format(persona=n)) for p, n in self.personas]


def load_behaviour(path: Path) -> Behaviour:
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise InputError(f"behaviour {path.stem!r} has no file {path}: there are {known}")
    try:
        return Behaviour.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
