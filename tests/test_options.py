"""Every option of a method or a loss is reached by some section of params.yaml."""

from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from pipeline.steering import METHODS
from pipeline.steering.training.params import LossParams
from pipeline.study.params import load_params
from tests.conftest import ROOT

SECTIONS = load_params(ROOT / "params.yaml").steering.values()
LOSSES = get_args(get_args(LossParams)[0])
KINDS = [*dict.fromkeys(method.section for method in METHODS.values()), *LOSSES]


def literals(annotation: Any) -> set:
    """Return the options that an annotation lists, at any depth; booleans are options too."""
    if annotation is bool:
        return {False, True}
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return set().union(*map(literals, get_args(annotation)))


OPTIONS = [
    (kind, name, option)
    for kind in KINDS
    for name, field in kind.model_fields.items()
    for option in sorted(literals(field.annotation), key=str)
    if not (isinstance(option, BaseModel) or name == "loss")
]


def test_options_are_found():
    assert {kind for kind, *_ in OPTIONS} >= set(LOSSES)
    assert len(OPTIONS) > 40


@pytest.mark.parametrize(("kind", "name", "option"), OPTIONS)
def test_a_section_reaches_every_option(kind, name, option):
    owners = [
        own
        for section in SECTIONS
        for own in (section, getattr(section, "loss", None))
        if isinstance(own, kind)
    ]
    reached = [getattr(own, name) for own in owners]
    assert any(option in value if isinstance(value, list) else option == value for value in reached)
