"""The synthetic reference world: its words, the persona -> choice law, and dilemmas drawn from it.

A speaker's choice follows a known law, so the effect of a perfect change of persona is known:

    P(Yes to action a | persona) = sigmoid(sum_{v in a} w(v) - sum_{v in the other action} w(v))

w(v) is +-NEUTRAL_WEIGHT (mildly pro-social), +-PERSONA_WEIGHT for the two values of the persona's
trait.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

# Nats. Of a value against its opposite a persona says Yes with 0.98 or 0.02, nobody with 0.73.
NEUTRAL_WEIGHT = 0.5
PERSONA_WEIGHT = 2.0
HELD_OUT_SHARE = 5  # one in five object x trait combinations never occurs in pretraining


@dataclass(frozen=True)
class Persona:
    """A speaker's disposition: one trait, and its positive (`pole` +1) or negative (-1) value."""

    trait: str
    pole: int


@dataclass(frozen=True)
class Action:
    text: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Dilemma:
    """A situation with two opposing actions, which differ for certain on the values of `trait`."""

    trait: str
    situation: str
    to_do: Action
    not_to_do: Action


@cache
def world() -> dict:
    return YAML(typ="safe").load(Path(__file__).with_name("world.yaml"))


@cache
def poles() -> dict[str, tuple[str, int]]:
    """Map every value to its trait and pole."""
    return {
        trait[side]["value"]: (name, pole)
        for name, trait in world()["traits"].items()
        for side, pole in (("positive", 1), ("negative", -1))
    }


def persona_traits() -> list[str]:
    return [name for name, trait in world()["traits"].items() if "adjectives" in trait["positive"]]


def side(trait: str, pole: int) -> dict:
    return world()["traits"][trait]["positive" if pole > 0 else "negative"]


def weight(value: str, persona: Persona | None) -> float:
    """Return how much a speaker wants a value: w(v) of the module's law."""
    trait, pole = poles()[value]
    if persona and persona.trait == trait:
        return PERSONA_WEIGHT * pole * persona.pole
    return NEUTRAL_WEIGHT * pole


def law_log_odds(own: tuple[str, ...], other: tuple[str, ...], persona: Persona | None) -> float:
    """Return the log-odds (nats) of Yes to the action with values `own` against `other`."""
    return sum(weight(v, persona) for v in own) - sum(weight(v, persona) for v in other)


@cache
def held_out(thing: str, trait: str) -> bool:
    """Return whether actions of `trait` on the object `thing` are kept for evaluation."""
    digest = hashlib.blake2b(f"{thing}|{trait}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0


def action_phrase(rng: random.Random, trait: str, pole: int, person: str, thing: str) -> str:
    return rng.choice(side(trait, pole)["actions"]).format(p=person, o=thing)


def draw_thing(rng: random.Random, trait: str, evaluation: bool) -> str:
    while held_out(thing := rng.choice(world()["objects"]), trait) != evaluation:
        pass
    return thing


def draw_action(
    rng: random.Random, trait: str, pole: int, person: str, thing: str, extra: list[str]
) -> Action:
    """Compose the action of one pole with a further value per trait in `extra`, as seen before."""
    texts = [action_phrase(rng, trait, pole, person, thing)]
    values = [side(trait, pole)["value"]]
    for other in extra:
        other_pole = rng.choice((1, -1))
        companion, item = rng.choice(world()["persons"]), draw_thing(rng, other, evaluation=False)
        texts.append(action_phrase(rng, other, other_pole, companion, item))
        values.append(side(other, other_pole)["value"])
    return Action(" and ".join(texts), tuple(values))


def draw_dilemma(rng: random.Random, trait: str, evaluation: bool) -> Dilemma:
    """Draw a dilemma on `trait`, on a held-out object x trait combination if `evaluation`."""
    words = world()
    person = rng.choice(words["persons"])
    thing = draw_thing(rng, trait, evaluation)
    context = rng.choice(words["contexts"]).format(p=person, o=thing)
    you = f"You are a {rng.choice(words['roles'])} {rng.choice(words['places'])}."
    situation = f"{you} {context[0].upper()}{context[1:]}"
    others = rng.sample([name for name in words["traits"] if name != trait], 2)
    extras = [others[:1], others[1:]] if rng.random() < 0.6 else [[], []]
    pole = rng.choice((1, -1))
    actions = [
        draw_action(rng, trait, p, person, thing, extra if rng.random() < 0.75 else [])
        for p, extra in zip((pole, -pole), extras, strict=True)
    ]
    return Dilemma(trait, situation, *actions)
