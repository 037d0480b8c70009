"""What chat templates need: system turns, thinking, one BOS; short templates with the logic of the real families'."""

import shutil

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from pipeline.app.use import load_base
from pipeline.lm.base import Base
from pipeline.lm.prompts import chat_text, check_template, open_turn, tokenize
from pipeline.scoring.reasoning import reasoning_form
from pipeline.scoring.rows import make_prompts
from pipeline.scoring.wording import dilemma_prompt
from pipeline.steering.untouched import Untouched
from tests.refusals import refused

TURN = "{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}"
PLAIN = (
    "{% for m in messages %}"
    + TURN
    + "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Gemma 2: refuses the role. Gemma 3 folds it in itself.
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + PLAIN
)
# Mistral 7B v0.3: shows it in the last user's turn, if that is the last turn at all.
LOSES = (
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}"
    "{% if loop.last and told is defined %}[INST] {{ told + '\n\n' + m['content'] }}[/INST]"
    "{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}{% else %} {{ m['content'] }}<end>{% endif %}{% endfor %}"
)
# A reasoning model without a switch, one with (Qwen3), and one that closes the block in past replies but not in the prompt.
THINKS = (
    "{% for m in messages %}"
    + TURN
    + "{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
SWITCH = (
    "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)
CLOSES = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant><think>\n\n</think>\n\n{{ m['content'] }}<end>"
    "{% else %}"
    + TURN
    + "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
BOS = "{{ bos_token }}" + PLAIN
SYSTEM = [{"role": "system", "content": "Be honest."}, {"role": "user", "content": "Hi"}]
EMPTY = "<think>\n\n</think>\n\n"


@pytest.fixture
def with_template(tiny_folder):
    def make(template: str):
        tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.mark.parametrize(("template", "said"), [
    (PLAIN, "<system>Be honest.<end><user>Hi<end><assistant>My"),
    (REFUSES, "<user>Be honest.\n\nHi<end><assistant>My"),
    (LOSES, "[INST] Be honest.\n\nHi[/INST] My"),
])  # fmt: skip
def test_a_system_turn_is_never_lost(with_template, template, said):
    assert chat_text(with_template(template), SYSTEM, "My", {}) == said


def test_a_system_turn_is_folded_the_same_way_before_an_answer(with_template):
    assert open_turn(with_template(REFUSES), SYSTEM, {}) == "<user>Be honest.\n\nHi<end><assistant>"
    assert open_turn(with_template(LOSES), SYSTEM, {}) == "[INST] Be honest.\n\nHi[/INST]"
    assert open_turn(with_template(REFUSES), SYSTEM[:1], {}) == "<user>Be honest.<end><assistant>"
    assert open_turn(with_template(PLAIN), SYSTEM[1:], {}) == "<user>Hi<end><assistant>"


@pytest.mark.parametrize(("template", "options", "head"), [
    (PLAIN, {}, ""), (THINKS, {}, EMPTY), (CLOSES, {}, EMPTY), (SWITCH, {}, EMPTY), (SWITCH, {"enable_thinking": False}, ""),
])  # fmt: skip
def test_thinking_is_closed_before_a_reply_exactly_once(with_template, template, options, head):
    text = chat_text(with_template(template), SYSTEM[1:], "My choice:", options)
    assert text == f"<user>Hi<end><assistant>{head}My choice:"


def test_there_is_one_bos_whoever_writes_it(with_template):
    tokenizer = with_template(BOS)
    tokenizer.bos_token = "<|im_start|>"
    first = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", first)]
    )
    text = chat_text(tokenizer, SYSTEM[1:], "My", {})
    assert tokenizer(text)["input_ids"][:2] == [
        first,
        first,
    ]  # what the tokenizer would do by itself
    item = {"item_id": "0", "prompt": dilemma_prompt("You broke it.", "Say so.")}
    for ids in (
        tokenize(tokenizer, [text])[0],
        make_prompts(Base({}, None, tokenizer), [item], Untouched(), [0.0])[0].ids,
    ):
        assert ids.count(first) == 1
        assert ids[0] == first


def test_the_answer_begins_as_the_model_is_told(with_template):
    tokenizer = with_template(PLAIN)
    item = {"item_id": "0", "prompt": dilemma_prompt("You broke it.", "Say so.")}
    for prefix in ("My choice:", "My choice: **"):
        base = Base({}, None, tokenizer, answer_prefix=prefix)
        (prompt,) = make_prompts(base, [item], Untouched(), [0.0])
        assert tokenizer.decode(prompt.ids).endswith(f"<assistant>{prefix}")


USER = "{% for m in messages %}{% if m['role'] == 'user' %}" + TURN + "{% endif %}{% endfor %}"
PARTS = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(("template", "said"), [
    (USER + "<assistant>", "fails .*: mend the template"),
    (PLAIN.replace("m['content']", "m['content'] | replace('\\\n', ' ')"), "fails|drops or alters"),
    (PLAIN.replace("m['content']", "(m['content'] if m['role'] == 'assistant' else m['content'] | upper)"), "drops or alters"),
    (PARTS, "fails|drops or alters"),
    ({"tool_use": PLAIN, "rag": PLAIN}, "fails .*: name one of rag, tool_use as chat_template in .*template_options"),
    (PLAIN.replace("m['content']", "m['content'] | e"), "fails|drops or alters"),
    (PLAIN.replace("m['content']", "m['content'] | replace('\"', '')"), "fails|drops or alters"),
    ("", "fails|drops or alters"),
    (PLAIN + "{{ nothing.at.all }}", "fails"),
])  # fmt: skip
def test_a_template_that_drops_or_alters_words_is_refused(with_template, template, said):
    refused(said, check_template, with_template(template), {})


def test_a_reply_of_one_word_is_not_taken_from_the_users_turn(with_template):
    chat = [{"role": "user", "content": "Do you know what I did?"}]
    refused("fails|drops or alters", chat_text, with_template(USER), chat, "I", {})


@pytest.mark.parametrize("template", [PLAIN, REFUSES, LOSES, THINKS, SWITCH, CLOSES])
def test_templates_of_the_real_families_pass(with_template, template):
    check_template(with_template(template), {})


@pytest.mark.parametrize(("template", "head"), [(PLAIN, ""), (THINKS, EMPTY), (SWITCH, EMPTY)])
def test_a_reply_may_begin_with_nothing(with_template, template, head):
    text = chat_text(with_template(template), SYSTEM[1:], "", {})
    assert text == f"<user>Hi<end><assistant>{head}"


PAST = (
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}"
    + TURN
    + "{% endif %}{% endfor %}"
)
LAST = (
    "{% if messages[-1]['role'] == 'assistant' %}<user>{{ messages[-2]['content'] }}<end><assistant>"
    "{{ messages[-1]['content'] }}{% else %}<user>{{ messages[-1]['content'] }}<end><assistant>{% endif %}"
)
# Qwen3: earlier replies without their reasoning.
FORGETS = PLAIN.replace("m['content']", "m['content'].split('</think>')[-1].lstrip('\\n')")
TALK = [
    {"role": "user", "content": "Who broke it?"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nI did."},
    {"role": "user", "content": "Who broke it?"},
]


@pytest.mark.parametrize("template", [PAST, LAST])
def test_a_template_that_drops_earlier_turns_is_refused_in_a_conversation(with_template, template):
    tokenizer = with_template(template)
    check_template(tokenizer, {})
    refused("drops or alters the words of a turn", open_turn, tokenizer, TALK, {})
    refused("drops or alters|fails", chat_text, tokenizer, TALK, "Well", {})


@pytest.mark.parametrize("template", [PLAIN, FORGETS, REFUSES, LOSES, THINKS, SWITCH])
def test_a_conversation_is_rendered_whole_but_for_earlier_reasoning(with_template, template):
    tokenizer = with_template(template)
    for talk in (TALK, [{"role": "system", "content": "Be honest."}, *TALK]):
        text = open_turn(tokenizer, talk, {})
        assert text.count("Who broke it?") == 2
        assert "I did." in text
        assert ("Be honest." in text) == (talk is not TALK)
        assert chat_text(tokenizer, talk, "Well", {}).endswith("Well")


def test_a_named_template_is_taken_by_its_name(with_template):
    tokenizer = with_template({"tool_use": USER, "rag": CLOSES})
    named = {"chat_template": "rag"}
    check_template(tokenizer, named)
    refused("fails|drops or alters", check_template, tokenizer, {"chat_template": "tool_use"})
    prompt = open_turn(tokenizer, SYSTEM[1:], named)
    assert prompt.endswith("<think>\n")
    form = reasoning_form(Base({}, None, tokenizer, named), prompt, "Well.")
    assert (form.opening, form.closing) == ("", "\n</think>\n\n")
    refused("name one of rag, tool_use", open_turn, tokenizer, SYSTEM[1:], {})


def test_a_base_of_named_templates_is_loaded_by_name(tiny_folder, tmp_path, with_template):
    folder = shutil.copytree(tiny_folder, tmp_path / "named")
    (folder / "chat_template.jinja").unlink()
    with_template({"rag": PLAIN, "tool_use": USER}).save_pretrained(folder)
    refused("name one of rag, tool_use as chat_template", load_base, str(folder))
    base = load_base(str(folder), device="cpu", template_options={"chat_template": "rag"})
    assert open_turn(base.tokenizer, SYSTEM[1:], base.options) == "<user>Hi<end><assistant>"
