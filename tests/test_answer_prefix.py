"""What a reply begins with, and whether personas move a model: tried before anything is fitted."""

import json
from types import SimpleNamespace

import pytest
import torch

from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.prompts import tokenize
from pipeline.scoring import answer_prefix
from pipeline.scoring.answer_prefix import AUTO, CANDIDATES, choice_masses, questions
from pipeline.stages.checks import check_lengths, judge_mass, judge_shift, warn_of_words
from pipeline.steering.elicitation import persona_shift, shared_ends
from pipeline.study.behaviours import Engineered
from pipeline.support.paths import PREFIX_QUESTIONS
from tests.conftest import ROOT
from tests.refusals import refused

ENTRIES = json.loads((ROOT / PREFIX_QUESTIONS).read_text(encoding="utf-8"))


@pytest.fixture
def base(manifest, model, tokenizer) -> Base:
    return Base(manifest, model, tokenizer)


def test_there_are_twelve_questions_of_two_actions_and_none_is_an_item():
    assert len(ENTRIES) == 12
    prompts = [item["prompt"] for item in questions(ENTRIES)]
    assert len(set(prompts)) == 24
    everyday = (ROOT / "data/raw/everyday/dilemmas.csv").read_text(encoding="utf-8")
    assert not any(entry["situation"] in everyday for entry in ENTRIES)


def test_auto_takes_the_prefix_after_which_yes_and_no_are_likeliest(base, monkeypatch):
    masses = dict.fromkeys(CANDIDATES, 0.1) | {"Answer:": 0.7, "": 0.4}
    monkeypatch.setattr(
        answer_prefix, "score",
        lambda base, items, *_, **__: [{"choice_mass": masses[base.answer_prefix]} for _ in items],
    )  # fmt: skip
    found = choice_masses(base, ENTRIES, AUTO, True)
    assert list(found)[:2] == ["Answer:", ""]
    assert found == pytest.approx(masses)


def test_a_prefix_of_the_users_own_is_measured_alone(base):
    found = choice_masses(base, ENTRIES[:2], "My choice:", True)
    assert list(found) == ["My choice:"]
    assert 0 < found["My choice:"] < 1


def test_a_low_mass_stops_auto_and_warns_of_a_chosen_prefix(capsys):
    params = SimpleNamespace(statistics=SimpleNamespace(min_choice_mass=0.5))
    said = r"it gives Yes and No a probability of 0\.20 after 'Answer:'"
    refused(said, judge_mass, "it", AUTO, "Answer:", 0.2, params)
    judge_mass("it", "Answer:", "Answer:", 0.2, params)
    assert "warning: it gives Yes and No" in capsys.readouterr().out
    judge_mass("it", AUTO, "Answer:", 0.6, params)
    assert "warning" not in capsys.readouterr().out


@torch.no_grad()
def test_the_shift_is_the_mean_of_both_divergences_over_the_shared_tokens(base, pairs):
    texts = pairs[0].positive[:3], pairs[0].negative[:3]
    total, count = 0.0, 0
    for two, shared in zip(zip(*texts, strict=True), shared_ends(base, *texts), strict=True):
        ids = [torch.tensor([own]) for own in tokenize(base.tokenizer, list(two))]
        log_p, log_q = (
            to_logits(base.model, last_hidden(base.model, own, torch.ones_like(own)))
            .log_softmax(-1)[0, -shared - 1 : -1] for own in ids
        )  # fmt: skip
        assert ids[0][0, -shared:].equal(ids[1][0, -shared:])
        total += ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum().item() / 2
        count += shared
    assert persona_shift(base, *texts) == pytest.approx(total / count, rel=1e-4)
    assert persona_shift(base, texts[0], texts[0]) == pytest.approx(0, abs=1e-6)


def test_a_small_shift_is_said(capsys):
    judge_shift(0.05)
    assert "warning: that is less than 0.1" in capsys.readouterr().out
    judge_shift(0.2)
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(("texts", "reasoning", "written"), [
    (["word " * 160], 0, 1), (["word"], 60, 1), (["word"], 0, 96),
])  # fmt: skip
def test_too_long_texts_are_refused_before_any_fit(base, monkeypatch, texts, reasoning, written):
    monkeypatch.setattr(base.model.config, "max_position_embeddings", 100)
    items, asked = questions(ENTRIES[:1]), ["Who are you?"]
    check_lengths(base, ["word"], items, asked, ["answers", "likelihood"], 0, 1)
    wanted = texts, items, asked, ["answers"], reasoning, written
    refused("too long for the 100 positions", check_lengths, base, *wanted)


@pytest.mark.parametrize("form", ["answers", "likelihood"])
def test_words_of_prompting_that_leave_no_room_are_said_before_any_fit(
    form, base, monkeypatch, capsys, behaviour
):
    items = questions(ENTRIES[:1])
    monkeypatch.setattr(base.model.config, "max_position_embeddings", 200)
    short = behaviour.model_copy(update={"engineered": None})
    warn_of_words(base, short, items, [form], 0)
    assert "warning" not in capsys.readouterr().out
    engineered = Engineered(positive="Be honest.", negative="word " * 160)
    warn_of_words(base, short.model_copy(update={"engineered": engineered}), items, [form], 0)
    said = capsys.readouterr().out
    assert "wording: engineered will be refused: a text of" in said and "persona" not in said
    warn_of_words(base, short, items, [form], 160)
    assert "wording: persona will be refused: a text of" in capsys.readouterr().out
