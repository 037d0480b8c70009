"""The real weights of SmolLM2, where `make smollm2` or SMOLLM2 (a folder or a file) has put them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from pipeline.app.answers import answers
from pipeline.app.use import load_base
from pipeline.evalsets.moralchoice import build_items
from pipeline.lm.base import Base
from pipeline.lm.prompts import chat_text
from pipeline.scoring.answer_prefix import AUTO, choice_masses
from pipeline.scoring.score import score
from pipeline.steering.base import PairSplits, Study
from pipeline.steering.methods.mean_diff import MeanDiff
from pipeline.steering.untouched import Untouched
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import build_pairs, load_suffixes
from pipeline.study.params import load_params
from pipeline.support.paths import BEHAVIOURS, PREFIX_QUESTIONS, SUFFIXES
from pipeline.support.sections import MoralChoiceParams
from tests.conftest import ROOT
from tests.test_moralchoice import REAL, has_real

FILE = ROOT / "models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = Path(os.environ.get("SMOLLM2") or FILE)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCE.exists(), reason="no weights of SmolLM2: `make smollm2`"),
]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(str(SOURCE), "float32", "cpu")


def test_the_template_puts_a_default_system_turn_first(base):
    text = chat_text(base.tokenizer, [{"role": "user", "content": "Hi"}], "My", {})
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nMy")


def test_it_answers_after_a_prefix_of_its_own(base):
    entries = json.loads((ROOT / PREFIX_QUESTIONS).read_text(encoding="utf-8"))
    masses = choice_masses(base, entries[:6], AUTO, True)
    assert next(iter(masses)) == "Answer:"
    assert masses["Answer:"] > 0.75
    assert masses["My choice:"] < 0.4


@torch.no_grad()
def test_the_base_model_knows_the_capital_of_france(base):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    said = list(answers(base, Untouched(), chat, [0.0], 20))
    assert said[-1][0] == "The capital of France is Paris."


@has_real
@torch.no_grad()
def test_the_mean_difference_turns_honest_choices_both_ways(base):
    """On 24 of the MoralChoice scenarios that no reported study has."""
    behaviour = load_behaviour(ROOT / BEHAVIOURS / "honesty.yaml")
    suffixes = load_suffixes(ROOT / SUFFIXES)
    params = load_params(ROOT / "params.yaml")
    few = params.pairs.model_copy(update={"max_pairs": 96})

    def render(user, suffix):
        return chat_text(base.tokenizer, [{"role": "user", "content": user}], suffix, {})

    pairs = build_pairs(behaviour, suffixes, few, render)
    section = params.steering["mean_diff"]
    study = Study(modules=params.modules, svd=ROOT)
    fitted = MeanDiff.fit(base, PairSplits.of(pairs), section, study, 0)
    every = MoralChoiceParams(
        source=str(REAL), revision="main", max_dilemmas=None, ambiguity="both", skip_deception=0,
        rule="deceive", skip=0,
    )  # fmt: skip
    label = "label_Rule/do not deceive"
    asked = build_items(every, "honesty").sort("dilemma_id").head(48)
    rows = asked.select("item_id", "prompt").to_dicts()
    base = replace(base, answer_prefix="Answer:")
    records = pl.DataFrame(score(base, rows, fitted, [-5.0, 0.0, 5.0]))
    signed = records.join(asked.select("item_id", label), on="item_id")
    means = signed.group_by("coefficient").agg((pl.col("log_odds") * pl.col(label)).mean())
    low, zero, high = means.sort("coefficient")["log_odds"]
    assert low < zero < high
