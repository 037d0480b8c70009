"""The training loop: it lowers the loss, keeps the best checkpoint, orients on calibration pairs, and repeats exactly."""

import polars as pl
import pytest
import torch

from pipeline.errors import InputError
from pipeline.lm.layers import decoder_layers, linear_modules, select
from pipeline.lm.prompts import tokenize
from pipeline.sections import ModulesParams
from pipeline.steering import LEARNED, METHODS
from pipeline.steering.contrast import base_pass, pair_tensors, run
from pipeline.steering.orient import orientation
from pipeline.steering.svd import read_cache


@pytest.fixture(params=LEARNED)
def fitted(request, model, tokenizer, pairs, context):
    return METHODS[request.param].load().fit(model, tokenizer, *pairs, context(request.param, init_std=0.02), seed=0)


def test_training_lowers_the_calibration_loss_and_widens_the_separation(fitted):
    held = fitted.history.filter(pl.col("split") == "calibration").sort("step")
    assert held["loss"].min() < held["loss"][0] - 0.1
    assert held["separation"][-1] < held["separation"][0]
    assert fitted.summary["calibration_loss"] == pytest.approx(held["loss"].min(), abs=1e-5)
    assert held["step"].to_list() == [0, 3, 6, 9]


def test_the_history_has_every_step(fitted):
    assert fitted.history.filter(pl.col("split") == "train")["step"].to_list() == list(range(1, 10))
    assert fitted.history.filter(pl.col("split") == "train")["lr"].null_count() == 0


def test_orientation_flips_a_method_that_points_the_other_way(fitted, model, tokenizer, pairs):
    layer = decoder_layers(model)[3]
    neutral = pairs[1].neutral
    first = orientation(model, tokenizer, fitted, neutral, layer, torch.ones(64), 2)
    before = {key: value.clone() for key, value in fitted.tensors().items()}
    second = orientation(model, tokenizer, fitted, neutral, layer, -torch.ones(64), 2)
    assert second["flipped"] == 1
    assert abs(first["orientation_shift"]) == pytest.approx(abs(second["orientation_shift"]), rel=1e-3)
    learnt = [key for key in before if key.endswith(("theta_v", "scale"))]
    assert learnt
    assert all(torch.equal(before[key], -fitted.tensors()[key]) for key in learnt)


def test_a_pairs_shared_tail_starts_after_the_persona(tokenizer, pairs):
    data = pair_tensors(tokenizer, pairs[0], 2, torch.device("cpu"))
    for row, (positive, negative) in enumerate(zip(pairs[0].positive, pairs[0].negative, strict=True)):
        ids = [tokenize(tokenizer, [text])[0] for text in (positive, negative)]
        count = int(data.chosen[row, 0].sum())
        assert ids[0][-count:] == ids[1][-count:]
        assert ids[0][-count - 1] != ids[1][-count - 1]


def test_the_base_pass_equals_single_rows(model, tokenizer, pairs):
    layer, data = decoder_layers(model)[2], pair_tensors(tokenizer, pairs[0], 2, torch.device("cpu"))
    states, nll = base_pass(model, layer, data, 2, 5)
    with torch.no_grad():
        alone, own = run(model, layer, data.batch([3]), 2)
    torch.testing.assert_close(states[3:4], alone[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(nll[3, :, -own.shape[-1] :], own[0, 0], rtol=1e-4, atol=1e-4)


def test_the_nll_is_the_models_own(model, tokenizer, pairs):
    data = pair_tensors(tokenizer, pairs[0], 2, torch.device("cpu")).batch([0])
    with torch.no_grad():
        _, nll = run(model, decoder_layers(model)[2], data, 2)
        ids = data.ids[0, :1][:, data.mask[0, 0].bool()]
        log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    expected = -log_p.gather(-1, ids[0, 1:, None])[:, 0]
    count = int(data.chosen[0, 0].sum())
    torch.testing.assert_close(nll[0, 0, 0, -count:], expected[-count:], rtol=1e-4, atol=1e-4)


def test_a_loss_layer_inside_the_adapted_layers_is_refused(model, tokenizer, pairs, context, training):
    from dataclasses import replace

    early = replace(context("innerpissa"), training=training.model_copy(update={"loss_depth": 0.25}))
    with pytest.raises(InputError, match="not after the last adapted layer"):
        METHODS["innerpissa"].load().fit(model, tokenizer, *pairs, early, seed=0)


def test_a_rank_above_the_cache_is_refused(svd_folder):
    name = next(svd_folder.glob("*.safetensors")).stem
    with pytest.raises(InputError, match="rank 65 is above the 64 cached singular values"):
        read_cache(svd_folder, name, 65, torch.device("cpu"))


@pytest.mark.parametrize(("target", "expected"), [
    ("residual-writers", {"o_proj", "down_proj"}),
    ("residual-readers", {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}),
    ("residual-all", {"o_proj", "down_proj", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}),
    (["up_proj"], {"up_proj"}),
])  # fmt: skip
def test_targets_by_role_and_name(model, target, expected):
    found = select(model, ModulesParams(target=target, from_depth=0.25, to_depth=0.75))
    assert {t.name.rsplit(".", 1)[-1] for t in found} == expected
    assert {t.layer for t in found} == {1, 2}


def test_targets_by_the_sources_own_regex(model):
    pattern = r".*\.(1|3)\..*(gate_proj|down_proj)"
    found = select(model, ModulesParams(target=pattern, from_depth=0, to_depth=0.1))
    assert [(t.layer, t.name.rsplit(".", 1)[-1]) for t in found] == [
        (1, "gate_proj"),
        (1, "down_proj"),
        (3, "gate_proj"),
        (3, "down_proj"),
    ]
    assert len(linear_modules(model)) == 28


@pytest.mark.parametrize("target", ["nothing", ["x_proj"], "(", []])
def test_targets_that_match_nothing_are_refused(model, target):
    with pytest.raises(InputError, match=r"matches no linear module|no valid regex"):
        select(model, ModulesParams(target=target, from_depth=0, to_depth=1))
