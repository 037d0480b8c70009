"""Bases in 8 and 4 bits: layers, SVD, exactness at c = 0, training, saving; on the bundled model and on a tiny one."""

from dataclasses import replace

import pytest
import torch

from pipeline.app.use import fingerprint, load_base
from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.layers import linear_modules, select
from pipeline.lm.load import describe, load_model, load_tokenizer
from pipeline.lm.prompts import chat_text, pad_left, tokenize
from pipeline.lm.quantisation import is_packed, memory, weight_of
from pipeline.steering.base import Pairs
from pipeline.steering.certificate import certificate, check
from pipeline.steering.saved import load_steering, save_steering
from pipeline.steering.svd import decompose, write_cache, writers_basis
from pipeline.steering.training.subspace import gather, loss_subspace
from pipeline.support.errors import InputError
from pipeline.support.sections import ModelParams, ModulesParams
from tests.conftest import ROOT

KINDS = ("none", "8bit", "4bit")
CPU = torch.device("cpu")
CHATS = [
    "Do you lie to the boss about the lamp?",
    "Who are you?",
    "What does a dog do, and why does it do that at night?",
]
packed = pytest.mark.parametrize("kind", KINDS[1:])


def load(kind: str, folder, dtype: str = "float32"):
    params = ModelParams(
        source=str(folder),
        revision=None,
        dtype=dtype,
        batch_size=4,
        template_options={},
        quantisation=kind,
    )
    manifest = describe("it", params)
    return manifest, load_model(manifest, dtype, CPU)


@pytest.fixture(scope="module")
def bundled():
    return {kind: load(kind, ROOT / "models/reference") for kind in KINDS}


def rows(tokenizer):
    texts = [chat_text(tokenizer, [{"role": "user", "content": chat}], "My", {}) for chat in CHATS]
    return pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id, CPU)


def logits(model, ids, mask):
    return to_logits(model, last_hidden(model, ids, mask)[:, -1])


def storage(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@packed
@torch.no_grad()
def test_layers_are_found_and_a_weight_is_what_the_forward_pass_multiplies_by(bundled, kind):
    (_, plain), (manifest, model) = bundled["none"], bundled[kind]
    assert manifest["quantisation"] == kind
    wanted = ModulesParams(target="residual-all", from_depth=0.3, to_depth=0.75, n_modules=None)
    targets, others = select(model, wanted), select(plain, wanted)
    assert [target.name for target in targets] == [target.name for target in others]
    generator = torch.Generator().manual_seed(0)
    for target, other in zip(targets, others, strict=True):
        assert is_packed(target.module)
        W, original = weight_of(target.module), weight_of(other.module)
        assert W.shape == original.shape
        assert W.dtype == torch.float32
        assert (
            1e-4
            < ((W - original).norm() / original.norm()).item()
            < {"8bit": 0.02, "4bit": 0.15}[kind]
        )
        x = torch.randn(5, W.shape[1], generator=generator)
        torch.testing.assert_close(
            target.module(x), x @ W.T, rtol=0, atol={"8bit": 0.1, "4bit": 1e-4}[kind]
        )
        assert torch.equal(W, weight_of(target.module))
    for whole in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert whole.weight.dtype == torch.float32
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@packed
@torch.no_grad()
def test_everything_that_reads_weights_reads_the_dequantised_ones(
    bundled, kind, tmp_path, monkeypatch, tokenizer
):
    manifest, model = bundled[kind]
    before = storage(model)
    targets = select(
        model,
        ModulesParams(target="residual-writers", from_depth=0.3, to_depth=0.5, n_modules=None),
    )
    assert (
        write_cache(tmp_path / "svd", targets, None, manifest["weights_sha256"])["relative_error"]
        < 1e-5
    )
    W = weight_of(targets[0].module)
    U, S, V = decompose(W, None)
    torch.testing.assert_close((U * S) @ V.T, W, rtol=1e-4, atol=1e-4)
    base = Base(manifest, model, tokenizer)
    basis = writers_basis(base, 2)
    writers = [
        weight_of(t.module)
        for t in linear_modules(model)
        if t.layer == 2 and t.name.endswith(("o_proj", "down_proj"))
    ]
    top = torch.linalg.eigh(sum(w @ w.T for w in writers)).eigenvectors[:, -1]
    assert abs(basis[:, 0] @ top) > 0.999
    monkeypatch.setattr(
        "pipeline.steering.training.subspace.residual_stream", lambda *_: torch.randn(6, 2, 9, 192)
    )
    evidence = gather(base, Pairs([], [], []), 6, ["write", "not_read"])
    assert loss_subspace(["write", "not_read"], evidence, 4, False).shape == (192, 4)
    assert storage(model).keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in storage(model).items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trains_is_exact_at_zero_and_comes_back(
    kind, dtype, tiny_folder, tokenizer, pairs, fit, study, tmp_path
):
    """The contract on a packed base: c = 0 bit for bit, signs apart, loss lower, packed weights untouched, reload equal."""
    manifest, model = load(kind, tiny_folder, dtype)
    before, ids, mask = storage(model), *rows(tokenizer)
    svd, packed = tmp_path / "svd", Base(manifest, model, tokenizer)
    write_cache(svd, select(model, study.modules), None, manifest["weights_sha256"])
    adapter = fit("innerpissa", lr=2e-2, base=packed, study=replace(study, svd=svd))
    held = adapter.history.filter(adapter.history["split"] == "calibration")["loss"]
    assert held.min() < held[0]
    assert all(tensor.dtype == torch.float32 for tensor in adapter.tensors().values())
    assert adapter.summary["base_mib"] == pytest.approx(memory(model))
    with torch.no_grad():
        base = logits(model, ids, mask)
        with adapter.steer(model, torch.zeros(len(ids))):
            assert torch.equal(logits(model, ids, mask), base)
        found = []
        for c in (1.0, -1.0):
            with adapter.steer(model, c):
                found.append(logits(model, ids, mask))
    assert torch.equal(logits(model, ids, mask), base)
    for one, other in ((found[0], base), (found[1], base), (found[0], found[1])):
        assert (one - other).abs().max() > 1e-3
    save_steering(
        tmp_path / "it", "innerpissa", adapter, {"weights_sha256": manifest["weights_sha256"]}
    )
    loaded = load_steering(tmp_path / "it", manifest["weights_sha256"], CPU)
    check(certificate(packed, adapter, loaded, pairs[1].neutral[:4]), None)
    assert all(torch.equal(before[name], tensor) for name, tensor in storage(model).items())
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", ["dora", "antipasto", "s_space", "gradient"])
def test_other_methods_fit_on_four_bits(method, tiny_folder, tokenizer, fit, study, tmp_path):
    manifest, model = load("4bit", tiny_folder)
    svd, packed = tmp_path / "svd", Base(manifest, model, tokenizer)
    write_cache(svd, select(model, study.modules), None, manifest["weights_sha256"])
    steering = fit(method, base=packed, study=replace(study, svd=svd))
    with torch.no_grad():
        base = logits(model, *rows(tokenizer))
        with steering.steer(model, torch.zeros(len(CHATS))):
            assert torch.equal(logits(model, *rows(tokenizer)), base)
        with steering.steer(model, 1.0):
            assert (logits(model, *rows(tokenizer)) - base).abs().max() > 1e-4


def test_gradients_flow_through_four_bits_as_through_the_dequantised_weight(bundled):
    _, model = bundled["4bit"]
    module = model.model.layers[3].mlp.down_proj
    with torch.no_grad():
        module(
            torch.randn(2, 384)
        )  # a forward pass without gradients first, after which bitsandbytes would have repacked
    x = torch.randn(2, 384, requires_grad=True)
    weights = torch.randn(2, 192)
    (found,) = torch.autograd.grad((module(x) * weights).sum(), x)
    torch.testing.assert_close(found, weights @ weight_of(module), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_holds_of_a_row_alone(bundled, tokenizer):
    """Four bits: to rounding, as without. Eight bits: which inputs count as outliers depends on the whole batch."""
    ids, mask = rows(tokenizer)
    for kind, tolerance in {"none": 1e-4, "4bit": 1e-4, "8bit": 1.0}.items():
        together = logits(bundled[kind][1], ids, mask)
        for row in range(len(ids)):
            alone = logits(bundled[kind][1], ids[row : row + 1], mask[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=tolerance)


def test_the_smaller_forms_are_smaller(bundled):
    sizes = {kind: memory(model) for kind, (_, model) in bundled.items()}
    assert sizes["4bit"] < sizes["8bit"] < sizes["none"]
    assert sizes["none"] == pytest.approx(
        sum(p.nbytes for p in bundled["none"][1].parameters()) / 2**20
    )


def test_an_adapter_of_a_packed_base_fits_the_same_weights_in_any_form(tiny_folder):
    bases = [load_base(str(tiny_folder), quantisation=kind) for kind in KINDS]
    assert len({base.fingerprint for base in bases}) == 1
    assert fingerprint(bases[-1].model) == bases[-1].fingerprint
    with pytest.raises(InputError, match="quantisation '2bit' is unknown: take none, 8bit, 4bit"):
        load_base(str(tiny_folder), quantisation="2bit")


def test_a_checkpoint_that_is_stored_quantised_is_refused(tiny_folder, tmp_path):
    import json
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match="is stored quantised: take its original weights, and set quantisation"
    ):
        load("none", tmp_path / "m")


def test_the_top_level_choice_overrides_the_models(tiny_folder):
    params = ModelParams(
        source=str(tiny_folder), revision=None, dtype="float32", batch_size=4, template_options={}
    )
    assert describe("it", params)["quantisation"] == "none"
    assert describe("it", params, "8bit")["quantisation"] == "8bit"
    held = params.model_copy(update={"quantisation": "4bit"})
    assert describe("it", held)["quantisation"] == "4bit"
    assert describe("it", held, "none")["quantisation"] == "none"
    assert load_tokenizer(describe("it", held)).padding_side == "left"
