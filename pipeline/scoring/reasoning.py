"""Let a steered model reason before its answer to a dilemma is read.

The assistant's turn is: opening, up to n tokens of the model's own, forced close, answer prefix.
Where the chat template knows a think block, the block is opened and closed with its own tags;
elsewhere the reasoning is plain text that begins with a given phrase and ends with a blank line. A
row that closes its reasoning itself, or gives its answer, is closed there.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.prompts import THINK, Message, open_turn
from pipeline.scoring.wording import ANSWER_PREFIX
from pipeline.scoring.writing import Written, write
from pipeline.steering.base import Attachable
from pipeline.support.errors import InputError

BLANK_LINE = "\n\n"
TAGS = {"<think>": "</think>", "[THINK]": "[/THINK]"}
EOS, TAG, LIMIT = (
    "eos",
    "tag",
    "limit",
)  # what closed a row: the end of its text, its own closing words, or n


@dataclass(frozen=True)
class Form:
    """How reasoning opens, which words of the model's own end it, and how it is closed in any
    case.
    """

    opening: str
    ends: tuple[str, ...]
    closing: str

    def cut(self, text: str) -> str | None:
        """Return the text before the first of `ends`, or None where there is none; white space at
        its start ends nothing.
        """
        lead = len(text) - len(text.lstrip())
        places = [place for end in self.ends if (place := text.find(end, lead)) >= 0]
        return text[: min(places)] if places else None


def reasoning_form(
    tokenizer: PreTrainedTokenizerBase, prompt: str, plain: str, answer_prefix: str = ANSWER_PREFIX
) -> Form:
    """Return the form for a prompt that ends where the assistant's turn begins (the template may
    have opened the block).

    `plain` opens the reasoning where the template knows no block.
    """
    template = str(tokenizer.get_chat_template())
    for opening, closing in TAGS.items():
        if closing not in template:
            continue
        if prompt.rstrip().endswith(closing):
            raise InputError(
                f"the chat template closes its {opening} block by itself: set its options so that "
                "the model may think"
            )
        begun = prompt.rstrip().endswith(opening)
        return Form("" if begun else f"{opening}\n", (closing,), f"\n{closing}{BLANK_LINE}")
    return Form(plain, (BLANK_LINE, answer_prefix.rstrip(" *")), BLANK_LINE)


def reason(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[dict[str, Any]], steering: Attachable | None,
    coefficients: list[float], batch_size: int, options: dict[str, Any], count: int, opening: str,
    answer_prefix: str = ANSWER_PREFIX,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one record per item and coefficient: the reply before the answer prefix, and how the
    reasoning ended.

    `text` is opening, reasoning and close; `n_tokens` counts the model's own, the closing ones
    included.
    """
    keys, prompts = [], []
    for item in items:
        chat: list[Message] = [{"role": "user", "content": item["prompt"]}]
        for c in coefficients:
            keys.append((item["item_id"], c))
            prompts.append(
                open_turn(
                    tokenizer, steering.rewrite(chat, c) if steering else chat, options | THINK
                )
            )
    form = reasoning_form(tokenizer, prompts[0], opening, answer_prefix)
    reach = max(
        len(end.encode()) for end in form.ends
    )  # an end spans at most as many tokens as it has bytes

    def closes(ids: list[int]) -> bool:
        late = tokenizer.decode(ids[-reach:])
        return any(end in late for end in form.ends) and form.cut(tokenizer.decode(ids)) is not None

    begun = [prompt + form.opening for prompt in prompts]
    own = [c for _, c in keys]
    found = write(model, tokenizer, begun, own, steering, batch_size, count, closes, "reasoning")
    return [
        {"item_id": item_id, "coefficient": c, **reply(form, written)}
        for (item_id, c), written in zip(keys, found, strict=True)
    ]  # fmt: skip


def reply(form: Form, written: Written) -> dict[str, Any]:
    before = form.cut(written.text)
    closed_by = EOS if written.ended else LIMIT if before is None else TAG
    text = written.text if before is None else before
    return {
        "text": f"{form.opening}{text.rstrip()}{form.closing}",
        "n_tokens": len(written.ids),
        "closed_by": closed_by,
    }
