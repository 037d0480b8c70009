"""Load, steer, answer: the few lines that a user of a fitted adapter needs."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from transformers import AutoModelForCausalLM

from pipeline import answers, load_adapter, load_base, steer
from pipeline.lm.base import Base
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering import METHODS
from pipeline.steering.saved import save_steering
from pipeline.support.errors import InputError
from tests.conftest import ROOT, make_tiny

CPU = torch.device("cpu")
CHAT = [{"role": "user", "content": "Do you lie to the boss about the lamp?"}]
NAMES = ("innerpissa", "mean_diff", "prompting")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, manifest, tokenizer, pairs, sections, study):
    """Fit one adapter of each kind on the tiny model and save it: a trained one, an added direction, a rewriting one."""
    from pipeline.lm.load import load_model

    base = Base(manifest, load_model(manifest, "float32", CPU), tokenizer)
    root = tmp_path_factory.mktemp("adapters")
    for name in NAMES:
        fitted = METHODS[name].load().fit(base, pairs, sections[name], study, seed=0)
        about = {"model": "tiny", "source": "some/tiny", "revision": "0123456789abcdef"}
        save_steering(
            root / name, name, fitted, about | {"weights_sha256": manifest["weights_sha256"]}
        )
    return root


@pytest.fixture
def adapter(saved, model, request):
    return load_adapter(saved / getattr(request, "param", "innerpissa"), model)


every = pytest.mark.parametrize("adapter", NAMES, indirect=True)


def last(stream):
    *_, texts = stream
    return texts


def ask(base, adapter, coefficients, count=12, **settings):
    return last(answers(base, adapter, CHAT, coefficients, count, **settings))


def prompt_rows(tokenizer, chats):
    texts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    return pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id, CPU)


def plain_generate(model, tokenizer, chats, count=12) -> tuple[torch.Tensor, list[str]]:
    """Decode greedily with transformers' own loop and cache; return the new ids and their texts."""
    ids, mask = prompt_rows(tokenizer, chats)
    new = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=count, do_sample=False)[
        :, ids.shape[1] :
    ]
    return new, [
        text.rstrip("\ufffd") for text in tokenizer.batch_decode(new, skip_special_tokens=True)
    ]


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, pipeline; print([m for m in ('torch', 'transformers', 'polars', 'pydantic') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
    import pipeline

    with pytest.raises(AttributeError, match="no attribute 'stear'"):
        pipeline.stear  # noqa: B018


@torch.no_grad()
def test_five_lines(tiny_folder, manifest, saved):
    base = load_base(str(tiny_folder), device="cpu")
    assert base.fingerprint == manifest["weights_sha256"]
    assert not any(p.requires_grad for p in base.model.parameters())
    ids, _ = prompt_rows(base.tokenizer, [CHAT])
    plain = base.model(ids).logits
    for given in (base, base.model):
        with steer(base.model, load_adapter(str(saved / "innerpissa"), given), 1.0):
            assert (base.model(ids).logits - plain).abs().max() > 1e-4
    assert torch.equal(base.model(ids).logits, plain)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_base_runs_in_the_precision_asked_for(tiny_folder, dtype):
    base = load_base(str(tiny_folder), dtype, "cpu")
    assert base.model.dtype == (torch.bfloat16 if dtype else torch.float32)


def test_an_unknown_precision_is_refused(tiny_folder):
    with pytest.raises(
        InputError, match="dtype 'fp16' is unknown: take float32, bfloat16, float16"
    ):
        load_base(str(tiny_folder), "fp16")


def test_a_model_from_transformers_is_known_by_its_files(tiny_folder, saved):
    load_adapter(saved / "innerpissa", AutoModelForCausalLM.from_pretrained(tiny_folder))


def test_another_base_is_refused_by_name(tmp_path, saved, manifest):
    other = load_base(str(make_tiny(tmp_path / "other", seed=1)), device="cpu")
    with pytest.raises(InputError) as found:
        load_adapter(saved / "innerpissa", other)
    wanted = f"was fitted on weights {manifest['weights_sha256'][:12]} of tiny (some/tiny at 0123456789ab), this base model has"
    assert f"{wanted} {other.fingerprint[:12]}: load the base it was made for" in str(found.value)


def test_a_model_of_unknown_weights_is_refused(saved, model):
    model.config._name_or_path = ""
    with pytest.raises(InputError, match="its weights are unknown: take load_base"):
        load_adapter(saved / "innerpissa", model)


@every
def test_coefficient_zero_decodes_as_transformers_does(adapter, base, model, tokenizer):
    _, expected = plain_generate(model, tokenizer, [CHAT], 24)
    assert ask(base, adapter, [0.0], 24) == expected
    assert ask(base, adapter, [-1.0, 0.0, 1.0], 24)[1] == expected[0]


@torch.no_grad()
def test_rows_at_zero_are_the_base_bit_for_bit_within_a_batch(adapter, model, tokenizer):
    ids, mask = prompt_rows(tokenizer, [CHAT] * 3)
    base = model(input_ids=ids, attention_mask=mask).logits
    with steer(model, adapter, [-1.0, 0.0, 1.0]):
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits[1], base[1])


@every
def test_side_by_side_equals_each_coefficient_alone(adapter, base):
    coefficients = [-2.0, -0.5, 0.0, 1.0, 2.0]
    together = ask(base, adapter, coefficients)
    assert together == [ask(base, adapter, [c])[0] for c in coefficients]
    assert len(set(together)) >= 3


@every
def test_answers_equal_generate_under_steering(adapter, base, model, tokenizer):
    """The rewritten chats have different lengths, so this holds left padding and the cache to transformers' own."""
    coefficients = [-1.0, 0.0, 1.0]
    with steer(model, adapter, coefficients):
        _, expected = plain_generate(
            model, tokenizer, [adapter.rewrite(CHAT, c) for c in coefficients]
        )
    assert ask(base, adapter, coefficients) == expected


def test_generate_with_one_coefficient_per_row_and_a_cache(adapter, model, tokenizer):
    coefficients = torch.tensor([1.0, -1.0, 0.0])
    with steer(model, adapter, coefficients):
        together, _ = plain_generate(model, tokenizer, [CHAT] * 3)
    for row, c in zip(together, coefficients.tolist(), strict=True):
        with steer(model, adapter, c):
            assert torch.equal(plain_generate(model, tokenizer, [CHAT])[0][0], row)


def test_answers_grow_token_by_token(adapter, base):
    steps = list(answers(base, adapter, CHAT, [-1.0, 1.0], 12))
    assert 2 <= len(steps) <= 12
    for before, after in zip(steps, steps[1:], strict=False):
        assert all(new.startswith(old) for old, new in zip(before, after, strict=True))
    assert all(steps[-1])


def test_the_model_is_untouched_between_tokens(adapter, base, model):
    stream = answers(base, adapter, CHAT, [1.0, 2.0], 12)
    next(stream)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_eos_ends_a_row_and_the_others_go_on(adapter, base, model, tokenizer):
    coefficients = [-2.0, 0.0, 2.0]
    with steer(model, adapter, coefficients):
        ids, _ = plain_generate(model, tokenizer, [CHAT] * 3)
    place, stop = next(
        (i, t)
        for i, t in enumerate(ids[0].tolist())
        if i and t not in ids[0, :i] and t not in ids[1:]
    )
    model.generation_config.eos_token_id = [stop, tokenizer.eos_token_id]
    found = ask(base, adapter, coefficients)
    cut = [ids[0, :place], ids[1], ids[2]]
    assert found == [
        text.rstrip("\ufffd") for text in tokenizer.batch_decode(cut, skip_special_tokens=True)
    ]
    assert len(list(answers(base, adapter, CHAT, [-2.0], 12))) == place + 1


def test_draws_depend_on_the_seed_alone(adapter, base):
    def draw(coefficients, seed):
        return ask(base, adapter, coefficients, temperature=1.5, seed=seed)

    assert draw([0.0, 1.0], 3) == draw([0.0, 1.0], 3)
    assert draw([0.0, 1.0], 3)[1] == draw([1.0], 3)[0]
    assert draw([0.0, 0.0], 3) == draw([0.0], 3) * 2
    assert draw([0.0], 3) != draw([0.0], 4)


def test_draws_follow_the_tempered_softmax():
    from pipeline.app.answers import choose

    logits, generator = torch.tensor([[0.0, 1.0, 2.0]]), torch.Generator().manual_seed(0)
    counts = torch.bincount(
        torch.cat([choose(logits, 2.0, generator) for _ in range(4000)]), minlength=3
    )
    torch.testing.assert_close(counts / 4000, (logits[0] / 2).softmax(-1), rtol=0, atol=0.03)


@pytest.mark.parametrize(("changes", "said"), [
    ({"coefficients": []}, r"coefficients \[\] cannot be used"),
    ({"coefficients": [0.0, float("nan")]}, "give one or more finite numbers"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0: give 1 or more"),
    ({"max_new_tokens": 1024}, "are more than the model's 1024: shorten one of them"),
    ({"temperature": -1.0}, "temperature is -1.0: give 0"),
    ({"coefficients": [0.0, 1e30]}, r"logits are not finite at coefficients \[1e\+30\]: take smaller ones"),
])  # fmt: skip
def test_bad_requests_are_refused_in_one_sentence(adapter, base, changes, said):
    settings = {"messages": CHAT, "coefficients": [0.0], "max_new_tokens": 4} | changes
    with pytest.raises(InputError, match=said) as found:
        next(answers(base, adapter, **settings))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "coefficient", [float("nan"), [0.0, float("inf")], torch.tensor(float("nan"))]
)
def test_a_coefficient_that_is_not_finite_is_refused(adapter, model, coefficient):
    with pytest.raises(InputError, match="cannot be used: give a finite number, or one per row"):
        steer(model, adapter, coefficient)


def test_a_tokenizer_without_a_chat_template_is_refused(adapter, base):
    base = replace(base, tokenizer=SimpleNamespace(chat_template=None))
    with pytest.raises(InputError, match="no chat template"):
        next(answers(base, adapter, CHAT, [0.0], 4))


@pytest.mark.parametrize(("source", "said"), [
    ("no/such-adapter-anywhere", "hub cannot be reached|neither a folder nor on the hub"),
    ("a/b/c/d", "neither a folder nor a hub id"),
])  # fmt: skip
def test_an_adapter_that_cannot_be_found_is_refused(model, source, said):
    with pytest.raises(InputError, match=said):
        load_adapter(source, model)


@pytest.mark.parametrize(("error", "said"), [
    (errors.GatedRepoError, "is gated"),
    (errors.RevisionNotFoundError, "has no revision 'v2'"),
    (errors.RepositoryNotFoundError, "is neither a folder nor on the hub"),
    (errors.HfHubHTTPError, "the hub cannot be reached"),
])  # fmt: skip
def test_the_hubs_refusals_are_one_sentence(model, monkeypatch, error, said):
    def refuse(*_arguments, **_settings):
        raise error("no\nno", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("pipeline.lm.sources.snapshot_download", refuse)
    with pytest.raises(InputError, match=said) as found:
        load_adapter("some/adapter", model, revision="v2")
    assert "\n" not in str(found.value)


def test_an_adapter_comes_from_the_hub_without_anything_that_runs(saved, model, monkeypatch):
    asked = {}

    def download(source, **settings):
        asked.update(settings, source=source)
        return str(saved / "innerpissa")

    monkeypatch.setattr("pipeline.lm.sources.snapshot_download", download)
    load_adapter("some/adapter", model, revision="v2")
    assert asked == {
        "source": "some/adapter",
        "revision": "v2",
        "allow_patterns": ["*.json", "*.safetensors"],
    }


@pytest.mark.parametrize(("content", "said"), [
    (None, "holds no steering.json"),
    ('{"method": "innerpissa"', "is not valid JSON"),
    ('{"method": "innerpissa"}', "lacks weights_sha256, method, metadata or unit"),
    ('{"method": "magic", "weights_sha256": "OWN", "metadata": {}, "unit": {}}', "'magic', which is none of innerpissa"),
    ('{"method": "innerpissa", "weights_sha256": "OWN", "metadata": {"rotate": "v"}, "unit": {}}', "do not fit together"),
])  # fmt: skip
def test_a_folder_that_is_no_adapter_is_refused(tmp_path, saved, model, manifest, content, said):
    if content:
        (tmp_path / "steering.json").write_text(content.replace("OWN", manifest["weights_sha256"]))
        (tmp_path / "steering.safetensors").write_bytes(
            (saved / "innerpissa/steering.safetensors").read_bytes()
        )
    with pytest.raises(InputError, match=said):
        load_adapter(tmp_path, model)


def test_a_folder_that_is_no_model_is_refused(saved):
    with pytest.raises(InputError, match=r"holds no config\.json, so it is no model"):
        load_base(str(saved / "innerpissa"))


def test_the_white_lie_refuses_in_one_sentence(tmp_path):
    script = [sys.executable, "docs/white_lie.py", str(tmp_path)]
    found = subprocess.run(
        script, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert found.returncode == 2
    assert (
        found.stderr.splitlines()[-1]
        == f"error: {tmp_path} holds no steering.json: fit the method first (`dvc repro`)"
    )
