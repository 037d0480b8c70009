"""checks: what would spoil a study is found before anything is fitted -> models/checks/.

`prefix.json` says what the reply to a dilemma begins with. `elicitation.json` says how far
the personas move the model. `rollouts.json` holds what it writes to open prompts, on which
doses are measured, and `probes.json` how the personas answer. Fits depend on these two, and so
run after the checks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.lm.base import Base, open_turns
from pipeline.lm.forward import check_length
from pipeline.lm.prompts import tokenize, user_chat
from pipeline.scoring.answer_prefix import AUTO, choice_masses
from pipeline.scoring.rows import make_prompts
from pipeline.scoring.writing import write
from pipeline.stages.base import read_base, read_controls, read_items, read_pairs
from pipeline.stages.stage import stage
from pipeline.steering.elicitation import FEW, persona_shift
from pipeline.steering.rollouts import Rollouts
from pipeline.steering.sign import SURE, Asked
from pipeline.steering.untouched import Untouched
from pipeline.study.behaviours import Behaviour, load_behaviour
from pipeline.study.probes import ask
from pipeline.support.errors import InputError
from pipeline.support.files import new_folder, read_json, write_json
from pipeline.support.paths import CHECKS, PREFIX_QUESTIONS, ROLLOUTS, behaviour_file, prompts_file
from pipeline.support.schemas import ANSWERS

SHIFT_PAIRS = 64  # training pairs whose predictions are compared: some thousand tokens


def main() -> None:
    with stage("checks") as (params, run):
        base = read_base(params, scores=True, prefix="")
        run.usage.watch(base.model)
        settings, frame = params.models[params.model], read_pairs()
        items = [*read_items().to_dicts(), *read_controls().to_dicts()]
        prompts = read_json(prompts_file(settings.prompts))
        behaviour = load_behaviour(behaviour_file(params.behaviour))
        forms, reasoning = params.scoring.forms, params.generation.reasoning_tokens
        texts = [*frame["positive"], *frame["negative"]]
        written = max(params.dose.tokens, params.generation.coherence_tokens)
        check_lengths(base, texts, items, prompts, forms, reasoning, written)
        warn_of_words(base, behaviour, items, forms, reasoning)
        entries = read_json(PREFIX_QUESTIONS)
        masses = choice_masses(base, entries, settings.answer_prefix, params.scoring.reuse)
        prefix, mass = next(iter(masses.items()))
        if ANSWERS in forms:
            judge_mass(params.model, settings.answer_prefix, prefix, mass, params)
        base = replace(base, answer_prefix=prefix)
        asked = ask(base, behaviour, params.behaviour, params.model)
        judge_probes(asked)
        some = frame.filter(split="train").head(SHIFT_PAIRS)
        shift = persona_shift(base, some["positive"].to_list(), some["negative"].to_list())
        judge_shift(shift)
        replies = rollouts(base, prompts, params.dose.tokens)
        run.log({"choice_mass_of_prefix": mass, "persona_shift": shift})
        with new_folder(CHECKS) as new:
            write_json(new / "prefix.json", {"prefix": prefix, "choice_mass": masses})
            write_json(new / "elicitation.json", {"persona_shift": shift, "few": FEW})
            replies.write(new / ROLLOUTS.name)
            write_json(new / "probes.json", asked._asdict() if asked else None)
            run.record(new)


def check_lengths(
    base: Base, texts: list[str], items: list[dict[str, Any]], asked: list[str],
    forms: Sequence[str], reasoning: int, written: int,
) -> None:  # fmt: skip
    """Refuse pairs, items and open prompts, with replies, that need more positions than there are.

    What prompting adds is only warned of, since the study may go without it.
    """
    lengths = [*map(len, tokenize(base.tokenizer, texts)), longest(base, items, forms) + reasoning]
    opened = tokenize(base.tokenizer, open_turns(base, map(user_chat, asked)))
    lengths += [len(ids) + written for ids in opened]
    check_length(base.model, max(lengths))


def longest(base: Base, items: list[dict[str, Any]], forms: Sequence[str]) -> int:
    """Return the tokens of the longest text that scoring runs, at c = 0."""
    made = [make_prompts(base, items, Untouched(), [0.0], form=form) for form in forms]
    return max(len(prompt.ids) for prompts in made for prompt in prompts)


def warn_of_words(
    base: Base, behaviour: Behaviour, items: list[dict[str, Any]], forms: Sequence[str], more: int
) -> None:
    """Say before any fit where the words of prompting leave an item no room."""
    long = behaviour.engineered
    said = {"persona": behaviour.sentences()[0]}
    said |= {"engineered": (long.positive, long.negative)} if long else {}
    for wording, words in said.items():
        longer = [item | {"prompt": f"{one} {item['prompt']}"} for one in words for item in items]
        try:
            check_length(base.model, longest(base, longer, forms) + more)
        except InputError as error:
            print(f"warning: prompting with wording: {wording} will be refused: {error}")


def rollouts(base: Base, prompts: list[str], count: int) -> Rollouts:
    """Return the base model's greedy replies of up to `count` tokens."""
    opened = open_turns(base, map(user_chat, prompts))
    written = write(base, opened, [0.0] * len(opened), Untouched(), count, "rollouts")
    return Rollouts(prompts, [one.ids for one in written], base.options)


def judge_mass(model: str, asked: str, prefix: str, mass: float, params: Any) -> None:
    """Refuse the best of all candidates, and warn of a prefix that the user chose, if it is low."""
    least = params.statistics.min_choice_mass
    said = (
        f"{model} gives Yes and No a probability of {mass:.2f} after {prefix!r}, and "
        f"statistics.min_choice_mass is {least}"
    )
    if mass >= least:
        print(f"{model} answers after {prefix!r}: Yes and No have a probability of {mass:.2f}")
    elif asked == AUTO:
        raise InputError(
            f"{said}: take another model, lower it, or name the prefix in "
            f"models.{model}.answer_prefix, which is only warned of"
        )
    else:
        print(f"warning: {said}: its scores say little; models.{model}.answer_prefix auto may help")


def judge_probes(asked: Asked | None) -> None:
    """Say before any fit whether the probes can decide a sign."""
    if asked is None:
        print("warning: the behaviour has no probes, so that no sign will be decided: write some")
        return
    right = f"{sum(asked.counts)} of {len(asked.counts)} probes"
    print(f"the personas answer {right} as named (t = {asked.t:.1f})")
    if not asked.t >= SURE:
        print(
            "warning: they do not move the probes as named, so that no sign will be decided: take "
            "a stronger persona, more probes or a larger model"
        )


def judge_shift(shift: float) -> None:
    print(f"the personas move the model's predictions by {shift:.3f} nats per token")
    if shift < FEW:
        print(
            f"warning: that is less than {FEW}, so there is little to learn from the pairs: take a "
            "stronger persona in data/raw/behaviours, or a larger model"
        )
