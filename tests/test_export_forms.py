"""Every form of export of many families, read back as its card tells a stranger, against the steered model."""

import json
import re
import sys

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline import load_base, steer
from pipeline.app.export import command, reload
from pipeline.app.export.command import main
from pipeline.lm.layers import decoder_layers, layers_prefix, linear_modules
from pipeline.steering.methods.dora import DoraModule
from pipeline.steering.methods.lora import LoraModule
from pipeline.steering.methods.mean_diff import MeanDiff
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.saved import save_steering
from pipeline.support.errors import InputError
from tests.architectures import FAMILIES, load_family
from tests.test_export import SHAPES, planted_lora, planted_svd

QUICK = ("gemma3-multimodal", "gpt2")
SIX = torch.arange(1, 7)[None]
families = pytest.mark.parametrize(
    "family",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)


def planted(loaded, kind: str):
    """A method of a family's tiny model, large enough to matter."""
    model, prefix = loaded.model, layers_prefix(loaded.model)
    if kind == "mean_diff":
        drawn = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
        return MeanDiff([f"{prefix}.1", f"{prefix}.2"], drawn)
    if kind == "prompting":
        return Prompting("Be honest.", "Be dishonest.", "user")
    wanted = loaded.family.target
    names = [
        target.name
        for target in linear_modules(model)
        if target.layer in (0, 2)
        and (isinstance(wanted, str) or target.name.rsplit(".", 1)[1] in wanted)
    ]
    if kind == "innerpissa":
        return planted_svd(model, SHAPES[0], names)
    return planted_lora(model, {"lora": LoraModule, "dora": DoraModule}[kind], names)


@pytest.fixture
def quick(monkeypatch):
    """Read exports back in this process; one test below takes a fresh one."""
    monkeypatch.setattr(command, "in_fresh_process", reload.logits)


def code_of(folder) -> str:
    card = (folder / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def as_the_card_says(folder, source, coefficient):
    """Logits of a model that was made by the card's own code; of gguf, by llama.cpp's convention."""
    if (folder / "vector.gguf").exists():
        model = AutoModelForCausalLM.from_pretrained(source)
        for tensor in gguf.GGUFReader(folder / "vector.gguf").tensors:
            added = torch.from_numpy(tensor.data.copy())
            decoder_layers(model)[int(tensor.name.split(".")[1])].register_forward_hook(
                lambda _m, _i, out, added=added: (
                    (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
                )
            )
        return model.eval()(input_ids=SIX).logits
    code = code_of(folder).replace("this/repository", str(folder)).replace("path/to/base", source)
    names: dict = {}
    exec(code, names)
    model = names["model"].eval()
    if "adapter" in names:
        with steer(model, names["adapter"], coefficient):
            return model(input_ids=SIX).logits
    return model(input_ids=SIX).logits


@families
@torch.no_grad()
def test_every_form_read_back_is_the_steered_model(family, quick, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_family(family, tmp_path, tokenizer)
    source = loaded.manifest["source"]
    learned = () if FAMILIES[family].target is None else ("innerpissa", "lora", "dora")
    forms = {
        **{kind: ("bake", "lora", "hub") for kind in learned},
        "mean_diff": ("vector", "gguf", "hub"),
        "prompting": ("hub",),
    }
    for kind, exports in forms.items():
        steering = planted(loaded, kind)
        save_steering(tmp_path / kind, kind, steering, {"model": family, **loaded.manifest})
        with steering.steer(loaded.model, -0.5):
            steered = loaded.model(input_ids=SIX).logits
        plain = loaded.model(input_ids=SIX).logits
        moved = (steered - plain).abs().max()
        assert kind == "prompting" or moved > 1e-3 * plain.abs().max()
        for to in exports:
            out = tmp_path / f"{kind}-{to}"
            main([str(tmp_path / kind)], to, -0.5, str(out), None, False)
            found = as_the_card_says(out, source, -0.5)
            assert (found - steered).abs().max() <= 1e-3 * max(moved, plain.abs().max() / 10), to


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.no_grad()
def test_a_base_in_half_precision_is_exported_in_every_form(
    dtype, quick, model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model.to(getattr(torch, dtype)).save_pretrained("base")
    tokenizer.save_pretrained("base")
    base = load_base(str(tmp_path / "base"), device="cpu")
    drawn = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    steerings = {
        "innerpissa": planted_svd(base.model.float(), SHAPES[0]),
        "dora": planted_lora(base.model.float(), DoraModule),
        "mean_diff": MeanDiff(["model.layers.1"], drawn),
    }
    for kind, steering in steerings.items():
        save_steering(tmp_path / kind, kind, steering, {**base.manifest, "model": "half"})
        for to in ("vector", "gguf", "hub") if kind == "mean_diff" else ("bake", "lora", "hub"):
            main([kind], to, 1.0, f"{kind}-{to}", None, False)
            check = json.loads((tmp_path / f"{kind}-{to}/export.json").read_text())["check"]
            assert 0.1 * check["largest change of a logit"] > check["largest error of a logit"]


def test_an_export_is_read_back_in_a_fresh_process(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_family("gemma3-multimodal", tmp_path, tokenizer)
    save_steering(tmp_path / "it", "innerpissa", planted(loaded, "innerpissa"), {**loaded.manifest})
    main([str(tmp_path / "it")], "lora", 1.0, "out", None, False)
    assert "largest error of a logit" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_what_a_fresh_process_says_in_another_encoding_is_read(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_bytes("#!/bin/sh\necho 'no Größe' >&2\nexit 1\n".encode("latin-1"))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(InputError, match="does not load as its card says .no Gr"):
        reload.in_fresh_process(reload.Request("x", "y", "z", 1.0, "float32"), {"input_ids": SIX})


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda *asked: reload.logits(*asked) + 1, "does not steer as the adapter does"),
        (lambda *_: torch.zeros(1), "does not steer as the adapter does"),
    ],
)
def test_an_export_that_reads_back_otherwise_is_not_written(
    spoilt, said, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "in_fresh_process", spoilt)
    loaded = load_family("qwen3", tmp_path, tokenizer)
    save_steering(tmp_path / "it", "innerpissa", planted(loaded, "innerpissa"), {**loaded.manifest})
    with pytest.raises(InputError, match=said):
        main([str(tmp_path / "it")], "bake", 1.0, "out", None, False)
    assert not (tmp_path / "out").exists()
