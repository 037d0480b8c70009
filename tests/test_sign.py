"""Probes decide the sign of an adapter: by what the personas answer, never by saying Yes alone."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import torch

from pipeline.lm.base import Base
from pipeline.lm.load import load_model, load_tokenizer
from pipeline.lm.sources import weights_hash
from pipeline.reference.corpus import documents
from pipeline.reference.items import held_out_items
from pipeline.reference.probes import plain_probes
from pipeline.reference.world import held_out, persona_traits, world
from pipeline.steering import sign
from pipeline.steering.base import CostUnit, Sign
from pipeline.steering.direction import Direction
from pipeline.steering.saved import load_steering, save_steering
from pipeline.steering.sign import Asked, Probe, ask_personas, contrast, decide, log_odds
from pipeline.steering.untouched import Untouched
from pipeline.study.behaviours import load_behaviour
from pipeline.study.probes import probes_of
from tests.refusals import refused

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "data/raw/behaviours").glob("*.yaml"))
YES = [True] * 4 + [False] * 4


@pytest.fixture(scope="module")
def shipped() -> Base:
    folder = ROOT / "models/reference"
    manifest = {"source": str(folder), "revision": None, "weights_sha256": weights_hash(folder)}
    return Base(manifest, load_model(manifest, "float32", "cpu"), load_tokenizer(manifest))


def asked(t: float = 9.0, counts: list[bool] | None = None) -> Asked:
    return Asked([str(i) for i in range(8)], YES, [0.0] * 8, counts or [True] * 8, t)


def answering(monkeypatch, up, down) -> Direction:
    """Return a method whose answers at +c, 0 and -c are given; a flip exchanges the outer two."""
    answers = torch.tensor([up, [0.0] * 8, down])

    def answer(_base, texts, steering, doses):
        turned = answers if steering.vectors[0, 0] > 0 else answers.flip(0)
        return turned[:, [int(text) for text in texts]]

    monkeypatch.setattr(sign, "log_odds", answer)
    return Direction(["layer"], torch.ones(1, 2))


def test_the_contrast_and_its_t_by_hand():
    values = torch.tensor([3.0, 5.0, 1.0, 1.0, 0.0, 2.0])
    half, t = contrast(values, torch.tensor([True, True, False, False, False, False]))
    assert half == pytest.approx((4 - 1) / 2)
    assert t == pytest.approx((4 - 1) / (2 / 2 + (2 / 3) / 4) ** 0.5)
    shifted = contrast(values + 7, torch.tensor([True, True, False, False, False, False]))
    assert shifted == pytest.approx((half, t))


def test_a_movement_that_agrees_is_kept_and_one_that_does_not_is_flipped(monkeypatch):
    rising = [1.0, 2.0, 1.0, 2.0, -1.0, -2.0, -1.0, -2.0]
    falling = [-value / 2 for value in rising]
    steering = answering(monkeypatch, rising, falling)
    kept = decide(None, steering, asked())
    assert kept.decided
    assert not kept.flipped
    assert kept.both_ways
    steering = answering(monkeypatch, falling, rising)
    steering.unit = CostUnit(2.0, 3.0)
    turned = decide(None, steering, asked())
    assert steering.unit == CostUnit(3.0, 2.0)
    assert turned._replace(flipped=False) == pytest.approx(kept)
    assert turned.flipped
    assert torch.equal(steering.vectors, -torch.ones(1, 2))
    assert decide(None, steering, asked()) == kept


def test_saying_yes_to_everything_decides_nothing(monkeypatch):
    up, down = [3.0, 3.1, 2.9, 3.0] * 2, [-3.0, -3.1, -2.9, -3.0] * 2
    found = decide(None, answering(monkeypatch, up, down), asked())
    assert not found.decided
    assert "do not tell +c from -c" in found.said


def test_one_arm_that_goes_the_wrong_way_is_said(monkeypatch):
    up = [3.0, 5.0, 3.0, 5.0, -3.0, -5.0, -3.0, -5.0]
    down = [1.0, 2.0, 1.0, 2.0, -1.0, -2.0, -1.0, -2.0]
    found = decide(None, answering(monkeypatch, up, down), asked())
    assert found.decided
    assert not found.both_ways
    assert "one arm goes the wrong way" in found.said


@pytest.mark.parametrize(("given", "said"), [
    (None, "has no probes"),
    (asked(1.9), "do not move the base model's answers as named"),
    (asked(-9.0), "do not move the base model's answers as named"),
    (asked(float("nan")), "do not move the base model's answers as named"),
    (asked(counts=[True] * 5 + [False] * 3), "do not tell"),
])  # fmt: skip
def test_what_cannot_be_decided_is_left_as_it_is(monkeypatch, given, said):
    answers = [-1.0, -2.0, -1.0, -2.0, 1.0, 2.0, 1.0, 2.0]
    steering = answering(monkeypatch, answers, [-value for value in answers])
    found = decide(None, steering, given)
    assert not found.decided
    assert said in found.said
    assert torch.equal(steering.vectors, torch.ones(1, 2))


def test_an_adapter_that_training_never_improved_has_no_sign(monkeypatch):
    rising = [1.0, 2.0, 1.0, 2.0, -1.0, -2.0, -1.0, -2.0]
    steering = answering(monkeypatch, rising, [-value for value in rising])
    for step, decided in ((48.0, True), (0.0, False)):
        steering.summary = {"best_step": step}
        assert decide(None, steering, asked()).decided is decided
    assert "no step of its training lowered" in decide(None, steering, asked()).said


def test_what_the_personas_share_makes_no_probe_count(monkeypatch, base):
    moved = torch.tensor([-1.0, -2.0, -1.5, -9.0, -5.0, -6.0, -5.5, -1.0])
    answers = torch.stack([moved, torch.zeros(8)])
    monkeypatch.setattr(sign, "log_odds", lambda *_: answers)
    probes = [Probe(f"Is it {i}?", yes) for i, yes in enumerate(YES)]
    found = ask_personas(base, probes, [("Be kind.", "Be cruel.")])
    assert found.counts == [True, True, True, False, True, True, True, False]
    assert found.moved == moved.tolist()


def test_log_odds_are_those_of_rows_alone_and_follow_the_dose(base):
    probes = plain_probes("honesty")[:5]
    texts = ask_personas(base, probes, [("Pretend to be kind.", "Pretend to be rude.")]).texts
    steering = Direction(["model.layers.2"], torch.randn(1, 64, generator=torch.manual_seed(0)))
    together = log_odds(base, texts, steering, [1.0, 0.0])
    alone = [log_odds(base, [text], steering, [1.0])[0, 0] for text in texts]
    torch.testing.assert_close(together[0], torch.stack(alone), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[1], log_odds(base, texts, Untouched(), [0.0])[0])
    assert (together[0] - together[1]).abs().max() > 0.01


def test_the_personas_of_the_bundled_model_answer_as_named(shipped):
    for trait in ("honesty", "fairness"):
        behaviour = load_behaviour(ROOT / f"data/raw/behaviours/{trait}.yaml")
        found = ask_personas(shipped, plain_probes(trait), behaviour.sentences()[:1])
        assert all(found.counts)
        assert found.t > 20


def test_the_sign_is_saved_and_loaded(tmp_path, manifest):
    steering = Direction(["model.layers.2"], torch.ones(1, 64))
    steering.sign = Sign(False, "it was not asked", 1.5)
    save_steering(tmp_path / "saved", "pca", steering, manifest)
    loaded = load_steering(tmp_path / "saved", manifest["weights_sha256"], torch.device("cpu"))
    assert loaded.sign == steering.sign
    assert json.loads((tmp_path / "saved/steering.json").read_text())["sign"]["decided"] is False


@pytest.mark.parametrize("trait", persona_traits())
def test_the_worlds_probes_are_balanced_and_no_held_out_combination(trait):
    probes = plain_probes(trait)
    assert sum(probe.yes for probe in probes) * 2 == len(probes) >= 20
    assert len({probe.question for probe in probes}) == len(probes)
    things = [thing for thing in world()["objects"] if held_out(thing, trait)]
    assert things
    assert not [p for p in probes for thing in things if f"{thing} " in f"{p.question[:-1]} "]
    prompts = " ".join(held_out_items(trait, 40)["prompt"])
    actions = [probe.question.removeprefix("Do you ").rstrip("?") for probe in probes]
    assert not [action for action in actions if action in prompts]
    assert any("Do you" in m["content"] for m in next(documents(0, ["Well,"], 1000)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_behaviour_has_20_to_40_balanced_general_probes(file):
    probes = probes_of(load_behaviour(file), file.stem, "any")
    assert 20 <= len(probes) <= 40
    assert sum(probe.yes for probe in probes) * 2 == len(probes)
    assert max(len(probe.question.split()) for probe in probes) <= 22


def runs(text: str, size: int = 6) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z']+", text.lower())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_no_probe_occurs_in_an_evaluation_set_that_is_at_hand():
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "data/raw/everyday").glob("*")]
    texts += [
        " . ".join(pl.read_csv(file, infer_schema=False).select(pl.all().fill_null("")).rows()[i])
        for file in (ROOT.parent / "shared/data/moralchoice").rglob("*.csv")
        for i in range(pl.read_csv(file, infer_schema=False).height)
    ]
    seen = set().union(*map(runs, texts))
    assert len(seen) > 1000
    own = [
        question.partition(" ")[2]
        for file in FILES
        for question in (load_behaviour(file).probes.yes + load_behaviour(file).probes.no)
    ]
    assert not [question for question in own if runs(question) & seen]


@pytest.mark.parametrize(("probes", "said"), [
    ("{yes: [A?, B?], no: [C?]}", "no"),
    ("{yes: [A?, B?], no: [C?, D?, E?]}", "2 questions under yes and 3 under no: write equally"),
    ("{yes: [A?, B?], no: [C?, A?]}", "a question occurs twice"),
    ("{yes: [A?, B], no: [C?, D?]}", "'B' is no question: end it"),
])  # fmt: skip
def test_bad_probes_are_refused(tmp_path, probes, said):
    file = tmp_path / "b.yaml"
    file.write_text(f"template: be {{persona}}\npersonas: [[a, b]]\nprobes: {probes}")
    refused(said, load_behaviour, file)


def test_neutral_texts_run_what_they_begin_with_once_and_move_the_same(base, monkeypatch):
    began = "Somebody asks the same long question again and again, of everyone in town: "
    texts = [began + word for word in ("why", "who was it", "when")]
    steering = Direction(["model.layers.2"], torch.randn(1, 64, generator=torch.manual_seed(0)))
    towards, layer = torch.randn(64), base.model.get_decoder().layers[3]
    run, repeat = [], sign.repeat_rows

    def counted(model, rows, repeats, depth):
        run.append(rows.ids.numel())
        return repeat(model, rows, repeats, depth)

    def movement() -> dict[str, float]:
        return sign.orientation(base, steering, texts, layer, towards, 2, known=True)

    monkeypatch.setattr(sign, "repeat_rows", counted)
    together = movement()
    monkeypatch.setattr("pipeline.steering.states.shares_rows", lambda *_: False)
    assert together == pytest.approx(movement(), rel=1e-3)
    assert abs(together["orientation_shift"]) > 0.01
    assert run[0] < run[1] / 2
