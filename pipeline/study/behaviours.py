"""A behaviour: two personas in words, and the label that counts as its effect on each evaluation
set.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.support.errors import InputError
from pipeline.support.section import Section, parse, read_yaml


def has_persona(template: str) -> str:
    if template.count("{persona}") != 1:
        raise ValueError(
            f"{template!r} must hold {{persona}} once: write it where the persona goes"
        )
    try:
        template.format(persona="")
    except (KeyError, IndexError, ValueError):
        raise ValueError(
            f"{template!r} may hold no braces but {{persona}}: take the others out"
        ) from None
    return template


def differ(personas: tuple[str, str]) -> tuple[str, str]:
    if personas[0].strip() == personas[1].strip():
        raise ValueError(
            f"the positive and the negative persona are both {personas[0]!r}: they must differ, "
            "change one"
        )
    return personas


Persona = Annotated[str, Field(pattern=r"\S")]


class Target(Section):
    label: str
    """The framework/value whose choice is the effect."""
    opposite: list[str]
    """Labels that are the target's mere opposite, so no side effect."""


class Engineered(Section):
    positive: Persona
    negative: Persona


class Behaviour(Section):
    template: Annotated[str, AfterValidator(has_persona)]
    personas: list[Annotated[tuple[Persona, Persona], AfterValidator(differ)]] = Field(min_length=1)
    engineered: Engineered | None = None
    """Two long prompts, for prompting with wording: engineered."""
    targets: dict[str, Target]

    def sentences(self) -> list[tuple[str, str]]:
        """Return the persona sentences (positive, negative)."""
        return [
            (self.template.format(persona=p), self.template.format(persona=n))
            for p, n in self.personas
        ]


def load_behaviour(path: Path) -> Behaviour:
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise InputError(
            f"behaviour {path.stem!r} has no file {path}: take one of {known}, or write it"
        )
    return parse(Behaviour, read_yaml(path), path)


def target_of(path: Path, evalset: str, labels: list[str]) -> Target:
    """Return what counts as the effect of a behaviour on an evaluation set that has these
    labels.
    """
    target = load_behaviour(path).targets.get(evalset)
    if target is None:
        raise InputError(f"{path} has no target for {evalset!r}: add one under targets")
    if unknown := [label for label in (target.label, *target.opposite) if label not in labels]:
        kind = unknown[0].partition("/")[0] + "/"
        near = ", ".join([label for label in labels if label.startswith(kind)] or labels)
        raise InputError(
            f"{path}: {unknown[0]!r} under targets is no label of {evalset!r}: take one of {near}"
        )
    return target
