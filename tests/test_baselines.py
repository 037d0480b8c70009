"""Planted answers for the arithmetic baselines, and parity with sklearn."""

import pytest
import torch
from sklearn.decomposition import PCA

from pipeline.lm.forward import last_hidden, read_layers
from pipeline.lm.layers import decoder_layers, layers_prefix
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.methods.mean_diff import MeanDiff
from pipeline.steering.methods.pca import Pca, PcaParams
from pipeline.steering.methods.random import RandomDirection
from pipeline.steering.states import pair_differences, residual_stream
from pipeline.support.errors import InputError
from tests.architectures import load_family

SECTION = PcaParams(method="pca", from_depth=0.25, to_depth=0.75, last_tokens=1, centred=False)


@pytest.fixture
def differences():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 2, 10, generator=generator)
    rows[:, :, 4] += 3
    rows[:, :, 7] += 8 * torch.randn(60, 1, generator=generator)
    return rows


def test_centred_pca_is_sklearns(differences):
    found = Pca.unit_directions(differences, SECTION.model_copy(update={"centred": True}), 0)
    for layer in range(2):
        expected = torch.from_numpy(PCA(1).fit(differences[:, layer].numpy()).components_[0])
        assert abs(found[layer] @ expected) == pytest.approx(1, abs=1e-4)


def test_centring_loses_the_common_direction_and_the_mean_keeps_it(differences):
    calm = differences.clone()
    calm[:, :, 7] /= 16
    assert Pca.unit_directions(calm, SECTION, 0)[0, 4] > 0.9
    assert (
        abs(Pca.unit_directions(calm, SECTION.model_copy(update={"centred": True}), 0)[0, 4]) < 0.6
    )
    assert MeanDiff.unit_directions(calm, SECTION, 0)[0, 4] > 0.9


def test_the_pca_sign_is_the_majority_of_pairs(differences):
    for sign in (1, -1):
        votes = (sign * differences)[:, 0] @ Pca.unit_directions(sign * differences, SECTION, 0)[0]
        assert (votes > 0).sum() >= 30


def test_random_directions_are_unit_and_differ_by_seed(differences):
    first, second = (RandomDirection.unit_directions(differences, SECTION, seed) for seed in (0, 1))
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(2))
    assert abs((first * second).sum(-1)).max() < 0.95


@torch.no_grad()
def test_one_unit_adds_the_mean_difference_shared_over_the_layers(
    model, tokenizer, pairs, fit, base
):
    steering = fit("mean_diff", from_depth=0.25, to_depth=0.75)
    differences = pair_differences(base, pairs[0], steering.sites, 1)
    torch.testing.assert_close(steering.vectors, differences.mean(0) / 2)
    ids, mask = pad_left(tokenize(tokenizer, pairs[0].neutral[:3]), 0, torch.device("cpu"))
    with read_layers([decoder_layers(model)[1]]) as seen:
        last_hidden(model, ids, mask)
        plain = seen[0]
        with steering.steer(model, 2.0):
            last_hidden(model, ids, mask)
    # The reader was attached first, so it sees the layer's own output, which only later layers' inputs change.
    torch.testing.assert_close(seen[0], plain)
    with steering.steer(model, 2.0), read_layers([decoder_layers(model)[1]]) as seen:
        last_hidden(model, ids, mask)
    torch.testing.assert_close(
        seen[0] - plain, (2 * steering.vectors[0]).expand_as(plain), atol=1e-5, rtol=1e-4
    )


def test_pair_differences_do_not_depend_on_the_batch(pairs, monkeypatch, base):
    whole = pair_differences(base, pairs[0], ["model.layers.1", "model.layers.2"], 1)
    monkeypatch.setattr("pipeline.steering.states.ROWS", 2)
    torch.testing.assert_close(
        pair_differences(base, pairs[0], ["model.layers.1", "model.layers.2"], 1),
        whole,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_texts_with_one_beginning_have_the_states_that_they_have_alone(
    family, pairs, tmp_path, tokenizer, monkeypatch
):
    base = load_family(family, tmp_path, tokenizer).base(tokenizer)
    site = layers_prefix(base.model) + ".2"
    ran, found = [], []
    base.model.get_submodule(site).register_forward_pre_hook(
        lambda _module, inputs: ran.append(inputs[0].shape[:2].numel())
    )
    for together in (True, False):
        ran.clear()
        monkeypatch.setattr("pipeline.steering.states.shares_rows", lambda *_, t=together: t)
        found.append(
            [pair_differences(base, pairs[0], [site], 2), residual_stream(base, pairs[0], [2, 3])]
        )
        found[-1].append(sum(ran))
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()
    assert found[0][2] < 0.6 * found[1][2]


def test_more_last_tokens_than_a_text_has_are_refused(base, pairs):
    with pytest.raises(InputError, match=r"a text has only \d+ tokens: lower last_tokens \(99\)"):
        pair_differences(base, pairs[0], ["model.layers.1"], 99)


def test_an_empty_layer_range_is_refused(fit):
    with pytest.raises(InputError, match=r"no layer lies between depth 0\.5 and 0\.5"):
        fit("mean_diff", from_depth=0.5, to_depth=0.5)
