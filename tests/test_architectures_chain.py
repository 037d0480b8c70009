"""The chain on every decoder family: fit, coefficients, padding, saving and scoring, proved without weights."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.layers import select
from pipeline.lm.prompts import chat_text, pad_left, tokenize
from pipeline.reference.items import held_out_items
from pipeline.scoring.score import score
from pipeline.steering import METHODS
from pipeline.steering.saved import load_steering, save_steering
from pipeline.steering.svd import write_cache
from pipeline.steering.untouched import Untouched
from tests.architectures import CPU, FAMILIES, load_family, modules
from tests.conftest import LEARNED

PLAIN, ADAPTING = ["mean_diff", "gradient"], ["innerpissa", "antipasto", "s_space"]
CASES = [
    (name, method)
    for name, family in FAMILIES.items()
    for method in [*PLAIN, *(ADAPTING if family.target else [])]
]
CHATS = [
    "Do you lie to the boss about the lamp?",
    "Who are you?",
    "What does a dog do, and why does it do that at night?",
]

every = pytest.mark.parametrize(("loaded", "fitted"), CASES, indirect=True, scope="module")
trained = pytest.mark.parametrize(
    ("loaded", "fitted"),
    [case for case in CASES if case[1] in LEARNED],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module")
def loaded(request, tmp_path_factory, tokenizer):
    return load_family(request.param, tmp_path_factory.mktemp(request.param), tokenizer)


@pytest.fixture(scope="module")
def svd(loaded) -> Path | None:
    if loaded.family.target is None:
        return None
    targets = select(loaded.model, modules(loaded.family.target))
    error = write_cache(loaded.folder / "svd", targets, None, loaded.manifest["weights_sha256"])[
        "relative_error"
    ]
    assert error < 1e-4
    return loaded.folder / "svd"


@pytest.fixture(scope="module")
def fitted(request, loaded, svd, tokenizer, pairs, sections, study):
    """Return a method's name and what it fits in a few steps, large enough to see."""
    section = sections[request.param]
    if "rotate" in type(section).model_fields:
        section = section.model_copy(update={"rotation_init_std": 0.04, "scale_init_std": 0.04})
    given = replace(
        study,
        modules=loaded.family.target and modules(loaded.family.target),
        svd=svd,
        rank=8,
        training=study.training.model_copy(update={"epochs": 1}),
    )
    base = Base({}, loaded.model, tokenizer)
    return request.param, METHODS[request.param].load().fit(base, pairs, section, given, seed=0)


def encode(tokenizer):
    texts = [chat_text(tokenizer, [{"role": "user", "content": chat}], "My", {}) for chat in CHATS]
    return pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id, CPU)


def logits(model, ids, mask):
    return to_logits(model, last_hidden(model, ids, mask)[:, -1])


@every
@torch.no_grad()
def test_coefficient_zero_is_the_base_and_the_signs_differ(loaded, fitted, tokenizer):
    (_, steering), rows, found = fitted, encode(tokenizer), {}
    base = logits(loaded.model, *rows)
    for c in (0.0, torch.zeros(len(CHATS)), 1.0, -1.0):
        with steering.steer(loaded.model, c):
            found[c] = logits(loaded.model, *rows)
    zero, rowwise, up, down = found.values()
    assert torch.equal(zero, base)
    assert torch.equal(rowwise, base)
    assert torch.equal(logits(loaded.model, *rows), base)
    for first, second in ((up, base), (down, base), (up, down)):
        assert (first - second).abs().max() > 1e-3


@trained
def test_every_step_changes_the_loss_and_every_target_is_adapted(loaded, fitted):
    _, steering = fitted
    held = steering.history.filter(pl.col("split") == "calibration")["loss"]
    assert len(held) == 2
    assert abs(held[1] - held[0]) > 1e-3
    assert steering.modules.keys() == {
        target.name for target in select(loaded.model, modules(loaded.family.target))
    }
    assert all(tensor.isfinite().all() for tensor in steering.tensors().values())


@every
@torch.no_grad()
def test_rows_and_left_padding_change_nothing(loaded, fitted, tokenizer):
    (_, steering), (ids, mask) = fitted, encode(tokenizer)
    coefficients = torch.tensor([1.0, -0.5, 0.0])
    with steering.steer(loaded.model, coefficients):
        together = logits(loaded.model, ids, mask)
    for row, c in enumerate(coefficients.tolist()):
        real = ids[row : row + 1, mask[row] == 1]
        with steering.steer(loaded.model, c):
            alone = loaded.model(input_ids=real).logits[:, -1]
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-3)


@every
@torch.no_grad()
def test_a_saved_method_gives_the_same_logits(loaded, fitted, tokenizer, tmp_path):
    name, steering = fitted
    save_steering(
        tmp_path / "it", name, steering, {"weights_sha256": loaded.manifest["weights_sha256"]}
    )
    again = load_steering(tmp_path / "it", loaded.manifest["weights_sha256"], CPU)
    found = []
    for each in (steering, again):
        with each.steer(loaded.model, 1.0):
            found.append(logits(loaded.model, *encode(tokenizer)))
    assert torch.equal(*found)


@every
def test_reference_items_are_scored(loaded, fitted, tokenizer):
    base, items = loaded.base(tokenizer), held_out_items("honesty", 2).to_dicts()
    records = score(base, items, fitted[1], [-1.0, 0.0, 1.0])
    plain = {record["item_id"]: record for record in score(base, items, Untouched(), [0.0])}
    assert len(records) == 3 * len(items)
    assert len({round(record["log_odds"], 6) for record in records}) > 2 * len(items)
    for record in records:
        if record["coefficient"] == 0:
            assert record["log_odds"] == pytest.approx(
                plain[record["item_id"]]["log_odds"], abs=1e-4
            )
