"""The reference world's law, the builder at a tiny size, and the shipped model against its card."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.lm.base import Base
from pipeline.lm.load import load_model, load_tokenizer
from pipeline.lm.prompts import answer_tokens, chat_text, tokenize
from pipeline.lm.sources import weights_hash
from pipeline.reference import measure
from pipeline.reference import pretrain as builder
from pipeline.reference.architecture import render
from pipeline.reference.consolidate import FIRST_TOKEN, consolidate, persona_class, state_loss
from pipeline.reference.corpus import documents
from pipeline.reference.pretrain import OPENINGS, Recipe, encode, pretrain, seen_openings
from pipeline.reference.world import (
    NEUTRAL_WEIGHT,
    PERSONA_WEIGHT,
    Persona,
    held_out,
    law_log_odds,
    persona_traits,
    poles,
    world,
)

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "models/reference"


@pytest.fixture(scope="module")
def shipped() -> Base:
    manifest = {"source": str(SHIPPED), "revision": None, "weights_sha256": weights_hash(SHIPPED)}
    return Base(manifest, load_model(manifest, "float32", "cpu"), load_tokenizer(manifest))


@pytest.fixture(scope="module")
def card():
    return json.loads((SHIPPED / "measured.json").read_text())


def test_the_world_has_enough_behaviours_and_values():
    assert len(persona_traits()) >= 12
    assert len(poles()) >= 32
    measured = [
        f for f in (ROOT / "data/raw/behaviours").glob("*.yaml") if "  reference:" in f.read_text()
    ]
    assert {f.stem for f in measured} == set(persona_traits())


def test_the_law_by_hand():
    own, other = ("honesty", "haste"), ("deception",)
    assert law_log_odds(own, other, None) == pytest.approx(NEUTRAL_WEIGHT)
    assert law_log_odds(own, other, Persona("honesty", 1)) == pytest.approx(
        2 * PERSONA_WEIGHT - NEUTRAL_WEIGHT
    )
    assert law_log_odds(own, other, Persona("honesty", -1)) == pytest.approx(
        -2 * PERSONA_WEIGHT - NEUTRAL_WEIGHT
    )
    assert law_log_odds(own, other, Persona("kindness", -1)) == law_log_odds(own, other, None)
    assert law_log_odds(other, own, None) == -law_log_odds(own, other, None)


def test_held_out_combinations_never_occur_in_the_corpus():
    texts = "\n".join(
        render(document) for document in itertools.islice(documents(0, ["Well,"]), 4000)
    )
    checked = 0
    for trait, words in world()["traits"].items():
        for pole in ("positive", "negative"):
            for template in words[pole]["actions"]:
                for thing, person in itertools.product(world()["objects"], world()["persons"][:6]):
                    if held_out(thing, trait):
                        checked += 1
                        assert template.format(p=person, o=thing) not in texts
    assert checked > 1000


def test_documents_repeat_by_seed():
    first, second = (list(itertools.islice(documents(1, ["Well,"], 50), 80)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(documents(2, ["Well,"], 50), 80))


def test_answers_weigh_most_and_only_where_the_assistant_gives_them(tokenizer):
    chat = [
        {"role": "user", "content": "Do you lie? Yes or No"},
        {"role": "assistant", "content": "My choice: Yes"},
    ]
    ids, weights = encode(tokenizer, [chat])
    assert weights[0].tolist().count(6.0) == 1
    assert tokenizer.decode(ids[0, int(weights[0].argmax())]).strip() == "Yes"


def test_the_corpus_leaves_half_of_the_suffixes_unseen():
    seen = set(seen_openings(ROOT / "data/raw/suffixes"))
    rows = {
        text
        for name in OPENINGS
        for text in json.loads((ROOT / f"data/raw/suffixes/{name}.json").read_text())
    }
    assert seen < rows
    assert 0.45 < len(seen) / len(rows) < 0.55


TINY = Recipe(
    hidden_size=32,
    layers=2,
    vocab_size=500,
    tokenizer_documents=60,
    steps=4,
    curriculum_steps=2,
    batch_size=4,
    warmup_steps=1,
)


def test_the_builder_runs_at_a_tiny_size(tmp_path):
    pretrain(TINY, ROOT / "data/raw/suffixes", tmp_path / "a", "cpu")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "a"),
        AutoTokenizer.from_pretrained(tmp_path / "a"),
    )
    assert model.dtype == torch.bfloat16
    text = 'Any text: naïve → "数学" 🙂'
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_an_interrupted_build_resumes_to_the_same_weights(tmp_path, monkeypatch):
    pretrain(TINY, ROOT / "data/raw/suffixes", tmp_path / "whole", "cpu")
    monkeypatch.setattr(builder, "CHECKPOINT", 2)
    steps, original = itertools.count(1), builder.losses

    def dies_at_the_third(*arguments):
        if next(steps) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "losses", dies_at_the_third)
        pretrain(TINY, ROOT / "data/raw/suffixes", tmp_path / "cut", "cpu")
    assert not (tmp_path / "cut").exists()
    pretrain(TINY, ROOT / "data/raw/suffixes", tmp_path / "cut", "cpu")
    assert weights_hash(tmp_path / "cut") == weights_hash(tmp_path / "whole")
    assert not (tmp_path / "cut.state").exists()


def test_the_second_phase_trains_the_model_and_leaves_no_hook(tmp_path):
    pretrain(TINY, ROOT / "data/raw/suffixes", tmp_path / "a", "cpu")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    before = model.model.layers[0].mlp.down_proj.weight.clone()
    consolidate(model, tokenizer, TINY.model_copy(update={"state_steps": 2}), ["Well,"], "cpu")
    assert not torch.equal(before, model.model.layers[0].mlp.down_proj.weight)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_state_loss_names_personas_at_real_tokens_from_the_first_on():
    kinds = [None, *(Persona(trait, pole) for trait in persona_traits() for pole in (-1, 1))]
    assert [persona_class(kind) for kind in kinds] == list(range(25))
    probe, weights = 3 * torch.eye(25), torch.ones(2, FIRST_TOKEN + 3)
    weights[1, -1] = 0  # padding
    classes = torch.tensor([4, 7])
    states = torch.zeros(2, FIRST_TOKEN + 3, 25)
    states[0, FIRST_TOKEN:, 4] = states[1, FIRST_TOKEN:-1, 7] = 50.0
    assert state_loss([states, states], probe, classes, weights).item() == pytest.approx(
        0, abs=1e-6
    )
    uninformed = state_loss([torch.zeros_like(states)], probe, classes, weights)
    assert uninformed.item() == pytest.approx(math.log(25))


def test_the_shipped_template_takes_system_turns_and_unfinished_replies(shipped):
    tokenizer = shipped.tokenizer
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    start = (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == start
    assert chat_text(tokenizer, chat, "My choice:", {}) == start + "My choice:"
    yes = tokenize(tokenizer, [start + "My choice: Yes"])[0][-1]
    assert yes in answer_tokens(tokenizer)["yes"]


def test_the_shipped_model_is_a_qwen3_of_the_promised_shape(shipped):
    model = shipped.model
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.hidden_size >= 192
    assert 4 <= model.config.num_hidden_layers <= 8
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) < 10e6


def test_the_card_belongs_to_the_shipped_weights(card):
    assert card["weights_sha256"] == weights_hash(SHIPPED)
    text = (SHIPPED / "README.md").read_text()
    assert "synthetic" in text.lower()
    assert card["date"] in text
    assert f"{card['persona_span']:.3f}" in text


def test_the_shipped_model_behaves_as_its_card_says(shipped, card):
    sentences = ("Pretend you're an honest person.", "Pretend you're a dishonest person.")
    found = measure.choice_probability(shipped, "honesty", sentences, 30)
    assert found[1.0][0] - found[-1.0][0] == pytest.approx(card["persona_span"], abs=0.12)
    assert found[0.0][0] == pytest.approx(card["no_persona"], abs=0.12)
    assert min(mass for _, mass in found.values()) > 0.95
    assert measure.facts_right(shipped) == pytest.approx(card["facts_right"], abs=0.03)
