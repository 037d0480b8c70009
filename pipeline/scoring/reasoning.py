"""Let a steered model reason before its answer to a dilemma is read.

The assistant's turn is: opening, up to n tokens of the model's own, forced close, answer prefix.
Where the chat template knows a think block, its own tags open and close the reasoning. Elsewhere it
is plain text that begins with a given phrase and ends with a blank line. A row that closes its
reasoning itself, or gives its answer, is closed there.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from pipeline.lm.base import Base, open_turns
from pipeline.lm.prompts import THINK, user_chat
from pipeline.scoring.writing import Written, write
from pipeline.steering.base import Attachable
from pipeline.support.errors import InputError

BLANK_LINE = "\n\n"
TAGS = {"<think>": "</think>", "[THINK]": "[/THINK]"}
# What closed a row: the end of its text, its own closing words, or n.
EOS = "eos"
TAG = "tag"
LIMIT = "limit"


@dataclass(frozen=True)
class Form:
    """How reasoning opens, which words of the model's own end it, and how it is closed anyway."""

    opening: str
    ends: tuple[str, ...]
    closing: str

    def cut(self, text: str) -> str | None:
        """Return the text before the first of `ends`, or None; white space at its start is none."""
        lead = len(text) - len(text.lstrip())
        places = [place for end in self.ends if (place := text.find(end, lead)) >= 0]
        return text[: min(places)] if places else None


def reasoning_form(base: Base, prompt: str, plain: str) -> Form:
    """Return the form for a prompt that ends where the assistant's turn begins.

    The template may have opened a block there; `plain` opens the reasoning where it knows none.
    """
    template = str(base.tokenizer.get_chat_template(base.options.get("chat_template")))
    for opening, closing in TAGS.items():
        if closing not in template:
            continue
        if prompt.rstrip().endswith(closing):
            said = f"the chat template closes its {opening} block by itself"
            raise InputError(f"{said}: set its options so that the model may think")
        begun = prompt.rstrip().endswith(opening)
        return Form("" if begun else f"{opening}\n", (closing,), f"\n{closing}{BLANK_LINE}")
    said = base.answer_prefix.rstrip(" *")
    return Form(plain, (BLANK_LINE, said) if said else (BLANK_LINE,), BLANK_LINE)


def reason(
    base: Base, items: list[dict[str, Any]], steering: Attachable, coefficients: list[float],
    count: int, opening: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a record per item and coefficient: the reply before the answer prefix, and its end.

    `text` is opening, reasoning of up to `count` tokens and close. `n_tokens` counts the model's
    own, the closing ones included.
    """
    pairs = list(itertools.product(items, coefficients))
    keys = [(item["item_id"], c) for item, c in pairs]
    asked = (steering.rewrite(user_chat(item["prompt"]), c) for item, c in pairs)
    prompts = open_turns(base, asked, **THINK)
    form = reasoning_form(base, prompts[0], opening)
    reach = max(len(end.encode()) for end in form.ends)  # an end has at most one token per byte

    def closes(ids: list[int]) -> bool:
        late = base.tokenizer.decode(ids[-reach:])
        if not any(end in late for end in form.ends):
            return False
        return form.cut(base.tokenizer.decode(ids)) is not None

    begun = [prompt + form.opening for prompt in prompts]
    written = write(base, begun, [c for _, c in keys], steering, count, "reasoning", closes)
    return [
        {"item_id": item_id, "coefficient": c, **reply(form, text)}
        for (item_id, c), text in zip(keys, written, strict=True)
    ]


def reply(form: Form, written: Written) -> dict[str, Any]:
    before = form.cut(written.text)
    closed_by = EOS if written.ended else LIMIT if before is None else TAG
    said = (written.text if before is None else before).rstrip()
    text = f"{form.opening}{said}{form.closing}"
    return {"text": text, "n_tokens": len(written.ids), "closed_by": closed_by}
