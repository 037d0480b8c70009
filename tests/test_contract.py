"""The contract of every steering method (design: the steering protocol), over the registry."""

import subprocess
import sys

import pytest
import torch

from pipeline.lm.prompts import chat_text, pad_left, tokenize
from pipeline.steering import METHODS
from pipeline.steering.saved import load_steering, save_steering
from pipeline.support.errors import InputError
from tests.conftest import LEARNED

GRADED = [name for name, method in METHODS.items() if method.load().graded]
CHATS = [
    "Do you lie to the boss about the lamp?",
    "Who are you?",
    "What does a dog do, and why does it do that at night?",
]


FITTED = {}


@pytest.fixture
def fitted(request, fit):
    """Fit each method once; what it holds is independent of the model object, which every test loads anew."""
    if request.param not in FITTED:
        FITTED[request.param] = fit(request.param)
    return FITTED[request.param]


def encode(tokenizer, steering=None, coefficient=0.0, chats=CHATS):
    plain = [[{"role": "user", "content": chat}] for chat in chats]
    told = [steering.rewrite(chat, coefficient) if steering else chat for chat in plain]
    return pad_left(
        tokenize(tokenizer, [chat_text(tokenizer, chat, "My", {}) for chat in told]),
        0,
        torch.device("cpu"),
    )


def logits(model, ids, mask, **options):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions, **options).logits[
        :, -1
    ]


every = pytest.mark.parametrize("fitted", METHODS, indirect=True)
graded = pytest.mark.parametrize("fitted", GRADED, indirect=True)


@every
@torch.no_grad()
def test_coefficient_zero_is_the_base_model_bit_for_bit(fitted, model, tokenizer):
    ids, mask = encode(tokenizer, fitted, 0.0)
    base = logits(model, *encode(tokenizer))
    with fitted.steer(model, 0.0):
        assert torch.equal(logits(model, ids, mask), base)
    with fitted.steer(model, torch.zeros(len(ids))):
        assert torch.equal(logits(model, ids, mask), base)


@every
@torch.no_grad()
def test_signs_differ_from_the_base_and_from_each_other(fitted, model, tokenizer):
    found = {}
    for c in (-1.0, 0.0, 1.0):
        with fitted.steer(model, c):
            found[c] = logits(model, *encode(tokenizer, fitted, c))
    for first, second in ((-1, 0), (1, 0), (-1, 1)):
        assert (found[first] - found[second]).abs().max() > 1e-4


@every
@torch.no_grad()
def test_the_model_is_restored_also_after_an_exception(fitted, model, tokenizer):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = logits(model, *encode(tokenizer))
    with pytest.raises(KeyError), fitted.steer(model, 1.0):
        logits(model, *encode(tokenizer))
        raise KeyError
    assert torch.equal(logits(model, *encode(tokenizer)), base)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_the_base_model_gets_no_gradient_and_no_hook_from_a_fit(name, model, fit):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fit(name)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


@every
@torch.no_grad()
def test_a_saved_method_gives_the_same_logits(
    fitted, model, tokenizer, tmp_path, request, manifest
):
    name = request.node.callspec.params["fitted"]
    save_steering(tmp_path / "it", name, fitted, {"weights_sha256": manifest["weights_sha256"]})
    loaded = load_steering(tmp_path / "it", manifest["weights_sha256"], torch.device("cpu"))
    for c in (-1.0, 0.5):
        with fitted.steer(model, c):
            own = logits(model, *encode(tokenizer, fitted, c))
        with loaded.steer(model, c):
            assert torch.equal(logits(model, *encode(tokenizer, loaded, c)), own)


@pytest.mark.parametrize("fitted", LEARNED, indirect=True)
@torch.no_grad()
def test_a_fresh_process_gives_the_same_logits(
    fitted, model, tokenizer, tmp_path, manifest, request
):
    save_steering(
        tmp_path / "it",
        request.node.callspec.params["fitted"],
        fitted,
        {"weights_sha256": manifest["weights_sha256"]},
    )
    ids, mask = encode(tokenizer)
    torch.save((ids, mask), tmp_path / "rows.pt")
    code = f"""
import torch
from pipeline.lm.load import load_model
from pipeline.steering.saved import load_steering
cpu = torch.device("cpu")
model = load_model({manifest!r}, "float32", cpu)
ids, mask = torch.load({str(tmp_path / "rows.pt")!r})
with torch.no_grad(), load_steering(__import__("pathlib").Path({str(tmp_path / "it")!r}), {manifest["weights_sha256"]!r}, cpu).steer(model, 1.0):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    torch.save(model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1], {str(tmp_path / "out.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with fitted.steer(model, 1.0):
        own = logits(model, ids, mask)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), own, rtol=0, atol=1e-5)


@every
def test_another_base_model_is_refused(fitted, tmp_path, request):
    save_steering(
        tmp_path / "it",
        request.node.callspec.params["fitted"],
        fitted,
        {"weights_sha256": "a" * 64},
    )
    with pytest.raises(InputError, match="was fitted on weights aaaa"):
        load_steering(tmp_path / "it", "b" * 64, torch.device("cpu"))


@graded
@torch.no_grad()
def test_rows_with_different_coefficients_equal_the_rows_alone(fitted, model, tokenizer):
    ids, mask = encode(tokenizer)
    coefficients = torch.tensor([1.0, -0.5, 0.0])
    with fitted.steer(model, coefficients):
        together = logits(model, ids, mask)
    for row, c in enumerate(coefficients.tolist()):
        with fitted.steer(model, c):
            alone = logits(model, ids[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


@every
@torch.no_grad()
def test_left_padding_changes_nothing(fitted, model, tokenizer):
    ids, mask = encode(tokenizer, fitted, 1.0, CHATS[:1])
    wider = (
        torch.cat([torch.zeros(1, 9, dtype=torch.long), ids], 1),
        torch.cat([torch.zeros(1, 9, dtype=torch.long), mask], 1),
    )
    with fitted.steer(model, 1.0):
        torch.testing.assert_close(
            logits(model, *wider), logits(model, ids, mask), rtol=1e-4, atol=1e-4
        )


@every
@torch.no_grad()
def test_the_cache_changes_nothing(fitted, model, tokenizer):
    ids, mask = encode(tokenizer, fitted, 1.0, CHATS[:1])
    with fitted.steer(model, 1.0):
        whole = model(input_ids=ids).logits[:, -1]
        first = model(input_ids=ids[:, :-3], use_cache=True)
        rest = model(
            input_ids=ids[:, -3:], past_key_values=first.past_key_values, use_cache=True
        ).logits[:, -1]
    torch.testing.assert_close(whole, rest, rtol=1e-4, atol=1e-4)


@every
@torch.no_grad()
def test_equal_seeds_give_equal_methods(fitted, request, fit):
    name = request.node.callspec.params["fitted"]
    again = fit(name)
    assert all(
        torch.equal(tensor, again.tensors()[key]) for key, tensor in fitted.tensors().items()
    )


@graded
def test_a_wrong_number_of_coefficients_is_refused(fitted, model, tokenizer):
    ids, mask = encode(tokenizer)
    for count in (1, 2):
        with (
            pytest.raises(ValueError, match="coefficients for a batch of 3 rows"),
            fitted.steer(model, torch.ones(count)),
        ):
            logits(model, ids, mask)
