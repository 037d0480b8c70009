"""Variants: a section may name another one and override some of its fields. Plain dictionaries.

    losses:
      contrastive: {form: raw, ...}
    steering:
      innerpissa: {loss: contrastive, rotate: v, ...}
      innerpissa_norotation: {method: innerpissa, rotate: none}
      innerpissa_nocoherence: {method: innerpissa, loss: {of: contrastive, coherence_weight: 0}}

After `resolve` every section is complete: `method` is the id of the class, `loss` a loss section,
and `of` says which loss that is. ValueError where a name leads nowhere or in a circle.
"""

from collections.abc import Sequence
from typing import Any

Sections = dict[str, Any]


def resolve(data: Sections, kinds: Sequence[str], methods: Sequence[str]) -> Sections:
    """Return params.yaml with all sections in full; `kinds` are losses, `methods` the methods."""
    losses, steering = data.get("losses"), data.get("steering")
    if not isinstance(losses, dict):
        return {**data, "steering": {}}  # one error at a time
    losses = complete(losses, "losses", "of", kinds)
    if isinstance(steering, dict):
        steering = complete(steering, "steering", "method", methods)
        for name, section in steering.items():
            if "loss" in section:
                section["loss"] = with_changes(name, section["loss"], losses)
    return {**data, "losses": losses, "steering": steering}


def complete(sections: Sections, place: str, key: str, known: Sequence[str]) -> Sections:
    """Return all sections of a place in full; refuse one of a kind that there is not."""
    full = {name: whole(name, sections, place, key) for name in sections}
    for name, section in full.items():
        if section[key] not in known:
            said = f"{name!r} is unknown here"
            raise ValueError(f"{said}: name one of {', '.join(known)} as its {key}")
    return full


def whole(
    name: str, sections: Sections, place: str, key: str, seen: tuple[str, ...] = ()
) -> Sections:
    """Return a section over the fields of the one that its `key` names, and so on upwards."""
    if name in seen:
        chain = " -> ".join([*seen, name])
        raise ValueError(f"{place}.{name} names itself through {chain}: name a section of its own")
    section = sections[name]
    if not isinstance(section, dict):
        raise ValueError(f"{place}.{name} is {section!r}: it must be a section of fields")
    parent = section.get(key, name)
    if parent == name:
        return {**section, key: name}
    if not isinstance(parent, str) or parent not in sections:
        known = ", ".join(n for n, s in sections.items() if isinstance(s, dict) and key not in s)
        said = f"{place}.{name}: {key} {parent!r} has no section"
        raise ValueError(f"{said}: name a variant, or one of {known}")
    above = whole(parent, sections, place, key, (*seen, name))
    return {**above, **section, key: above[key]}


def with_changes(name: str, wanted: Any, losses: Sections) -> Sections:
    """Return the loss section that an id or {of: id, field: value} means."""
    changes = {"of": wanted} if isinstance(wanted, str) else wanted
    parent = changes.get("of") if isinstance(changes, dict) else None
    if not isinstance(parent, str) or parent not in losses:
        said = f"steering.{name}: loss {wanted!r} names none of {', '.join(losses)}"
        raise ValueError(f"{said}: write an id, or {{of: id, ...}}")
    return {**losses[parent], **changes, "of": losses[parent]["of"]}
