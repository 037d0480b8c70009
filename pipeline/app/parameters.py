"""`python -m pipeline params`: every key of params.yaml, its value, the allowed, its meaning."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.study.params import load_params
from pipeline.support.errors import InputError
from pipeline.support.section import Section, read_yaml

WIDTH, INDENT = 100, " " * 4
PROVENANCE: dict[str, str] = read_yaml(Path(__file__).with_name("provenance.yaml"))
NOT_TUNED, OWN = "not tuned", "what this variant changes"
BOUNDS = {
    "minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most",
    "exclusiveMaximum": "below", "minLength": "length at least", "pattern": "of the form",
    "default": "default",
}  # fmt: skip
TYPES = {
    "null": "null", "boolean": "true or false", "integer": "integer", "number": "number",
    "string": "text", "object": "mapping",
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    key: str
    value: Any
    """As it stands in the file."""
    allowed: str
    """Empty for a section, which has no value of its own."""
    meaning: str
    provenance: str = ""
    """Where its default comes from; empty for a section."""


def parameters(section: Section, content: dict[str, Any], prefix: str = "") -> Iterator[Parameter]:
    """Yield the parameters of a section as the file's `content` writes it, those below included."""
    schemas = type(section).model_json_schema()["properties"]
    for name, field in type(section).model_fields.items():
        if name not in content:
            continue
        key, meaning = f"{prefix}{name}", " ".join((field.description or "").split())
        below = sections_of(getattr(section, name), content[name], f"{key}.")
        if below:
            yield Parameter(key, None, "", meaning)
            for start, (inner, own) in below.items():
                yield from parameters(inner, own, start)
        else:
            variant = "method" in content or "of" in content
            origin = OWN if variant else PROVENANCE.get(key, NOT_TUNED)
            yield Parameter(key, content[name], allowed(schemas[name]), meaning, origin)


def sections_of(value: Any, content: Any, prefix: str) -> dict[str, tuple[Section, dict]]:
    """Return the sections that a field holds, itself or by id, with their prefixes and contents."""
    if not isinstance(content, dict):
        return {}
    if isinstance(value, Section):
        return {prefix: (value, content)}
    below = {name: one for name, one in value.items() if isinstance(one, Section)}
    return {f"{prefix}{name}.": (one, content[name]) for name, one in below.items()}


def allowed(schema: dict[str, Any]) -> str:
    """Say in words what a JSON schema takes."""
    kinds = schema.get("anyOf") or schema.get("oneOf") or []
    if "enum" in schema or "const" in schema:
        kind = ", ".join(schema.get("enum") or [schema["const"]])
    elif kinds:
        kind = " or ".join(dict.fromkeys(map(allowed, kinds)))
    elif schema.get("type") == "array":
        kind = f"list of {allowed(schema['items'])}"
    else:
        kind = TYPES.get(schema.get("type", ""), "id or section")
    return ", ".join([kind, *(f"{BOUNDS[key]} {schema[key]}" for key in BOUNDS if key in schema)])


def lines(row: Parameter, width: int) -> list[str]:
    """Return the key padded to `width`, its value and what is allowed; below them the meaning."""
    value = f"{json.dumps(row.value, ensure_ascii=False)}  [{row.allowed}]" if row.allowed else ""
    meaning = f"{row.meaning} Default: {row.provenance}." if row.provenance else row.meaning
    first = f"{row.key:<{width}}  {value}"
    below = textwrap.wrap(meaning, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return [*textwrap.wrap(first, WIDTH, subsequent_indent=" " * (width + 2)), *below]


def main(prefix: str = "") -> None:
    rows = list(parameters(load_params(), read_yaml("params.yaml")))
    shown = [row for row in rows if row.key.startswith(prefix)]
    if not shown:
        keys = ", ".join(row.key for row in rows if "." not in row.key)
        raise InputError(f"params.yaml has no key that begins with {prefix!r}: there are {keys}")
    width = max(len(row.key) for row in shown)
    print("\n".join(line for row in shown for line in lines(row, width)))
