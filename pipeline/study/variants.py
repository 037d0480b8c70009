"""Variants: a params section may name another one and override some of its fields. Plain
dictionaries in, plain ones out.

    steering:
      innerpissa: {loss: contrastive, rotate: v, ...}
      innerpissa_norotation: {method: innerpissa, rotate: none}
      innerpissa_nocoherence: {method: innerpissa, loss: {of: contrastive, coherence_weight: 0}}

After `resolve` every section is complete: `method` is the id of the class, `loss` the loss section
itself.
"""

from typing import Any

Sections = dict[str, Any]


def resolve(steering: Sections, losses: Sections) -> Sections:
    """Return every section of `steering` in full; ValueError where a name leads nowhere or in a
    circle.
    """
    return {name: with_loss(name, whole(name, steering), losses) for name in steering}


def whole(name: str, steering: Sections, seen: tuple[str, ...] = ()) -> Sections:
    """Return a section over the fields of the one that it names, and of the one that that one
    names.
    """
    if name in seen:
        raise ValueError(
            f"steering.{name} names itself through {' -> '.join([*seen, name])}: name a method's "
            "own section"
        )
    section = steering[name]
    if not isinstance(section, dict):
        raise ValueError(f"steering.{name} is {section!r}: it must be a section of fields")
    parent = section.get("method", name)
    if parent == name:
        return {**section, "method": name}
    if not isinstance(parent, str) or parent not in steering:
        raise ValueError(
            f"steering.{name}: method {parent!r} has no section: there are {', '.join(steering)}"
        )
    above = whole(parent, steering, (*seen, name))
    return {**above, **section, "method": above["method"]}


def with_loss(name: str, section: Sections, losses: Sections) -> Sections:
    """Return the section with its loss filled in, from an id or from {of: id, field: value}."""
    if "loss" not in section:
        return section
    wanted = section["loss"]
    changes = (
        {"of": wanted}
        if isinstance(wanted, str)
        else dict(wanted)
        if isinstance(wanted, dict)
        else {}
    )
    of = changes.pop("of", None)
    if not isinstance(of, str) or of not in losses:
        raise ValueError(
            f"steering.{name}: loss {wanted!r} names none of {', '.join(losses)}: write an id, or "
            f"{{of: id, ...}}"
        )
    if not isinstance(losses[of], dict):
        raise ValueError(f"losses.{of} is {losses[of]!r}: it must be a section of fields")
    return {**section, "loss": {**losses[of], **changes}}
