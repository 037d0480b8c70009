"""Reasoning before the answer: what closes it, rows that stay themselves, and an answer that is read after it."""

import copy
from dataclasses import replace

import pytest
import torch

from pipeline.lm.base import Base
from pipeline.lm.prompts import THINK, answer_tokens, open_turn, tokenize
from pipeline.scoring.reasoning import Form, reason, reasoning_form
from pipeline.scoring.rows import make_prompts
from pipeline.scoring.score import score
from pipeline.scoring.wording import ANSWER_PREFIX, dilemma_prompt
from pipeline.scoring.writing import write
from pipeline.steering.hooks import attached
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.untouched import Untouched
from pipeline.support.errors import InputError

ITEMS = [
    {
        "item_id": str(i),
        "prompt": dilemma_prompt(
            f"You are a {role} at the fair. " * (1 + i), f"lie to the boss about the {thing}"
        ),
    }
    for i, (role, thing) in enumerate(
        [("nurse", "lamp"), ("clerk", "old and very heavy lamp"), ("cook", "boat")]
    )
]
COEFFICIENTS = [-1.0, 0.0, 1.0]
OPENING = "Let me think."
PROMPTING = Prompting(
    "Pretend you're an honest person.", "Pretend you're a dishonest person.", "user"
)
# As Qwen3's: a block that is closed at once where thinking is switched off.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.fixture
def steering(fit):
    return fit("mean_diff")


def with_template(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


class Scripted:
    """Instead of an adapter: makes the model's head say the same tokens to every row, one after the other."""

    def __init__(self, tokens):
        self.tokens = tokens

    def rewrite(self, messages, coefficient):
        return messages

    def steer(self, model, coefficient):
        self.said = 0

        def hook(_module, _inputs, logits):
            wanted = torch.full_like(logits, -1e4)
            wanted[..., self.tokens[min(self.said, len(self.tokens) - 1)]] = 0
            self.said += 1
            return wanted

        return attached(model, [("lm_head", hook)])


def scripted(base, tokens, count, template=None):
    options = {"enable_thinking": False}
    tokenizer = with_template(base.tokenizer, template) if template else base.tokenizer
    base = replace(base, tokenizer=tokenizer, options=options, batch_size=4)
    return reason(base, ITEMS, Scripted(tokens), COEFFICIENTS, count, OPENING)


def test_a_model_that_only_says_eos_is_closed_at_once(base):
    records = scripted(base, [base.tokenizer.eos_token_id], 8)
    assert [(r["item_id"], r["coefficient"]) for r in records] == [
        (i["item_id"], c) for i in ITEMS for c in COEFFICIENTS
    ]
    assert {(r["text"], r["n_tokens"], r["closed_by"]) for r in records} == {
        (f"{OPENING}\n\n", 1, "eos")
    }


def test_reasoning_is_closed_by_force_after_n_tokens(base, tokenizer):
    word = tokenize(tokenizer, [" lamp"])[0][:1]
    said = tokenizer.decode(word * 5)
    for template, expected in (
        (None, f"{OPENING}{said}\n\n"),
        (THINKING, f"<think>\n{said}\n</think>\n\n"),
    ):
        for record in scripted(base, word, 5, template):
            assert (record["text"], record["n_tokens"], record["closed_by"]) == (
                expected,
                5,
                "limit",
            )


@pytest.mark.parametrize(("template", "said", "expected"), [
    (None, " I see.\n\nMore", f"{OPENING} I see.\n\n"),
    (None, "\n\nI see. My choice: No", f"{OPENING}\n\nI see.\n\n"),
    (THINKING, "I see.\n\nMy choice: No</think>\n\nYes", "<think>\nI see.\n\nMy choice: No\n</think>\n\n"),
])  # fmt: skip
def test_a_row_that_closes_its_reasoning_or_answers_is_closed_there(
    base, tokenizer, template, said, expected
):
    """The tag is several tokens of this tokenizer, and the last one may reach beyond it."""
    tokens = tokenize(tokenizer, [said])[0]
    for record in scripted(base, tokens, len(tokens), template):
        assert (record["text"], record["closed_by"]) == (expected, "tag")
        assert record["n_tokens"] < len(tokens)


def test_the_form_follows_the_template(tokenizer):
    chat = [{"role": "user", "content": "Q"}]

    def form(template, options):
        other = with_template(tokenizer, template)
        return reasoning_form(Base({}, None, other), open_turn(other, chat, options), OPENING)

    assert form(tokenizer.chat_template, {}) == Form(OPENING, ("\n\n", ANSWER_PREFIX), "\n\n")
    assert form(THINKING, THINK) == Form("<think>\n", ("</think>",), "\n</think>\n\n")
    begun = THINKING.replace(
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}", "<think>\n{# </think> #}"
    )
    assert form(begun, THINK).opening == ""
    with pytest.raises(InputError, match="closes its <think> block by itself"):
        form(THINKING, {"enable_thinking": False})


def test_a_batch_with_a_coefficient_per_row_equals_its_rows_alone(base, steering):
    together = reason(base, ITEMS, steering, [-2.0, *COEFFICIENTS, 2.0], 10, OPENING)
    assert len({r["text"] for r in together if r["item_id"] == "0"}) >= 3
    for record in together:
        item = [i for i in ITEMS if i["item_id"] == record["item_id"]]
        alone = reason(base, item, steering, [record["coefficient"]], 10, OPENING)
        assert alone == [record]


def test_nought_is_the_base_and_the_model_is_left_alone(base, model, steering):
    plain = reason(base, ITEMS, Untouched(), [0.0], 10, OPENING)
    steered = reason(base, ITEMS, steering, COEFFICIENTS, 10, OPENING)
    assert [record for record in steered if record["coefficient"] == 0] == plain
    assert not any(module._forward_hooks for module in model.modules())


def test_reasoning_is_what_transformers_writes(base, model, tokenizer, steering):
    prompt = open_turn(tokenizer, [{"role": "user", "content": ITEMS[1]["prompt"]}], {}) + OPENING
    ids = torch.tensor(tokenize(tokenizer, [prompt]))
    for c in COEFFICIENTS:
        with steering.steer(model, c):
            new = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=10,
                do_sample=False,
            )
        (found,) = write(base, [prompt], [c], steering, 10, "writing")
        assert found.ids == new[0, ids.shape[1] :].tolist()


def test_prompting_says_its_sentence_before_the_model_reasons(base, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pipeline.scoring.reasoning.write", lambda base, prompts, *rest: seen.extend(prompts) or []
    )
    with pytest.raises(ValueError, match="zip"):
        reason(base, ITEMS[:1], PROMPTING, COEFFICIENTS, 5, OPENING)
    assert ["honest person. Should" in text and "dishonest" not in text for text in seen] == [
        False,
        False,
        True,
    ]
    assert ["dishonest person. Should" in text for text in seen] == [True, False, False]
    assert all(text.endswith(f"assistant\n{OPENING}") for text in seen)


@torch.no_grad()
@pytest.mark.parametrize("steered", [True, False])
def test_the_answer_is_read_after_the_reply(base, model, tokenizer, steering, steered):
    adapter, c = (steering, 1.0) if steered else (Untouched(), 0.0)
    first, second = (
        {(item["item_id"], c): text for item in ITEMS}
        for text in ("I see.\n\n", "\nSituation: none.\n\n")
    )
    plain = score(base, ITEMS, adapter, [c])
    found = [score(base, ITEMS, adapter, [c], replies=replies) for replies in (first, second)]
    sets = answer_tokens(tokenizer)
    for before, *records in zip(plain, *found, strict=True):
        item = ITEMS[int(before["item_id"])]
        for record, replies in zip(records, (first, second), strict=True):
            own = open_turn(tokenizer, [{"role": "user", "content": item["prompt"]}], {})
            ids = torch.tensor(
                tokenize(tokenizer, [own + replies[item["item_id"], c] + ANSWER_PREFIX])
            )
            with adapter.steer(model, c):
                log_p = model(input_ids=ids).logits[0].log_softmax(-1)
            yes, no = (log_p[-1, sets[word]].logsumexp(-1) for word in ("yes", "no"))
            assert record["log_odds"] == pytest.approx((yes - no).item(), abs=1e-3)
            start = len(tokenize(tokenizer, [own[: own.rindex("\nSituation") + 1]])[0])
            end = len(tokenize(tokenizer, [own])[0])
            nll = -log_p[:-1].gather(-1, ids[0, 1:, None])[start - 1 : end - 1].mean()
            assert record["nll"] == pytest.approx(nll.item(), abs=1e-3)
        assert abs(records[0]["log_odds"] - records[1]["log_odds"]) > 1e-3
        assert abs(records[0]["log_odds"] - before["log_odds"]) > 1e-3


def test_without_replies_prompts_are_as_before(base, tokenizer):
    for prompt in make_prompts(base, ITEMS, PROMPTING, COEFFICIENTS):
        assert prompt.span[1] == 0
    replies = {(item["item_id"], c): "I see.\n\n" for item in ITEMS for c in COEFFICIENTS}
    for prompt in make_prompts(base, ITEMS, PROMPTING, COEFFICIENTS, replies):
        said = tokenizer.decode(prompt.ids[-prompt.span[1] :])
        assert said == f"I see.\n\n{ANSWER_PREFIX}"


def test_a_prompt_that_leaves_no_room_is_refused(base):
    with pytest.raises(InputError, match="are more than the model's 1024"):
        reason(base, ITEMS, Untouched(), [0.0], 1024, OPENING)
