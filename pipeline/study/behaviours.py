"""A behaviour: two personas in words, and the label that is its effect on each evaluation set."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.support.errors import InputError
from pipeline.support.files import visible
from pipeline.support.section import Section, parse, read_yaml


def has_persona(template: str) -> str:
    if template.count("{persona}") != 1:
        said = "must hold {persona} once: write it where the persona goes"
        raise ValueError(f"{template!r} {said}")
    try:
        template.format(persona="")
    except (KeyError, IndexError, ValueError):
        said = "may hold no braces but {persona}: take the others out"
        raise ValueError(f"{template!r} {said}") from None
    return template


def differ(personas: tuple[str, str]) -> tuple[str, str]:
    if personas[0].strip() == personas[1].strip():
        said = f"the positive and the negative persona are both {personas[0]!r}"
        raise ValueError(f"{said}: they must differ, change one")
    return personas


def questions(side: list[str]) -> list[str]:
    if odd := [one for one in side if not one.endswith("?")]:
        raise ValueError(f"{odd[0]!r} is no question: end it with a question mark")
    return side


Persona = Annotated[str, Field(pattern=r"\S")]
Questions = Annotated[list[Persona], AfterValidator(questions), Field(min_length=2)]


class Target(Section):
    label: str
    """The framework/value whose choice is the effect."""
    opposite: list[str]
    """Labels that are the target's mere opposite, so no side effect."""


UNTARGETED = Target(label="", opposite=[])  # of a behaviour whose effect a set cannot show


class Engineered(Section):
    positive: Persona
    """The long prompt for c = +1."""
    negative: Persona
    """The long prompt for c = -1."""


class Probes(Section):
    """General Yes-or-No questions that tell the poles apart; none is an evaluation item."""

    yes: Questions
    """Those to which the positive persona says Yes and the negative one No."""
    no: Questions
    """Those to which it says No: as many, so that saying Yes to everything decides nothing."""

    @model_validator(mode="after")
    def balanced(self) -> Self:
        if len(self.yes) != len(self.no):
            said = f"{len(self.yes)} questions under yes and {len(self.no)} under no"
            raise ValueError(f"{said}: write equally many")
        if len({*self.yes, *self.no}) < 2 * len(self.yes):
            raise ValueError("a question occurs twice: write another one")
        return self


class Behaviour(Section):
    template: Annotated[str, AfterValidator(has_persona)]
    """The sentence that a persona is put into, at {persona}."""
    personas: list[Annotated[tuple[Persona, Persona], AfterValidator(differ)]] = Field(min_length=1)
    """Wordings of the positive and the negative persona; contrast pairs take them in turn."""
    engineered: Engineered | None = None
    """Two long prompts, for prompting with wording: engineered."""
    probes: Probes | None = None
    """Questions that decide which sign of c is the positive persona; without them none is."""
    targets: dict[str, Target] = {}
    """What counts as the effect, by the evaluation set's id; without one none is measured."""

    def sentences(self) -> list[tuple[str, str]]:
        """Return the persona sentences (positive, negative)."""
        return [
            (self.template.format(persona=positive), self.template.format(persona=negative))
            for positive, negative in self.personas
        ]


def load_behaviour(path: Path) -> Behaviour:
    if not path.exists():
        known = ", ".join(file.stem for file in visible(path.parent, "*.yaml")) or "none"
        said = f"behaviour {path.stem!r} has no file {path}: take one of {known}, or write it"
        raise InputError(said)
    return parse(Behaviour, read_yaml(path), path)


def target_of(path: Path, evalset: str, labels: list[str]) -> Target:
    """Return the effect of a behaviour on a set that has these labels; UNTARGETED without any."""
    target = load_behaviour(path).targets.get(evalset, UNTARGETED)
    if target is UNTARGETED:
        return target
    if unknown := [label for label in (target.label, *target.opposite) if label not in labels]:
        kind = unknown[0].partition("/")[0] + "/"
        near = ", ".join([label for label in labels if label.startswith(kind)] or labels)
        said = f"{path}: {unknown[0]!r} under targets is no label of {evalset!r}"
        raise InputError(f"{said}: take one of {near}")
    return target


def unmeasured(path: Path, evalset: str) -> str:
    """Return what a study of a behaviour without a target for the set says instead of effects."""
    return (
        f"{path} has no target for {evalset!r}, so no effect is measured: judge by the free texts "
        "at −1, 0 and +1, or add one under targets"
    )
