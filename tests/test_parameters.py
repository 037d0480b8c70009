"""`python -m pipeline params`: every key with its value, what is allowed and its meaning."""

from typing import Literal

import pytest
from pydantic import BaseModel, Field
from ruamel.yaml import YAML

from pipeline.app.parameters import PROVENANCE, allowed, main, parameters
from pipeline.study.behaviours import Behaviour
from pipeline.study.params import Params, load_params
from pipeline.study.store import flatten
from pipeline.support.errors import InputError
from pipeline.support.section import Section
from tests.conftest import ROOT


@pytest.fixture
def rows(monkeypatch) -> dict:
    monkeypatch.chdir(ROOT)
    content = YAML(typ="safe").load(ROOT / "params.yaml")
    return {row.key: row for row in parameters(load_params(), content)}


def every_section(kind: type[Section] = Section) -> set[type[Section]]:
    return {kind}.union(*map(every_section, kind.__subclasses__()))


def test_every_field_of_every_section_has_a_meaning():
    kinds = {kind for kind in every_section() if kind.__module__.startswith("pipeline.")}
    assert {Params, Behaviour} < kinds
    assert len(kinds) > 20
    fields = {
        f"{kind.__name__}.{name}": field.description
        for kind in kinds
        for name, field in kind.model_fields.items()
    }
    assert [name for name, meaning in fields.items() if not meaning] == []


def test_every_key_of_the_file_is_listed_with_its_value(rows):
    content = YAML(typ="safe").load(ROOT / "params.yaml")
    for key, value in flatten(content):
        # template_options are one value; {of: id} names the section that a loss overrides.
        whole, _, part = key.partition(".template_options.")
        row = rows[f"{whole}.template_options" if part else key.removesuffix(".of")]
        assert row.meaning, key
        if part:
            assert row.value[part] == value
        elif not key.endswith(".of"):
            assert row.value == value, key
    assert {"training.epochs", "steering.innerpissa_nocoherence.loss.coherence_weight"} <= set(rows)


def test_every_default_says_where_it_comes_from(rows):
    """Nothing is written of keys that the file does not have."""
    assert set(PROVENANCE) <= set(rows)
    assert "kindness" in rows["training.loss_depth"].provenance
    assert "2026-11-24" in rows["steering.lora.lr"].provenance
    assert rows["training.weight_decay"].provenance == "not tuned"
    assert rows["steering.innerpissa_norotation.rotate"].provenance == "what this variant changes"
    assert all(row.provenance for row in rows.values() if row.allowed)


class Example(BaseModel):
    share: float | None = Field(gt=0, le=1)
    kind: Literal["a", "b"] = "b"
    names: list[str]
    count: int = Field(ge=2)
    on: bool


def test_what_is_allowed_is_said_in_words():
    schemas = Example.model_json_schema()["properties"]
    assert {name: allowed(schema) for name, schema in schemas.items()} == {
        "share": "number, above 0, at most 1 or null",
        "kind": "a, b, default b",
        "names": "list of text",
        "count": "integer, at least 2",
        "on": "true or false",
    }


def test_a_prefix_chooses_and_lines_are_short(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    main("training.")
    shown = " ".join(capsys.readouterr().out.split())
    assert "training.epochs" in shown
    assert "[integer, at least 1]" in shown
    assert "Default: AntiPaSTO's published value." in shown
    assert "Default: not tuned." in shown
    assert "rank" not in shown
    main()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
    with pytest.raises(InputError, match="no key that begins with 'trainign': there are model"):
        main("trainign")
