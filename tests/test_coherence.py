"""Free texts: the base model's NLL of them, repetition and variety by hand, and the stages that write and fold them."""

from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from pipeline.lm.prompts import open_turn, tokenize
from pipeline.metrics.coherence import TABLE, coherence_table, distinct_share, n_grams, repetition
from pipeline.report.appendix import coherence
from pipeline.scoring.coherence import free_texts
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.untouched import Untouched
from pipeline.support.files import read_json
from pipeline.support.paths import PROMPTS
from tests.conftest import ROOT

ASKED = ["Who are you?", "What would you do at the fair with a friend?", "Say something."]


@pytest.fixture
def steering(fit):
    return fit("mean_diff")


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 9])
def test_the_nll_is_the_base_models_own(base, model, tokenizer, steering, batch_size):
    base = replace(base, batch_size=batch_size)
    stop = free_texts(base, ASKED[:1], Untouched(), [0.0], 12)[0]["tokens"][5]
    model.generation_config.eos_token_id = [stop, tokenizer.eos_token_id]
    records = free_texts(base, ASKED, steering, [-2.0, 0.0, 2.0], 12)
    assert [(r["prompt_id"], r["coefficient"]) for r in records] == [
        (i, c) for i in range(3) for c in (-2.0, 0.0, 2.0)
    ]
    assert {r["ended"] for r in records} == {True, False}
    for record in records:
        prompt = tokenize(
            tokenizer, [open_turn(tokenizer, [{"role": "user", "content": record["prompt"]}], {})]
        )[0]
        with steering.steer(model, record["coefficient"]):
            ids = torch.tensor([prompt])
            new = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
            )
        written = new[0, len(prompt) :].tolist()
        assert record["tokens"] == (written[:-1] if record["ended"] else written)
        log_p = model(input_ids=new).logits[0].log_softmax(-1)
        nll = -log_p[:-1].gather(-1, new[0, 1:, None])[len(prompt) - 1 :].mean()
        assert record["base_nll"] == pytest.approx(nll.item(), abs=1e-4)


def test_the_base_reads_prompted_texts_without_the_persona(base, model, tokenizer):
    adapter = Prompting(
        "Pretend you're an honest person.", "Pretend you're a dishonest person.", "user"
    )
    (record,) = free_texts(base, ASKED[:1], adapter, [1.0], 6)
    own = tokenize(tokenizer, [open_turn(tokenizer, [{"role": "user", "content": ASKED[0]}], {})])[
        0
    ]
    ids = torch.tensor([own + record["tokens"]])
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)
    nll = -log_p[:-1].gather(-1, ids[0, 1:, None])[len(own) - 1 :].mean()
    assert not record["ended"]
    assert record["base_nll"] == pytest.approx(nll.item(), abs=1e-4)


def test_repetition_and_variety_by_hand():
    assert n_grams([1, 2, 3, 4], 3) == [(1, 2, 3), (2, 3, 4)]
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([1, 2, 1, 2, 1, 2]) == 0.5  # 121 212 121 212: two of four are new
    assert repetition([7] * 12) == pytest.approx(0.9)
    assert repetition([1, 2]) is None
    assert distinct_share([]) is None
    assert distinct_share(n_grams([1, 1, 2], 1)) == pytest.approx(2 / 3)


def shown_table(table: pl.DataFrame) -> pl.DataFrame:
    return coherence(SimpleNamespace(tables={"coherence": table}))


def texts(*rows) -> pl.DataFrame:
    """Rows of method, seed, coefficient, tokens, ended, base_nll."""
    names = ("method", "seed", "coefficient", "tokens", "ended", "base_nll")
    return pl.DataFrame([dict(zip(names, row, strict=True)) for row in rows])


FRAME = texts(
    ("base", 0, 0.0, [1, 2, 3, 4], True, 1.0), ("base", 0, 0.0, [5, 6], False, 2.0),
    ("pca", 0, -1.0, [1, 2, 3, 4], False, 3.0), ("pca", 0, -1.0, [1, 2, 3, 4], False, 3.0),
    ("pca", 0, 1.0, [9, 9, 9, 9], True, 4.0), ("pca", 0, 1.0, [], True, 2.0),
    ("pca", 0, 0.5, [1, 2], True, 2.5), ("pca", 0, -0.5, [1, 2], True, 2.5),
)  # fmt: skip


def test_texts_are_folded_by_coefficient():
    base, low, high, *_ = coherence_table(FRAME).to_dicts()
    assert (
        base["base_nll"],
        base["delta_base_nll"],
        base["ended"],
        base["n_tokens"],
        base["n_prompts"],
    ) == (1.5, 0, 0.5, 3, 2)
    assert (base["repetition"], base["distinct_1"], base["distinct_2"]) == (0, 1, 1)
    assert (low["delta_base_nll"], low["repetition"], low["distinct_1"], low["distinct_2"]) == (
        1.5,
        0,
        0.5,
        0.5,
    )
    assert (high["repetition"], high["distinct_1"], high["n_tokens"]) == (0.5, 0.25, 2)


def test_the_reports_table_takes_the_base_and_one():
    shown = shown_table(coherence_table(FRAME))
    assert shown["c"].to_list() == ["0", "-1", "+1"]
    assert shown["Δ"].to_list() == ["0.000", "1.500", "1.500"]
    # A CSV file without rows does not tell types.
    assert shown_table(pl.DataFrame(schema=dict.fromkeys(TABLE, pl.String))).is_empty()


def test_texts_without_a_word_can_be_shown(tmp_path):
    """A column of nothing but nulls has no numbers in the CSV to tell its type by."""
    silent = FRAME.with_columns(pl.lit([], pl.List(pl.Int64)).alias("tokens"))
    coherence_table(silent).write_csv(tmp_path / "coherence.csv")
    shown = shown_table(
        pl.read_csv(tmp_path / "coherence.csv", schema_overrides={"seed": pl.String})
    )
    assert set(shown["Repeated 3-grams"]) == {"–"}
    assert set(shown["Tokens"]) == {"0.0"}


def test_the_prompts_are_distinct_questions():
    for name in ("open", "reference"):
        found = read_json(ROOT / PROMPTS / f"{name}.json")
        assert len(set(found)) == len(found) == 24
        assert all(prompt.strip() == prompt and prompt for prompt in found)
