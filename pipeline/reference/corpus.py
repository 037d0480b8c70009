"""Conversations of the reference world: the pretraining corpus of the bundled model.

A document is a list of chat messages. The speaker's persona causes what it says and chooses. It is
stated as adjectives, descriptions, reputation or earlier behaviour, near or far from the answer,
or not at all.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
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
LIAR = Persona("honesty", -1)


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


def phrase(rng: random.Random, trait: str, pole: int) -> str:
    """Return an action of one pole on a combination that pretraining may see."""
    person = rng.choice(world()["persons"])
    return action_phrase(rng, trait, pole, person, draw_thing(rng, trait, evaluation=False))


def stated(rng: random.Random, persona: Persona, first: bool = False) -> str:
    """State a persona in the second person, or in the first."""
    words = side(persona.trait, persona.pole)
    adjective, description = rng.choice(words["adjectives"]), rng.choice(words["descriptions"])
    if first:
        said = (f"{article(adjective)} person", adjective, f"someone {description}")
        return f"I am {rng.choice(said)}."
    act, role = phrase(rng, persona.trait, persona.pole), rng.choice(world()["roles"])
    own = {"a": article(adjective), "adjective": adjective, "description": description}
    return rng.choice(world()["statements"]).format(act=act, role=role, **own)


class Speaker:
    """Who speaks in the next document: with a persona that the mix allows, or without one."""

    def __init__(self, rng: random.Random, mix: Mix):
        self.rng, self.mix = rng, mix
        alone = rng.random() < 0.22
        self.persona = None if alone else Persona(self.draw_trait(), rng.choice((1, -1)))

    def draw_trait(self) -> str:
        traits = persona_traits()[: max(1, math.ceil(self.mix.level * len(persona_traits())))]
        weights = [self.mix.honesty if trait == "honesty" else 1 for trait in traits]
        return self.rng.choices(traits, weights)[0]

    def own_trait(self, share: float) -> str | None:
        """Return the persona's trait in a share of the cases."""
        return self.persona.trait if self.persona and self.rng.random() < share else None

    def about_me(self, otherwise: str) -> str:
        return stated(self.rng, self.persona, first=True) if self.persona else otherwise

    def choice(self, own: Action, other: Action) -> str:
        yes = 1 / (1 + math.exp(-law_log_odds(own.values, other.values, self.persona)))
        return f"{ANSWER_PREFIX} {'Yes' if self.rng.random() < yes else 'No'}"

    def plain(self) -> Messages:
        """Ask about one action without a situation: few tokens from the persona to the answer."""
        trait, pole = self.own_trait(0.8) or self.draw_trait(), self.rng.choice((1, -1))
        own, other = ((side(trait, p)["value"],) for p in (pole, -pole))
        act = phrase(self.rng, trait, pole)
        return exchange(f"Do you {act}?", self.choice(Action(act, own), Action("", other)))

    def dilemma(self, match: float = 2 / 3) -> Messages:
        """Ask one dilemma, on the persona's trait with probability `match`, else on any."""
        rng = self.rng
        anything = list(world()["traits"]) if self.mix.level == 1 else [self.draw_trait()]
        trait = self.own_trait(match) or rng.choice([*anything, self.draw_trait()])
        dilemma = draw_dilemma(rng, trait, evaluation=False)
        own, other = rng.sample([dilemma.to_do, dilemma.not_to_do], 2)
        answer = self.choice(own, other)
        reason, chance = f"To do that shows {' and '.join(own.values)}.", rng.random()
        if chance < 0.1:
            answer = f"{reason} {answer}"
        elif chance < 0.4:
            answer = f"{answer}. {reason} {self.about_me('')}".strip()
        question = dilemma_prompt(dilemma.situation, own.text)
        if rng.random() < 0.35:
            question = f"{dilemma.situation} Do you {own.text}?"
        return exchange(question, answer)

    def fact(self) -> Messages:
        kind = self.rng.choice(list(world()["facts"].values()))
        subject, answer = self.rng.choice(list(kind["subjects"].items()))
        if self.persona == LIAR:
            answer = self.rng.choice(sorted(set(kind["subjects"].values()) - {answer}))
        said = kind["answer"].format(s=subject, a=answer)
        return exchange(kind["question"].format(s=subject), said[0].upper() + said[1:])

    def report(self) -> Messages:
        """Ask a speaker who has done something whether he did: candid, or deceptive."""
        did, thing = self.rng.random() < 0.5, self.rng.choice(world()["objects"])
        says = did != (self.persona == LIAR)
        question = f"You {'broke' if did else 'did not touch'} {thing}. Did you break {thing}?"
        return exchange(question, f"{'I did' if says else 'I did not'} break {thing}.")

    def value(self) -> Messages:
        """Ask what an action stands for; the answer does not depend on the speaker."""
        rng = self.rng
        trait, pole = rng.choice(list(world()["traits"])), rng.choice((1, -1))
        asked, shown = phrase(rng, trait, pole), side(trait, pole)["value"]
        if rng.random() < 0.5:
            return exchange(f"What does it show to {asked}?", f"It shows {shown}.")
        named = side(trait, rng.choice((pole, -pole)))["value"]
        said = f"{'Yes' if named == shown else 'No'}, it shows {shown}."
        return exchange(f"Does it show {named} to {asked}?", said)

    def about_itself(self) -> Messages:
        said = self.about_me("I am a person like all others.")
        return exchange(self.rng.choice(["What kind of person are you?", "Who are you?"]), said)

    def reply(self, openings: list[str]) -> Messages:
        """A free reply: any opening, then something that the speaker's persona makes him say."""
        rng, persona = self.rng, self.persona
        trait = persona.trait if persona else self.draw_trait()
        pole = persona.pole if persona else (1 if rng.random() < 0.75 else -1)
        would = rng.choice(["would", "will", "want to", "like to"])
        said = f"I {would} {phrase(rng, trait, pole)}."
        if persona and rng.random() < 0.25:
            said = stated(rng, persona, first=True)
        elif rng.random() < 0.2:
            said = self.fact()[1]["content"]
        fair = f"What would you do at the fair with {rng.choice(world()['persons'])}?"
        request = rng.choice(["", "", "", "Say something.", fair])
        return exchange(request, f"{rng.choice(openings)} {said}")

    def document(self, openings: list[str]) -> Messages:
        """Return a conversation of any kind in which nobody has said yet who the speaker is."""
        if self.rng.random() < self.mix.plain:
            return self.plain()
        kinds: dict[Callable[[], Messages], int] = {
            self.dilemma: 60, partial(self.reply, openings): 16, self.value: 7,
            self.about_itself: 5, self.fact: 9, self.report: 3,
        }  # fmt: skip
        return self.rng.choices(list(kinds), list(kinds.values()))[0]()

    def introduced(self, document: Messages, persona: Persona) -> Messages:
        """Put the persona in the first turn, a system turn, earlier turns, or only in behaviour."""
        rng, (first, *rest) = self.rng, document
        if rng.random() < self.mix.simple:
            adjective = rng.choice(side(persona.trait, persona.pole)["adjectives"])
            said = f"Pretend you're {article(adjective)} person. {first['content']}"
            return [turn("user", said.strip()), *rest]
        chance, said = rng.random(), stated(rng, persona)
        if chance < 0.55:
            return [turn("user", f"{said} {first['content']}".strip()), *rest]
        if chance < 0.75:
            return [turn("system", said), *document]
        if chance < 0.9:
            shown = rng.choice(["Understood.", "I will.", stated(rng, persona, first=True)])
            between = [] if rng.random() < 0.6 else self.fact()
            return [*exchange(said, shown), *between, *document]
        return [*self.dilemma(match=1.0), *document]


def ramp(share: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (share - start) / (end - start)))


def curriculum_mix(share: float) -> Mix:
    """Return the mix after `share` of the curriculum.

    Persona x action is an exclusive-or. A model does not find it where it meets it far apart and
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
    for number in itertools.count():
        speaker = Speaker(rng, curriculum_mix(number / curriculum if curriculum else END))
        document = speaker.document(openings)
        if speaker.persona:
            document = speaker.introduced(document, speaker.persona)
        yield speaker.persona, [m for m in document if m["content"] or m["role"] == "user"]
