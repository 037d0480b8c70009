"""checks: what would spoil a study is found before anything is fitted -> models/checks/.

`prefix.json` says what the reply to a dilemma begins with. `elicitation.json` says how far
the personas move the model. Fits depend on `passed.json`, which never changes, so that
they run after it.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.lm.base import Base
from pipeline.lm.forward import check_length
from pipeline.lm.prompts import Message, open_turn, tokenize
from pipeline.scoring.answer_prefix import AUTO, choice_masses
from pipeline.scoring.rows import make_prompts
from pipeline.stages.base import read_base, read_controls, read_items, read_pairs
from pipeline.stages.stage import stage
from pipeline.steering.elicitation import FEW, persona_shift
from pipeline.steering.untouched import Untouched
from pipeline.support.errors import InputError
from pipeline.support.files import new_folder, read_json, write_json
from pipeline.support.paths import CHECKS, PREFIX_QUESTIONS, PROMPTS
from pipeline.support.schemas import ANSWERS
from pipeline.support.sections import GenerationParams

SHIFT_PAIRS = 64  # training pairs whose predictions are compared: some thousand tokens


def main() -> None:
    with stage("checks") as (params, run):
        base = read_base(params, scores=True, prefix="")
        run.usage.watch(base.model)
        settings, frame = params.models[params.model], read_pairs()
        texts = [frame["positive"].to_list(), frame["negative"].to_list()]
        items = [*read_items().to_dicts(), *read_controls().to_dicts()]
        check_lengths(base, texts[0] + texts[1], items, params.generation, params.scoring.forms)
        entries = read_json(PREFIX_QUESTIONS)
        masses = choice_masses(base, entries, settings.answer_prefix, params.scoring.reuse)
        prefix, mass = next(iter(masses.items()))
        if ANSWERS in params.scoring.forms:
            judge_mass(params.model, settings.answer_prefix, prefix, mass, params)
        some = frame.filter(split="train").head(SHIFT_PAIRS)
        shift = persona_shift(base, some["positive"].to_list(), some["negative"].to_list())
        judge_shift(shift)
        run.log({"choice_mass_of_prefix": mass, "persona_shift": shift})
        with new_folder(CHECKS) as new:
            write_json(new / "prefix.json", {"prefix": prefix, "choice_mass": masses})
            write_json(new / "elicitation.json", {"persona_shift": shift, "few": FEW})
            write_json(new / "passed.json", {"passed": ["lengths", "choice mass", "personas"]})
            run.record(new)


def check_lengths(
    base: Base,
    texts: list[str],
    items: list[dict[str, Any]],
    generation: GenerationParams,
    forms: Sequence[str],
) -> None:
    """Refuse pairs, items and open prompts, with replies, that need more positions than there are.

    What a persona in the prompt adds is known to its method alone, whose scoring refuses it.
    """
    lengths = [*map(len, tokenize(base.tokenizer, texts))]
    for form in forms:
        prompts = make_prompts(base, items, Untouched(), [0.0], form=form)
        lengths += [len(prompt.ids) + generation.reasoning_tokens for prompt in prompts]
    if generation.coherence_tokens:
        asked = read_json(PROMPTS / f"{generation.coherence_prompts}.json")
        chats: list[list[Message]] = [[{"role": "user", "content": text}] for text in asked]
        opened = [open_turn(base.tokenizer, chat, base.options) for chat in chats]
        ids = tokenize(base.tokenizer, opened)
        lengths += [len(row) + generation.coherence_tokens for row in ids]
    check_length(base.model, max(lengths))


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


def judge_shift(shift: float) -> None:
    print(f"the personas move the model's predictions by {shift:.3f} nats per token")
    if shift < FEW:
        print(
            f"warning: that is less than {FEW}, so there is little to learn from the pairs: take a "
            "stronger persona in data/raw/behaviours, or a larger model"
        )
