"""Distillation: the odd target by hand, the even part, the budget, and every learned method under it."""

import math
from contextlib import nullcontext
from dataclasses import replace

import polars as pl
import pytest
import torch

from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.layers import decoder_layers
from pipeline.lm.prompts import tokenize
from pipeline.steering import METHODS
from pipeline.steering.training.distil import Distillation, DistilParams
from pipeline.steering.training.lessons import lessons
from pipeline.steering.training.partwise import PartwiseObjective
from pipeline.support.scratch import Scratch
from tests.conftest import LEARNED
from tests.test_waiting import Questions

LARGE = {"rotation_init_std": 0.04, "scale_init_std": 0.04}


def params(**changes) -> DistilParams:
    return DistilParams(**{"gain": 1.0, "even_weight": 0.0, "budget": 0.0} | changes)


def built(base, pairs, sections, study, method="innerpissa"):
    """An adapter away from its start."""
    cls = METHODS[method].load()
    changes = LARGE if method in ("innerpissa", "antipasto") else {"init_std": 0.05}
    section = sections[method].model_copy(update=changes)
    modules, _ = cls.build(base, pairs.train, section, study, torch.Generator().manual_seed(0))
    return cls(modules, section.model_dump(include=set(cls.shape_fields)))


@pytest.fixture
def task(base, pairs, sections, study):
    def make(method="innerpissa", held_out=False, **changes):
        steering, own = built(base, pairs, sections, study, method), params(**changes)
        layer = decoder_layers(base.model)[3]
        split = lessons(base, pairs.train, layer, 2, own.budget, held_out)
        return Distillation(base, steering, own), split

    return make


def alone(base, ids: list[int], steering=None, c=0.0) -> torch.Tensor:
    """Log-probabilities [t, v] after each token of one text, run by itself."""
    row = torch.tensor([ids])
    with steering.steer(base.model, c) if steering else nullcontext():
        hidden = last_hidden(base.model, row, torch.ones_like(row))
    return to_logits(base.model, hidden[0]).log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("method", LEARNED)
def test_the_loss_is_the_formula_on_texts_run_alone(method, task, base, pairs):
    objective, split = task(method, gain=1.7, even_weight=0.6)
    rows = [0, 3, 5, 7]
    found = objective.terms(split, rows, objective.outputs(split, rows, 0), 1.0)
    distil, even, count = 0.0, 0.0, 0
    for row in rows:
        m = split.shared[row]
        texts = [tokenize(base.tokenizer, [part[row]])[0] for part in pairs.train]
        up, down, plain = (alone(base, text)[-m:] for text in texts)
        moved = 1.7 * (up - down) / 2
        q = [alone(base, texts[2], objective.steering, c)[-m:] for c in (1.0, -1.0)]
        for target, own in zip((plain + moved, plain - moved), q, strict=True):
            p = target.softmax(-1)
            distil += (p * (p.log() - own)).sum().item()
        even += (plain.exp() * ((q[0] + q[1]) / 2 - plain) ** 2).sum().item()
        count += m
    assert found["distil"].item() == pytest.approx(distil / count, rel=1e-3)
    assert found["even"].item() == pytest.approx(0.6 * even / count, rel=1e-2, abs=1e-6)


@torch.no_grad()
def test_what_both_personas_share_is_no_part_of_the_target(task):
    """With the same text under both personas there is nothing to teach."""
    objective, split = task()
    rows = [0, 1]
    for row in rows:
        split.taught[row][1] = split.taught[row][0]
    with torch.no_grad():
        for parameter in objective.steering.parameters():
            parameter.zero_()
    found = objective.terms(split, rows, objective.outputs(split, rows, 0), 1.0)
    assert found["distil"].item() == pytest.approx(0, abs=1e-5)


@torch.no_grad()
def test_the_budget_reads_the_bases_own_continuations(task, base, pairs):
    objective, split = task(budget=0.05)
    row, t = 2, split.written[2]
    text = pairs.train.neutral[row]
    ids = torch.tensor(tokenize(base.tokenizer, [text]))
    new = base.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=t, do_sample=False
    )
    assert split.texts[row] == new[0, :-1].tolist()
    kl = 0.0
    plain = alone(base, split.texts[row])[-t:]
    for c in (1.0, -1.0):
        own = alone(base, split.texts[row], objective.steering, c)[-t:]
        kl += (plain.exp() * (plain - own)).sum().item()
    objective.kept[0] += 1.0
    found = objective.terms(split, [row], objective.outputs(split, [row], 0), 1.0)
    assert found["trust"].item() == pytest.approx(kl / (2 * t) / 0.05 - 1, rel=1e-2)


def test_the_weight_rises_while_the_budget_is_overspent_and_never_falls_below_zero(task):
    objective, split = task(budget=1e-6)
    rows = list(range(4))
    weights = []
    for _ in range(3):
        objective.terms(split, rows, objective.outputs(split, rows, 0), 0.5)
        objective.after_step()
        weights.append(objective.kept[0].item())
    assert weights == [0.5, 1.0, 1.5]
    objective.overspent = torch.tensor(-0.5)
    for _ in range(9):
        objective.after_step()
    assert objective.kept[0].item() == 0


def test_an_overspent_checkpoint_counts_as_worse(task):
    objective, split = task(budget=1e-6, held_out=True)
    before = objective.overspent
    found = objective.terms(split, [0], objective.outputs(split, [0], 0), 1.0)
    assert found["trust"] > 10
    assert objective.overspent is before  # lambda follows the training pairs alone


@pytest.mark.parametrize("method", LEARNED)
def test_every_learned_method_comes_nearer_to_the_personas(method, fit, sections):
    section = sections[f"{method}_distil"]
    free = {"max_angle": 1.5} if "max_angle" in type(section).model_fields else {}
    fitted = fit(f"{method}_distil", steps=24, batch_size=6, loss=params(gain=6), lr=3e-2, **free)
    held = fitted.history.filter(pl.col("split") == "calibration")
    assert section.loss.of == "distil"
    assert held["distil"].min() < 0.95 * held["distil"][0]
    assert fitted.history.filter(pl.col("split") == "train").height == 24
    assert fitted.summary["flipped"] == 0


def test_the_budget_holds_back_what_would_overspend_it(fit):
    def held(budget: float) -> pl.DataFrame:
        fitted = fit("innerpissa_distil", steps=40, lr=3e-2, batch_size=6,
                     loss=params(gain=6.0, budget=budget), max_angle=1.5)  # fmt: skip
        return fitted.history.filter(pl.col("split") == "calibration").sort("loss")

    free, bound = held(0.0), held(1e-3)
    assert bound["trust"].max() > 1  # it was overspent on the way, and such a checkpoint left out
    assert bound["trust"][0] == 0
    assert bound["distil"][0] > 1.02 * free["distil"][0]


def gradients(objective, split, room: int) -> list[torch.Tensor]:
    partwise = PartwiseObjective(objective, room)
    for parameter in partwise.parameters:
        parameter.grad = None
    with torch.enable_grad():
        partwise.terms(split, list(range(7)), 0.6)
    return [parameter.grad for parameter in partwise.parameters]


def test_pieces_and_texts_run_apart_have_the_gradient_of_the_whole(task):
    objective, split = task(even_weight=0.5, budget=0.1)
    objective.kept[0] += 0.7
    whole = gradients(objective, split, 7)
    assert split.together
    split.together = False
    apart = gradients(objective, split, 7)
    split.together = True
    for others in (apart, gradients(objective, split, 3)):
        for found, expected in zip(others, whole, strict=True):
            assert (found - expected).norm() < 1e-4 * expected.norm()


def test_a_step_asks_the_device_nothing(task):
    objective, split = task(even_weight=0.5, budget=0.1)
    partwise = PartwiseObjective(objective, 8)
    with Questions() as questions, torch.enable_grad():
        partwise.terms(split, list(range(8)), 0.5)
        objective.after_step()
    assert questions.found == []


def test_an_interrupted_run_goes_on_with_its_weight(fit, study, tmp_path, monkeypatch):
    changes = {"steps": 6, "batch_size": 6, "loss": params(gain=3.0, budget=1e-3), "lr": 2e-2}
    whole = fit("innerpissa_distil", **changes)
    stepped = Distillation.after_step
    steps = []

    def stop(self):
        stepped(self)
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Distillation, "after_step", stop)
    kept = replace(study, scratch=Scratch(tmp_path / "kept", seconds=0))
    with pytest.raises(KeyboardInterrupt):
        fit("innerpissa_distil", study=kept, **changes)
    again = fit("innerpissa_distil", study=kept, **changes)
    for key, tensor in whole.tensors().items():
        assert torch.equal(again.tensors()[key], tensor)
    assert math.isfinite(again.summary["calibration_loss"])
