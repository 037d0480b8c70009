"""The certificate of reversibility, and several adapters at once."""

import pytest
import torch

from pipeline.steering.certificate import certificate, check
from pipeline.steering.compose import Composed
from pipeline.steering.saved import load_steering, save_steering
from pipeline.support.errors import InputError
from tests.conftest import LEARNED
from tests.test_contract import encode, logits


@pytest.fixture(params=LEARNED)
def found(request, pairs, tmp_path, manifest, base, fit):
    steering = fit(request.param)
    save_steering(
        tmp_path / "it", request.param, steering, {"weights_sha256": manifest["weights_sha256"]}
    )
    loaded = load_steering(tmp_path / "it", manifest["weights_sha256"], torch.device("cpu"))
    return (
        request.param,
        certificate(base, steering, loaded, pairs[1].neutral[:3]),
        steering,
        loaded,
    )


def test_every_learned_method_is_certified(found, sections):
    name, figures, *_ = found
    check(figures, sections[name].max_angle if name == "antipasto" else None)
    assert (figures["zero"], figures["restored"], figures["reload"]) == (0, 0, 0)
    rotates = name in ("innerpissa", "antipasto")
    assert (figures["angle"] is not None) == rotates
    if rotates:
        assert 0 < figures["angle"] < 3.1416
        assert 0 <= figures["orthogonal"] < 1e-4


def test_what_is_not_reversible_is_refused(found, pairs, base):
    name, figures, steering, loaded = found
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(0.1)
    worse = certificate(base, steering, loaded, pairs[1].neutral[:3])
    assert worse["reload"] > 0
    with pytest.raises(InputError, match="not reversible: reload is"):
        check(worse, None)
    for key in ("zero", "restored", "inverse", "orthogonal"):
        with pytest.raises(InputError, match=f"not reversible: {key} is"):
            check(figures | {key: 0.5}, None)
    with pytest.raises(InputError, match="angle is 0.9, at most 0.79"):
        check(figures | {"angle": 0.9}, 0.7854)
    check(figures | {"angle": 3.0}, None)


def test_a_frozen_adapter_follows_a_change_of_its_parameters(found, model, tokenizer):
    """It may keep what it made of them, as long as they are the same."""
    *_, loaded = found
    ids, mask = encode(tokenizer)

    @torch.no_grad()
    def at(c: float) -> torch.Tensor:
        with loaded.steer(model, c):
            return logits(model, ids, mask)

    up, down = at(1.0), at(-1.0)
    loaded.flip()
    torch.testing.assert_close(at(1.0), down, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(at(-1.0), up, rtol=1e-4, atol=1e-4)
    assert (up - down).abs().max() > 1e-3


def test_a_figure_that_is_not_a_number_is_refused(found):
    with pytest.raises(InputError, match="zero is nan"):
        check(found[1] | {"zero": float("nan")}, None)


@pytest.fixture
def two(fit):
    first = fit("innerpissa")
    second = fit("lora", seed=1)
    return first, second


@torch.no_grad()
def test_two_adapters_at_once_each_have_their_own_coefficient(two, model, tokenizer):
    first, second = two
    rows = encode(tokenizer)
    base = logits(model, *rows)
    with first.steer(model, -1.0):
        alone = logits(model, *rows)
    with Composed([(first, -1.0), (second, 0.0)]).steer(model, 1.0):
        assert torch.equal(logits(model, *rows), alone)
    with Composed([(first, -1.0), (second, 2.0)]).steer(model, 1.0):
        both = logits(model, *rows)
    with second.steer(model, 2.0), first.steer(model, -1.0):
        torch.testing.assert_close(logits(model, *rows), both, atol=1e-4, rtol=1e-4)
    assert (both - alone).abs().max() > 1e-3
    assert torch.equal(logits(model, *rows), base)


@torch.no_grad()
def test_a_composition_takes_coefficients_by_row_and_is_the_base_at_zero(two, model, tokenizer):
    both = Composed([(two[0], 1.0), (two[1], -1.0)])
    ids, mask = encode(tokenizer)
    base = logits(model, ids, mask)
    with both.steer(model, torch.zeros(3)):
        assert torch.equal(logits(model, ids, mask), base)
    with both.steer(model, torch.tensor([1.0, 0.0, -0.5])):
        mixed = logits(model, ids, mask)
    with both.steer(model, -0.5):
        torch.testing.assert_close(
            mixed[2:], logits(model, ids[2:], mask[2:]), atol=1e-4, rtol=1e-4
        )
