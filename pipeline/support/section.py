"""A section of a YAML file as a typed object, and what is wrong with one in a single sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.support.errors import InputError


class Section(BaseModel):
    """Frozen; refuses unknown keys, nan and inf; the text below a field is its meaning."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


AnySection = TypeVar("AnySection", bound=Section)
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every generator here takes
NEXT = "correct it there, `python -m pipeline params` says what each field means"


def read_yaml(path: Path | str) -> Any:
    """Read YAML 1.2 as DVC does; PyYAML takes the `1e-05` that `-S lr=1e-5` writes for a string."""
    try:
        return YAML(typ="safe").load(Path(path))
    except FileNotFoundError:
        said = f"{path} does not exist: run from the project's root, or create it"
        raise InputError(said) from None
    except (YAMLError, OSError) as error:
        said = f"{path} cannot be read as YAML: {' '.join(str(error).split())}: correct it"
        raise InputError(said) from None


def parse(kind: type[AnySection], content: Any, path: Path | str) -> AnySection:
    """Return the content of a file as its type, or refuse it in one sentence."""
    try:
        made = kind.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {sentence(error, content)}") from None
    if where := next(truths(content, made), None):
        raise InputError(f"{path}: {where}: true and false are no numbers: {NEXT}")
    return made


def truths(content: Any, made: Any, place: str = "") -> Iterator[str]:
    """Yield where content says true or false and a number was made of it, as pydantic does."""
    if isinstance(content, bool) and type(made) in (int, float):
        yield place.removeprefix(".")
    entries = content.items() if isinstance(content, dict) else ()
    for key, value in enumerate(content) if isinstance(content, list) else entries:
        try:
            own = getattr(made, str(key)) if isinstance(made, Section) else made[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            continue
        yield from truths(value, own, f"{place}.{key}")


def sentence(error: ValidationError, content: Any) -> str:
    """Say where the first error of `content` is, what is wrong there, and what to do."""
    first = error.errors()[0]
    said = " ".join(first["msg"].removeprefix("Value error, ").split())
    if not isinstance(first["input"], dict | Section):
        said += f" (found {first['input']!r})"
    if first["type"] == "list_type" and first["input"] is not None:
        key = place(first, content)
        said += f": write [{first['input']}], in a command -S '{key}=[{first['input']}]'"
    elif "error" not in first.get("ctx", {}):  # pydantic's own words, which name no next step
        said += f": {NEXT}"
    return f"{place(first, content) or 'the file'}: {said}"


def place(error: Any, content: Any) -> str:
    """Return the dotted path of an error; pydantic's tags of unions and keys are no part of it."""
    parts = []
    for depth, part in enumerate(error["loc"]):
        lacking = error["type"] == "missing" and depth == len(error["loc"]) - 1
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            if not lacking:
                continue
        parts.append(str(part))
    return ".".join(parts)
