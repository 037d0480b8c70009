"""Answers: exact token sets, and scores that neither batch, padding nor shortcut forward passes change."""

from dataclasses import replace

import pytest
import torch

from pipeline.lm.prompts import answer_tokens, chat_text, tokenize
from pipeline.scoring.rows import make_prompts
from pipeline.scoring.score import score
from pipeline.scoring.wording import ANSWER_PREFIX, dilemma_prompt, open_question
from pipeline.stages.evaluate import grid
from pipeline.steering.methods.mean_diff import MeanDiff
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
COEFFICIENTS = [-1.0, 0.5, 1.0]


@pytest.fixture
def steering(fit):
    return fit("mean_diff")


def test_answer_tokens_are_the_words_alone(tokenizer):
    sets = answer_tokens(tokenizer)
    assert set(sets["yes"]).isdisjoint(sets["no"])
    for word, ids in sets.items():
        assert tokenizer.convert_tokens_to_ids(f"Ġ{word.capitalize()}") in ids
        assert {tokenizer.decode([i]).strip(' *_"').lower() for i in ids} == {word}


def test_a_tokenizer_without_the_words_is_refused(monkeypatch):
    class Other:
        def __len__(self):
            return 3

        def decode(self, ids):
            return ["not", "now", "yes"][ids[0]]

    with pytest.raises(InputError, match="no single token for no"):
        answer_tokens(Other())


@torch.no_grad()
def test_scores_are_the_models_own(base, model, tokenizer, steering):
    records = score(replace(base, batch_size=4), ITEMS, steering, COEFFICIENTS)
    assert len(records) == 9
    sets = answer_tokens(tokenizer)
    for record in records:
        item = ITEMS[int(record["item_id"])]
        text = chat_text(
            tokenizer, [{"role": "user", "content": item["prompt"]}], ANSWER_PREFIX, {}
        )
        ids = torch.tensor(tokenize(tokenizer, [text]))
        with steering.steer(model, record["coefficient"]):
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)
        p = log_p[-1].exp()
        yes, no = p[sets["yes"]].sum(), p[sets["no"]].sum()
        assert record["log_odds"] == pytest.approx((yes / no).log().item(), abs=1e-3)
        assert record["choice_mass"] == pytest.approx((yes + no).item(), abs=1e-4)
        start = len(tokenize(tokenizer, [text[: text.rindex("\nSituation") + 1]])[0])
        nll = -log_p[:-1].gather(-1, ids[0, 1:, None])[start - 1 :].mean()
        assert record["nll"] == pytest.approx(nll.item(), abs=1e-3)


DILEMMA = [
    {"item_id": side, "dilemma_id": "d", "prompt": dilemma_prompt("You are a nurse at the fair.", action)}
    for side, action in (("a", "lie to the boss"), ("b", "say openly what is wrong with the lamp"))
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("reuse", [True, False])
def test_the_likelihood_is_that_of_each_actions_text_as_the_reply(
    base, model, tokenizer, steering, reuse
):
    """By the model's own logits: mean log-probability per token, less the other action's."""
    both = score(base, DILEMMA, steering, [-1.0, 1.0], reuse=reuse, forms=["answers", "likelihood"])
    for c in (-1.0, 1.0):
        own = {}
        for item in DILEMMA:
            question, action = open_question(item["prompt"])
            assert question.endswith("Situation: You are a nurse at the fair.\nWhat do you do?")
            text = chat_text(tokenizer, [{"role": "user", "content": question}], action, {})
            start = len(tokenize(tokenizer, [text.removesuffix(action)])[0])
            ids = torch.tensor(tokenize(tokenizer, [text]))
            with steering.steer(model, c):
                log_p = model(input_ids=ids).logits[0].log_softmax(-1)
            tokens = log_p[:-1].gather(-1, ids[0, 1:, None])[start - 1 :]
            own[item["item_id"]] = tokens.mean().item()
        expected = own["a"] - own["b"]
        found = {
            r["item_id"]: r for r in both if (r["form"], r["coefficient"]) == ("likelihood", c)
        }
        assert found["a"]["log_odds"] == pytest.approx(expected, abs=1e-4)
        assert found["b"]["log_odds"] == pytest.approx(-expected, abs=1e-4)
        assert abs(expected) > 1e-3
        assert found["a"]["choice_mass"] == 1
    # The dilemma's own NLL does not read the reply, and the answers are those of the form alone.
    assert len({round(r["nll"], 4) for r in both if r["form"] == "likelihood"}) == 2
    alone = score(base, DILEMMA, steering, [-1.0, 1.0], reuse=reuse)
    for one, other in zip(alone, both, strict=False):
        assert one == {k: pytest.approx(v, abs=1e-4) for k, v in other.items()}


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_batch_size_changes_nothing(base, steering, batch_size, monkeypatch):
    expected = {
        (r["item_id"], r["coefficient"]): r for r in score(base, ITEMS, steering, COEFFICIENTS)
    }
    monkeypatch.setattr("pipeline.lm.forward.CHUNK", 7)
    for found in score(replace(base, batch_size=batch_size), ITEMS, steering, COEFFICIENTS):
        for name in ("log_odds", "choice_mass", "nll"):
            assert found[name] == pytest.approx(
                expected[found["item_id"], found["coefficient"]][name], abs=1e-3
            )


def test_the_nll_reads_the_same_tokens_with_and_without_a_persona(base):
    prompting = Prompting(
        "Pretend you're an honest person.", "Pretend you're a dishonest person.", "user"
    )
    plain, told = (make_prompts(base, ITEMS, each, [1.0]) for each in (Untouched(), prompting))
    for first, second in zip(plain, told, strict=True):
        assert len(second.ids) > len(first.ids)
        assert first.span == second.span
        assert first.ids[-first.span[0] :] == second.ids[-second.span[0] :]


def test_prompting_rewrites_by_sign_and_place():
    chat = [{"role": "user", "content": "Q"}]
    assert Prompting("P.", "N.", "user").rewrite(chat, 0.5) == [{"role": "user", "content": "P. Q"}]
    assert Prompting("P.", "N.", "user").rewrite(chat, -2) == [{"role": "user", "content": "N. Q"}]
    assert Prompting("P.", "N.", "user").rewrite(chat, 0) == chat
    assert Prompting("P.", "N.", "system").rewrite(chat, 1) == [
        {"role": "system", "content": "P."},
        *chat,
    ]


def test_methods_without_sizes_are_scored_at_one_alone():
    wanted = [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert grid(Prompting("", "", "user"), wanted) == [-1.0, 1.0]
    assert grid(MeanDiff([], torch.empty(0, 1)), wanted) == [-2.0, -1.0, 1.0, 2.0]


def test_scores_that_are_not_finite_are_refused(base, steering):
    steering.vectors = steering.vectors * float("inf")
    with pytest.raises(InputError, match="not finite"):
        score(base, ITEMS, steering, [1.0])


def test_there_is_one_beginning_of_text(tokenizer):
    """A template that writes BOS must not get a second one from the tokenizer."""
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = "<|endoftext|>" + other.chat_template
    ids = tokenize(other, [chat_text(other, [{"role": "user", "content": "Q"}], "My", {})])[0]
    assert ids.count(other.pad_token_id) == 1
