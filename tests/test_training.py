"""The training loop: it lowers the loss, keeps the best checkpoint, orients on calibration pairs, and repeats exactly."""

from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from pipeline.lm.layers import decoder_layers, linear_modules, select
from pipeline.lm.prompts import tokenize
from pipeline.lm.trunk import trunk_depth
from pipeline.steering import METHODS, pair_batches
from pipeline.steering.pair_batches import base_pass, pair_tokens, run_pairs
from pipeline.steering.sign import orientation
from pipeline.steering.svd import read_cache
from pipeline.support.errors import InputError
from pipeline.support.sections import ModulesParams
from tests.conftest import LEARNED


@pytest.fixture(params=LEARNED)
def fitted(request, fit):
    large = (
        {"rotation_init_std": 0.04, "scale_init_std": 0.04}
        if "rotate" in METHODS[request.param].section.model_fields
        else {}
    )
    return fit(request.param, lr=2e-2, **large)


def test_training_lowers_the_calibration_loss_and_widens_the_separation(fitted):
    held = fitted.history.filter(pl.col("split") == "calibration").sort("step")
    assert held["loss"].min() < held["loss"][0] - 0.1
    moved = "separation" if "separation" in held.columns else "projection"
    assert held[moved][-1] < held[moved][0]
    assert fitted.summary["calibration_loss"] == pytest.approx(held["loss"].min(), abs=1e-5)
    assert held["step"].to_list() == [0, 3, 6, 9]
    assert fitted.summary["best_step"] == held["step"][held["loss"].arg_min()]


def test_the_history_has_every_step(fitted):
    assert fitted.history.filter(pl.col("split") == "train")["step"].to_list() == list(range(1, 10))
    assert fitted.history.filter(pl.col("split") == "train")["lr"].null_count() == 0


def test_orientation_flips_a_method_that_points_the_other_way(fitted, model, pairs, base):
    layer = decoder_layers(model)[3]
    neutral = pairs[1].neutral
    first = orientation(base, fitted, neutral, layer, torch.ones(64), 2)
    before = {key: value.clone() for key, value in fitted.tensors().items()}
    second = orientation(base, fitted, neutral, layer, -torch.ones(64), 2)
    assert second["flipped"] == 1
    assert abs(first["orientation_shift"]) == pytest.approx(
        abs(second["orientation_shift"]), rel=1e-3
    )
    learnt = [key for key in before if key.endswith(("theta_v", "scale", ".B", ".delta"))]
    assert learnt
    assert all(torch.equal(before[key], -fitted.tensors()[key]) for key in learnt)


def test_a_pairs_shared_tail_starts_after_the_persona(tokenizer, pairs, base):
    data = pair_tokens(base, pairs[0], 2)
    for row, (positive, negative) in enumerate(
        zip(pairs[0].positive, pairs[0].negative, strict=True)
    ):
        ids = [tokenize(tokenizer, [text])[0] for text in (positive, negative)]
        count = int(data.chosen[row, 0].sum())
        assert ids[0][-count:] == ids[1][-count:]
        assert ids[0][-count - 1] != ids[1][-count - 1]


def test_the_base_pass_equals_single_rows(model, pairs, base):
    layer, data = (decoder_layers(model)[2], pair_tokens(base, pairs[0], 2))
    plain = base_pass(model, layer, data, 2, 5, distribution=True)
    with torch.no_grad():
        batch = data.batch([3])
        alone = run_pairs(model, layer, batch, 2)
    own = alone.nll[0, 0]
    torch.testing.assert_close(plain.states[3:4], alone.states[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.nll[3, :, -own.shape[-1] :], own, rtol=1e-4, atol=1e-4)
    cut = plain.batch([3], own.shape[-1])
    torch.testing.assert_close(cut.final, batch.by_text(alone.final)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", LEARNED)
def test_both_signs_share_the_layers_below_the_adapter(method, model, pairs, base, fit, study):
    higher = study.modules.model_copy(update={"from_depth": 0.25})
    steering = fit(method, study=replace(study, modules=higher))
    data, layers = (pair_tokens(base, pairs[0], 2).batch([0, 1, 2]), decoder_layers(model))
    count = len(data.laid.rows.ids)
    depth, counted = trunk_depth(model, steering.touched()), []
    assert depth
    layers[0].mlp.register_forward_hook(
        lambda _module, inputs, _output: counted.append(len(inputs[0]))
    )
    found = []
    for shared in (0, depth):
        with (
            torch.no_grad(),
            steering.steer(model, torch.tensor([1.0, -1.0]).repeat_interleave(count)),
        ):
            found.append(run_pairs(model, layers[3], data, 2, 2, depth=shared))
    for whole, once in zip(*found, strict=True):
        assert whole is once is None or torch.allclose(whole, once, rtol=1e-4, atol=1e-4)
    assert counted == [2 * count, count]


def test_the_shift_and_the_entropy_are_the_textbooks(model, pairs, fit, base):
    layer, whole = decoder_layers(model)[2], pair_tokens(base, pairs[0], 2)
    data = whole.batch([0, 1])
    every = base_pass(model, layer, whole, 2, 5, distribution=True)
    cached = every.batch([0, 1], data.chosen.shape[-1])
    steering, count = fit("mean_diff"), int(data.chosen[1, 0].sum())
    signs = torch.tensor([2.0, -1.0])
    with torch.no_grad():
        assert run_pairs(model, layer, data, 2, 2, cached.final).shift.abs().max() < 1e-5
        with steering.steer(model, signs.repeat_interleave(len(data.laid.rows.ids))):
            found = run_pairs(model, layer, data, 2, 2, cached.final)
            unread = run_pairs(model, layer, data, 2, 2)
        torch.testing.assert_close(found.nll, unread.nll)
        for text, c in enumerate(signs.tolist()):
            ids = torch.tensor([whole.texts[2 + text]])
            plain = model(input_ids=ids).logits[0, :-1].softmax(-1)
            with steering.steer(model, c):
                steered = model(input_ids=ids).logits[0, :-1].softmax(-1)
            torch.testing.assert_close(
                found.shift[text, 1, -count:],
                (plain - steered).abs().sum(-1)[-count:] / 2,
                rtol=1e-3,
                atol=1e-4,
            )
            torch.testing.assert_close(
                cached.entropy[1, text, -count:],
                torch.distributions.Categorical(plain).entropy()[-count:],
                rtol=1e-3,
                atol=1e-4,
            )
    assert found.shift[~data.chosen.transpose(0, 1)].abs().max() == 0
    assert found.shift.amax((1, 2)).min() > 0.01


@pytest.mark.parametrize("swapped", [False, True])
def test_only_what_the_barrier_reads_is_compared_and_it_is_the_same(
    swapped, model, pairs, base, fit, monkeypatch
):
    """Also where one pair's positive text is another one's negative, so that their tokens are the same."""
    train = pairs[0]._replace(
        positive=[pairs[0].positive[0], pairs[0].negative[0] if swapped else pairs[0].positive[1]],
        negative=[pairs[0].negative[0], pairs[0].positive[0] if swapped else pairs[0].negative[1]],
    )
    layer, whole = decoder_layers(model)[2], pair_tokens(base, train, 2)
    data, steering = whole.batch([0, 1]), fit("mean_diff")
    final = base_pass(model, layer, whole, 2, 5, distribution=True).final
    compared, plain = [], pair_batches.state_shift

    def counted(model, states, ids, others):
        compared.append(len(states))
        return plain(model, states, ids, others)

    monkeypatch.setattr(pair_batches, "state_shift", counted)
    signs = torch.tensor([2.0, -1.0]).repeat_interleave(len(data.laid.rows.ids))
    with torch.no_grad(), steering.steer(model, signs):
        found = run_pairs(model, layer, data, 2, 2, final)
    others = final.flatten(0, 2)[data.first].repeat(2, 1)
    nll, shift = plain(model, found.final.flatten(0, 1), data.ids.repeat(2), others)
    full = data.by_text(shift.view(2, -1))
    torch.testing.assert_close(found.shift, torch.stack([full[0, :, 0], full[1, :, 1]]))
    torch.testing.assert_close(found.nll, data.by_text(nll.view(2, -1)))
    assert compared == [len(data.ids)]  # where all would be twice as many


def test_accumulated_micro_batches_are_one_batch(fit, study):
    def trained(**changes):
        training = study.training.model_copy(update=changes)
        return fit("innerpissa", study=replace(study, training=training))

    whole, parts = trained(batch_size=12), trained(batch_size=4, accumulate=3)
    assert parts.history["step"].max() == whole.history["step"].max() == 6
    losses = [
        each.history.filter(pl.col("split") == "train")["loss"].to_list() for each in (whole, parts)
    ]
    # The loss scales each micro-batch by its own pairs' mean, so the averages agree closely, not exactly.
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_averaged_gradients_of_equal_terms_are_the_batchs_gradient():
    from pipeline.steering.training.loop import accumulate
    from pipeline.steering.training.partwise import PartwiseObjective

    weight, rows = torch.nn.Parameter(torch.tensor(2.0)), torch.arange(1.0, 8.0)

    class Planted:
        steering = SimpleNamespace(parameters=lambda: [weight])

        def outputs(self, split, part, width):
            return [weight * rows[part].expand(2, -1)]

        def blank(self, split, part, width):
            return [torch.zeros(2, len(part))]

        def terms(self, split, part, outputs, progress):
            return {"square": outputs[0].square().mean()}

    split = SimpleNamespace(width=lambda part: 0)
    found = accumulate(PartwiseObjective(Planted(), 3), split, list(range(7)), 3, 0.0)
    torch.testing.assert_close(weight.grad, (2 * weight * rows.square().mean()).detach())
    torch.testing.assert_close(found["square"], (weight * rows).square().mean().detach())


@pytest.mark.parametrize("method", LEARNED)
def test_a_change_of_rounding_size_stays_small(method, fit):
    """A step without a gradient would let Adam blow up rounding to a full step, and another machine find another adapter."""

    def trained(noise: float) -> torch.Tensor:
        changed = METHODS[method].load()
        build = changed.build

        def build_beside(*arguments):
            modules, last = build(*arguments)
            generator = torch.Generator().manual_seed(1)
            for parameter in (p for module in modules.values() for p in module.parameters()):
                parameter.data.mul_(1 + noise * torch.randn(parameter.shape, generator=generator))
            return modules, last

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(changed, "build", build_beside)
            fitted = fit(method)
        return torch.cat([parameter.detach().flatten() for parameter in fitted.parameters()])

    plain, noisy = trained(0.0), trained(1e-6)
    assert 0 < (noisy - plain).norm() / plain.norm() < 1e-3


def test_the_ramp_counts_optimiser_steps_and_checkpoints_are_compared_at_full_weight(training, fit):
    from pipeline.steering.training.antiparallel import AntiParallelLoss

    seen, plain = [], AntiParallelLoss.__call__

    def watch(self, observed, progress):
        seen.append((torch.is_grad_enabled(), progress))
        return plain(self, observed, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AntiParallelLoss, "__call__", watch)
        fit("antipasto")
    assert [progress for trained, progress in seen if trained] == pytest.approx(
        [step / 9 for step in range(1, 10)]
    )
    assert {progress for trained, progress in seen if not trained} == {1.0}


@pytest.mark.parametrize("changes", [
    {"rotate": "both", "scaling": "tanh", "angle_bound": "elementwise"}, {"rotate": "u", "block_size": 4},
    {"rotate": "none", "scaling": "additive", "dimensions": "random"}, {"scaling": "none", "dimensions": "data_aware", "block_size": 2},
])  # fmt: skip
@pytest.mark.parametrize("name", ["innerpissa", "antipasto"])
def test_every_option_of_the_svd_adapter_trains(name, changes, fit):
    large = {"rotation_init_std": 0.04, "scale_init_std": 0.04, "lr": 2e-2}
    fitted = fit(name, **large, **changes)
    held = fitted.history.filter(pl.col("split") == "calibration")
    assert fitted.summary["calibration_loss"] < held["loss"][0]


@pytest.mark.parametrize("changes", [
    {"form": "tanh_symmetric", "separation": "difference"}, {"form": "logsigmoid_weak", "direction": "adapter"},
    {"direction": "pca", "directions": 2}, {"direction": "top_s", "directions": 8}, {"form": "softplus_ratio"},
])  # fmt: skip
def test_every_option_of_the_contrastive_loss_trains(changes, fit, sections):
    loss = sections["innerpissa"].loss.model_copy(update=changes)
    fitted = fit("innerpissa", loss=loss, lr=2e-2)
    assert (
        fitted.summary["calibration_loss"]
        < fitted.history.filter(pl.col("split") == "calibration")["loss"][0]
    )


@pytest.mark.parametrize("changes", [
    {"projection": "symlog"}, {"subspace": ["task"], "subspace_rank": None, "centred": True},
    {"subspace": ["task", "write", "not_read"], "coherence_weight": 0.0}, {"subspace": ["change", "not_logits"], "ordering_weight": 0.0},
])  # fmt: skip
def test_every_option_of_the_anti_parallel_loss_trains(changes, fit, sections):
    loss = sections["antipasto"].loss.model_copy(update=changes)
    fitted = fit("antipasto", loss=loss, lr=2e-2, rotation_init_std=0.04)
    assert (
        fitted.summary["calibration_loss"]
        < fitted.history.filter(pl.col("split") == "calibration")["loss"][0]
    )


def test_evenly_spaced_modules(model):
    params = ModulesParams(target="residual-writers", from_depth=0, to_depth=1, n_modules=3)
    every = [t.name for t in select(model, params.model_copy(update={"n_modules": None}))]
    assert [t.name for t in select(model, params)] == [every[0], every[2], every[5]]
    with pytest.raises(InputError, match="n_modules 9 is above the 8 modules"):
        select(model, params.model_copy(update={"n_modules": 9}))


def test_the_nll_is_the_models_own(model, pairs, base):
    whole = pair_tokens(base, pairs[0], 2)
    data = whole.batch([0])
    with torch.no_grad():
        nll = run_pairs(model, decoder_layers(model)[2], data, 2).nll
        ids = torch.tensor([whole.texts[0]])
        log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    expected = -log_p.gather(-1, ids[0, 1:, None])[:, 0]
    count = int(data.chosen[0, 0].sum())
    torch.testing.assert_close(nll[0, 0, 0, -count:], expected[-count:], rtol=1e-4, atol=1e-4)


def test_a_loss_layer_inside_the_adapted_layers_is_refused(training, fit, study):
    early = study.training.model_copy(update={"loss_depth": 0.25})
    with pytest.raises(InputError, match="not after the last adapted layer"):
        fit("innerpissa", study=replace(study, training=early))


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
    found = select(
        model, ModulesParams(target=target, from_depth=0.25, to_depth=0.75, n_modules=None)
    )
    assert {t.name.rsplit(".", 1)[-1] for t in found} == expected
    assert {t.layer for t in found} == {1, 2}


def test_targets_by_the_sources_own_regex(model):
    pattern = r".*\.(1|3)\..*(gate_proj|down_proj)"
    found = select(model, ModulesParams(target=pattern, from_depth=0, to_depth=0.1, n_modules=None))
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
        select(model, ModulesParams(target=target, from_depth=0, to_depth=1, n_modules=None))
