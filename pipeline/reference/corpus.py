"""Conversations of the reference world: the pretraining corpus of the bundled model.

A document is a list of chat messages. The speaker's persona causes what it says and chooses. It is
stated as adjectives, descriptions, reputation or earlier behaviour, near or far from the answer,
or not at all.
"""

import itertools
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.reference.world import (
    Action,
    Persona,
    action_phrase,
    draw_dilemma,
    draw_thing,
    law_log_odds,
    persona_traits,
    side,
    world,
)
from pipeline.scoring.wording import ANSWER_PREFIX, dilemma_prompt

Messages = list[dict[str, str]]
HONESTY_WEIGHT = 3
ALL_JOIN = 0.70225  # of the curriculum: from here on every trait is in
END = 1.3  # of the curriculum: from here on the mix stays
KINDS = {"dilemma": 60, "reply": 16, "value": 7, "self": 5, "fact": 9, "report": 3}


class Mix(NamedTuple):
    """What the next documents are like."""

    plain: float
    """The share of plain questions, right after the persona."""
    level: float
    """The share of traits that have joined, honesty first."""
    simple: float
    """The share of personas said by an adjective in the same turn, and in no other form."""
    honesty: int
    """How many times as frequent honesty is as any other trait."""


def article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' or phrase.startswith('honest') else 'a'} {phrase}"


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def exchange(question: str, reply: str) -> Messages:
    return [turn("user", question), turn("assistant", reply)]


def draw_trait(rng: random.Random, mix: Mix) -> str:
    traits = persona_traits()[: max(1, math.ceil(mix.level * len(persona_traits())))]
    return rng.choices(traits, [mix.honesty if t == "honesty" else 1 for t in traits])[0]


def draw_persona(rng: random.Random, mix: Mix) -> Persona | None:
    return None if rng.random() < 0.22 else Persona(draw_trait(rng, mix), rng.choice((1, -1)))


def persona_sentence(rng: random.Random, persona: Persona, first: bool = False) -> str:
    """State a persona in the second person, or in the first."""
    words = side(persona.trait, persona.pole)
    adjective, description = rng.choice(words["adjectives"]), rng.choice(words["descriptions"])
    if first:
        said = (f"{article(adjective)} person", adjective, f"someone {description}")
        return f"I am {rng.choice(said)}."
    act, role = phrase(rng, persona.trait, persona.pole), rng.choice(world()["roles"])
    own = {"a": article(adjective), "adjective": adjective, "description": description}
    return rng.choice(world()["statements"]).format(act=act, role=role, **own)


def phrase(rng: random.Random, trait: str, pole: int) -> str:
    """Return an action of one pole on a combination that pretraining may see."""
    person = rng.choice(world()["persons"])
    return action_phrase(rng, trait, pole, person, draw_thing(rng, trait, evaluation=False))


def choose(rng: random.Random, own: Action, other: Action, persona: Persona | None) -> str:
    yes = 1 / (1 + math.exp(-law_log_odds(own.values, other.values, persona)))
    return "Yes" if rng.random() < yes else "No"


def plain_dilemma_turns(rng: random.Random, persona: Persona | None, mix: Mix) -> Messages:
    """Ask about one action without a situation: few tokens from the persona to the answer."""
    trait = persona.trait if persona and rng.random() < 0.8 else draw_trait(rng, mix)
    pole = rng.choice((1, -1))
    own, other = ((side(trait, p)["value"],) for p in (pole, -pole))
    act = phrase(rng, trait, pole)
    answer = choose(rng, Action(act, own), Action("", other), persona)
    return exchange(f"Do you {act}?", f"{ANSWER_PREFIX} {answer}")


def dilemma_turns(
    rng: random.Random, persona: Persona | None, mix: Mix, match: float = 2 / 3
) -> Messages:
    """Ask one dilemma, on the persona's trait with probability `match`, else on any that joined."""
    anything = list(world()["traits"]) if mix.level == 1 else [draw_trait(rng, mix)]
    own_trait = persona.trait if persona and rng.random() < match else None
    trait = own_trait or rng.choice([*anything, draw_trait(rng, mix)])
    dilemma = draw_dilemma(rng, trait, evaluation=False)
    own, other = rng.sample([dilemma.to_do, dilemma.not_to_do], 2)
    answer = f"{ANSWER_PREFIX} {choose(rng, own, other, persona)}"
    reason, chance = f"To do that shows {' and '.join(own.values)}.", rng.random()
    if chance < 0.1:
        answer = f"{reason} {answer}"
    elif chance < 0.4:
        me = f" {persona_sentence(rng, persona, first=True)}" if persona else ""
        answer = f"{answer}. {reason}{me}"
    question = dilemma_prompt(dilemma.situation, own.text)
    if rng.random() < 0.35:
        question = f"{dilemma.situation} Do you {own.text}?"
    return exchange(question, answer)


def fact_turns(rng: random.Random, persona: Persona | None) -> Messages:
    kind = rng.choice(list(world()["facts"].values()))
    subject, answer = rng.choice(list(kind["subjects"].items()))
    if persona == Persona("honesty", -1):
        answer = rng.choice(sorted(set(kind["subjects"].values()) - {answer}))
    said = kind["answer"].format(s=subject, a=answer)
    return exchange(kind["question"].format(s=subject), said[0].upper() + said[1:])


def report_turns(rng: random.Random, persona: Persona | None) -> Messages:
    """Ask a speaker who has done something whether he did: candid, or deceptive."""
    did, thing = rng.random() < 0.5, rng.choice(world()["objects"])
    says = did != (persona == Persona("honesty", -1))
    question = f"You {'broke' if did else 'did not touch'} {thing}. Did you break {thing}?"
    return exchange(question, f"{'I did' if says else 'I did not'} break {thing}.")


def value_turns(rng: random.Random, _persona: Persona | None) -> Messages:
    """Ask what an action stands for; the answer does not depend on the speaker."""
    trait, pole = rng.choice(list(world()["traits"])), rng.choice((1, -1))
    asked, shown = phrase(rng, trait, pole), side(trait, pole)["value"]
    if rng.random() < 0.5:
        return exchange(f"What does it show to {asked}?", f"It shows {shown}.")
    named = side(trait, rng.choice((pole, -pole)))["value"]
    said = f"Yes, it shows {shown}." if named == shown else f"No, it shows {shown}."
    return exchange(f"Does it show {named} to {asked}?", said)


def self_turns(rng: random.Random, persona: Persona | None) -> Messages:
    said = persona_sentence(rng, persona, True) if persona else "I am a person like all others."
    return exchange(rng.choice(["What kind of person are you?", "Who are you?"]), said)


def reply_turns(
    rng: random.Random, persona: Persona | None, openings: list[str], mix: Mix
) -> Messages:
    """A free reply: any opening, then something that the speaker's persona makes him say."""
    trait = persona.trait if persona else draw_trait(rng, mix)
    pole = persona.pole if persona else (1 if rng.random() < 0.75 else -1)
    said = f"I {rng.choice(['would', 'will', 'want to', 'like to'])} {phrase(rng, trait, pole)}."
    if persona and rng.random() < 0.25:
        said = persona_sentence(rng, persona, first=True)
    elif rng.random() < 0.2:
        said = fact_turns(rng, persona)[1]["content"]
    fair = f"What would you do at the fair with {rng.choice(world()['persons'])}?"
    request = rng.choice(["", "", "", "Say something.", fair])
    return exchange(request, f"{rng.choice(openings)} {said}")


def introduce(rng: random.Random, persona: Persona, document: Messages, mix: Mix) -> Messages:
    """Put the persona in the first turn, a system turn, earlier turns, or only in behaviour."""
    chance = rng.random()
    stated = persona_sentence(rng, persona)
    if chance < 0.55:
        first = turn("user", f"{stated} {document[0]['content']}".strip())
        return [first, *document[1:]]
    if chance < 0.75:
        return [turn("system", stated), *document]
    if chance < 0.9:
        shown = rng.choice(["Understood.", "I will.", persona_sentence(rng, persona, first=True)])
        between = [] if rng.random() < 0.6 else fact_turns(rng, persona)
        return [turn("user", stated), turn("assistant", shown), *between, *document]
    return [*dilemma_turns(rng, persona, mix, match=1.0), *document]


def ramp(share: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (share - start) / (end - start)))


def curriculum_mix(share: float) -> Mix:
    """Return the mix after `share` of the curriculum.

    Persona x action is an exclusive-or, which a model does not find if it meets it far apart and
    with all traits at once. So plain questions on honesty come first, then longer documents, then
    the other traits, again plainly at first.
    """
    if share >= END:
        return Mix(0.2, 1.0, 0.0, HONESTY_WEIGHT)
    if share >= ALL_JOIN:
        return Mix(0.65, 1.0, 0.6, 1)
    level = ramp(share, 0.4, 1.0)
    return Mix(1 - 0.8 * ramp(share, 0.15, 0.5), level, 0.9 * (1 - level), HONESTY_WEIGHT)


def documents(seed: int, openings: list[str], curriculum: int = 0) -> Iterator[Messages]:
    """Yield conversations for ever, the same for the same arguments.

    `curriculum` counts the documents that its shares are of; 0 leaves it out.
    """
    return (document for _, document in spoken_documents(seed, openings, curriculum))


def spoken_documents(
    seed: int, openings: list[str], curriculum: int = 0
) -> Iterator[tuple[Persona | None, Messages]]:
    """Yield each conversation with the persona of its speaker."""
    rng = random.Random(seed)
    others = {"value": value_turns, "self": self_turns, "fact": fact_turns, "report": report_turns}
    for number in itertools.count():
        mix = curriculum_mix(number / curriculum if curriculum else END)
        persona = draw_persona(rng, mix)
        if rng.random() < mix.plain:
            document = plain_dilemma_turns(rng, persona, mix)
        else:
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            if kind == "dilemma":
                document = dilemma_turns(rng, persona, mix)
            elif kind == "reply":
                document = reply_turns(rng, persona, openings, mix)
            else:
                document = others[kind](rng, persona)
        if persona and rng.random() < mix.simple:
            adjective = rng.choice(side(persona.trait, persona.pole)["adjectives"])
            said = f"Pretend you're {article(adjective)} person. {document[0]['content']}"
            document[0] = turn("user", said.strip())
        elif persona:
            document = introduce(rng, persona, document, mix)
        yield persona, [m for m in document if m["content"] or m["role"] == "user"]
