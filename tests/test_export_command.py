"""The export command: every form read back by other software, cards that run as they stand, refusals that leave nothing."""

import json
import re
import shutil

import gguf
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from pipeline.app.export import command, reload
from pipeline.app.export.command import main
from pipeline.app.export.vectors import by_layer, vectors
from pipeline.app.opening import load_adapter
from pipeline.app.use import steer
from pipeline.cli import app
from pipeline.lm.layers import decoder_layers
from pipeline.steering.base import CostUnit
from pipeline.steering.methods.mean_diff import MeanDiff
from pipeline.steering.methods.prompting import Prompting
from pipeline.steering.methods.s_space import SSpace
from pipeline.steering.saved import adapter_hash, load_steering, save_steering
from pipeline.support.errors import InputError
from tests.conftest import plain_logits
from tests.test_export import INPUTS, SHAPES, planted_svd

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, manifest):
    """Saved methods: an SVD adapter, vectors at layers 1 and 2, vectors from layer 0 on, words."""
    from pipeline.lm.load import load_model

    model, root = load_model(manifest, "float32", CPU), tmp_path_factory.mktemp("adapters")
    drawn = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    steerings = {
        "innerpissa": planted_svd(model, SHAPES[-2]),
        "mean_diff": MeanDiff(["model.layers.1", "model.layers.2"], drawn),
        "from_zero": MeanDiff(["model.layers.0", "model.layers.1"], drawn),
        "s_space": SSpace({"model.layers.1.mlp.down_proj": {"vector": drawn[0]}}),
        "prompting": Prompting("Be honest.", "Be dishonest.", "user"),
    }
    about = {
        "behaviour": "honesty",
        "seed": 0,
        "dose": {"cost_positive": 0.1, "cost_negative": 0.09, "budget_reached": False},
        "model": "tiny",
        "revision": None,
    }
    for name in ("innerpissa", "s_space"):
        steerings[name].unit = CostUnit(1.5, 0.75)
    for name, steering in steerings.items():
        method = "mean_diff" if name == "from_zero" else name
        known = {"source": manifest["source"], "weights_sha256": manifest["weights_sha256"]}
        save_steering(root / name, method, steering, about | known)
    (root / "broken").mkdir()
    (root / "broken/steering.json").write_text('{"method": "innerpissa"}')
    return root


@pytest.fixture
def place(tmp_path, monkeypatch, adapters):
    """An empty working folder without params.yaml; exports are read back in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "in_fresh_process", reload.logits)
    return adapters


def export(adapters, manifest, name, to, coefficient=1.0, out="out", force=False):
    main([str(adapters / name)], to, coefficient, out, manifest["source"], force)


def steered(adapters, model, name, coefficient):
    with torch.no_grad(), steer(model, load_adapter(adapters / name, model), coefficient):
        return model(**INPUTS).logits


def run_card(folder, base) -> dict:
    """Execute the Python of a card's usage, with its placeholders replaced by folders."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    names: dict = {}
    exec(
        code.replace("this/repository", str(folder)).replace("path/to/base", base["source"]), names
    )
    return names


@pytest.mark.parametrize(
    ("name", "to"), [("innerpissa", "bake"), ("innerpissa", "lora"), ("mean_diff", "vector")]
)
def test_the_code_of_the_card_gives_the_steered_model(place, manifest, model, tmp_path, name, to):
    export(place, manifest, name, to, -0.5)
    loaded = run_card(tmp_path / "out", manifest)["model"].eval()
    torch.testing.assert_close(
        plain_logits(loaded, INPUTS), steered(place, model, name, -0.5), atol=1e-4, rtol=1e-4
    )


def test_a_checkpoint_holds_the_tokenizer_and_its_chat_template(
    place, manifest, tmp_path, tokenizer
):
    export(place, manifest, "innerpissa", "bake")
    loaded = run_card(tmp_path / "out", manifest)["tokenizer"]
    chat = [{"role": "user", "content": "Who are you?"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(
        chat, tokenize=False
    )
    check = json.loads((tmp_path / "out/export.json").read_text())["check"]
    assert check["largest error of a logit"] < 1e-4 < 0.05 < check["largest change of a logit"]


@pytest.mark.parametrize("name", ["innerpissa", "mean_diff", "prompting"])
def test_a_hub_folder_is_an_adapter(place, manifest, tmp_path, name):
    export(place, manifest, name, "hub")
    own, loaded = (
        load_steering(folder, manifest["weights_sha256"], CPU)
        for folder in (place / name, tmp_path / "out")
    )
    assert all(torch.equal(tensor, loaded.tensors()[key]) for key, tensor in own.tensors().items())
    assert own.metadata() == loaded.metadata()
    run_card(tmp_path / "out", manifest)
    assert adapter_hash(tmp_path / "out") == adapter_hash(place / name)


def test_gguf_vectors_read_back_go_where_llama_cpp_adds_them(place, manifest, model, tmp_path):
    """llama.cpp adds direction.N to the output of layer N, counted from 0; layer 0 has no place in it."""
    export(place, manifest, "mean_diff", "gguf", 2.0)
    reader = gguf.GGUFReader(tmp_path / "out/vector.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "qwen3"
    assert reader.get_field("controlvector.layer_count").contents() == 2
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    assert found.keys() == {"direction.1", "direction.2"} and all(
        vector.dtype == torch.float32 for vector in found.values()
    )
    expected = steered(place, model, "mean_diff", 2.0)
    for name, vector in found.items():
        layer = decoder_layers(model)[int(name.split(".")[1])]
        layer.register_forward_hook(
            lambda _m, _i, out, v=vector: (
                (out[0] + v, *out[1:]) if isinstance(out, tuple) else out + v
            )
        )
    torch.testing.assert_close(plain_logits(model, INPUTS), expected, atol=1e-5, rtol=1e-5)
    export(place, manifest, "mean_diff", "vector", 2.0, "other")
    same = load_file(tmp_path / "other/vector.safetensors")
    assert {f"direction.{name[-1]}": vector.tolist() for name, vector in same.items()} == {
        k: v.tolist() for k, v in found.items()
    }


def test_what_gguf_has_no_place_for_is_refused(place, model):
    def layers(name):
        return by_layer(vectors(load_adapter(place / name, model), 1.0), model)

    with pytest.raises(
        InputError, match=r"model\.layers\.0, for which gguf has no place: .* from_depth above 0"
    ):
        layers("from_zero")
    with pytest.raises(
        InputError,
        match=r"down_proj, and gguf control vectors go to whole layers: export with --to vector",
    ):
        layers("s_space")


def evaluate(place, name, hash) -> None:
    """Write what the stage `effects` writes, of one adapter."""
    rows = [
        {
            "method": name,
            "seed": str(seed),
            "coefficient": c,
            "target_effect": c / 8 + seed,
            "ci_low": 0.1,
            "ci_high": 0.2,
            "target_effect_log_odds": c / 2,
            "ci_low_log_odds": 0.3,
            "ci_high_log_odds": 0.6,
            "side_effect": 0.05,
            "delta_nll": 0.3,
            "n_items": 10,
            "n_dilemmas": 5,
        }
        for seed in (0, 1)
        for c in (-1.0, 1.0)
    ]
    rows.append(
        rows[0] | {"seed": "mean", "target_effect": 7.0}
    )  # the table holds rows over seeds too
    place.mkdir()
    pl.DataFrame(rows).write_csv(place / "effects.csv")
    (place / "adapters.json").write_text(
        json.dumps({"evalset": "reference", "adapters": {f"{name}/seed0": hash}})
    )


def test_the_card_shows_the_evaluation_of_exactly_this_adapter(place, manifest, tmp_path):
    shutil.copytree(place / "innerpissa", "own")
    (tmp_path / "own/certificate.json").write_text(
        '{"zero": 0, "restored": 0, "reload": 0, "orthogonal": 1e-7, "angle": 0.5}'
    )
    evaluate(tmp_path / "reports", "innerpissa_variant", adapter_hash(tmp_path / "own"))
    main(["own"], "hub", 1.0, "out", None, False)
    card = (tmp_path / "out/README.md").read_text()
    shown = "| +1 | +0.125 | +0.100 to +0.200 | +0.500 | +0.300 to +0.600 | 0.050 | +0.300 |"
    assert shown in card and "+1.125" not in card
    assert (
        "**Synthetic**" in card
        and "innerpissa_variant/seed0" in card
        and "largest angle 28.6 degrees" in card
    )
    assert manifest["weights_sha256"][:16] in card and "honesty" in card
    assert "c = 1 is 1.5 times what was trained or extracted, c = -1 0.75 times" in card
    assert "cost 0.1 and 0.09 nats per token" in card and "that is not reached" in card
    old = pl.read_csv(tmp_path / "reports/effects.csv").drop("target_effect_log_odds")
    old.write_csv(tmp_path / "reports/effects.csv")
    with pytest.raises(InputError, match="no effects in log-odds: run `dvc repro effects` again"):
        main(["own"], "hub", 1.0, "older", None, False)
    assert not (tmp_path / "older").exists()
    shutil.rmtree(tmp_path / "reports")
    evaluate(tmp_path / "reports", "innerpissa", "another training of the same method and seed")
    main(["own"], "hub", 1.0, "out", None, True)
    assert "No evaluation is attached" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(("name", "to", "said"), [
    ("innerpissa", "vector", "InnerPiSSA: no vector is added to any output: export it with --to bake, lora or hub"),
    ("innerpissa", "onnx", "--to 'onnx' is unknown: take bake, lora, hub, vector, gguf"),
    ("mean_diff", "bake", "mean difference: a vector is added to the output of model.layers.1, which has no bias"),
    ("mean_diff", "lora", "mean difference: a vector is added to modules' outputs, which is no change of a weight"),
    ("prompting", "lora", "prompting changes the words of the chat and nothing of the model: export it with --to hub"),
    ("broken", "hub", "lacks weights_sha256, method, metadata or unit: fit the method again"),
    ("broken", "vector", "lacks weights_sha256, method, metadata or unit: fit the method again"),
    ("nothing", "hub", "adapter .* is neither|is not in the local cache"),
])  # fmt: skip
def test_a_refusal_is_one_sentence_and_leaves_nothing(place, manifest, tmp_path, name, to, said):
    with pytest.raises(InputError, match=said) as found:
        export(place, manifest, name, to)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_if_it_is_an_export_and_by_force(place, manifest, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("words")
    for force in (False, True):
        with pytest.raises(
            InputError, match="mine exists and is no earlier export: name another folder"
        ):
            export(place, manifest, "prompting", "hub", out="mine", force=force)
    assert (tmp_path / "mine/thesis.txt").read_text() == "words"
    export(place, manifest, "innerpissa", "hub")
    before = (tmp_path / "out/steering.json").read_bytes()
    with pytest.raises(InputError, match="out exists already: .* add --force"):
        export(place, manifest, "prompting", "hub")
    with pytest.raises(InputError, match="no vector is added"):
        export(place, manifest, "innerpissa", "vector", force=True)
    assert (tmp_path / "out/steering.json").read_bytes() == before
    export(place, manifest, "prompting", "hub", force=True)
    assert json.loads((tmp_path / "out/steering.json").read_text())["method"] == "prompting"


def test_the_command_line(place, manifest, tmp_path):
    run = CliRunner().invoke
    found = run(
        app, ["export", str(place / "mean_diff"), "--to", "vector", "-c", "-1", "--out", "out"]
    )
    assert found.exit_code == 0 and "out: a control vector" in found.output
    assert (
        run(app, ["export", str(place / "mean_diff"), "--to", "hub", "--out", "out"]).exit_code == 2
    )
    help = run(app, ["export", "--help"]).output
    assert all(
        word in help
        for word in ("bake", "lora", "hub", "vector", "gguf", "--force", "--coefficient")
    )


def test_a_checkpoint_exported_at_zero_is_the_base(place, manifest, tmp_path):
    """A checkpoint exported at 0 is the base, tensor by tensor."""
    export(place, manifest, "innerpissa", "bake", 0.0)
    first, second = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        for folder in (manifest["source"], "out")
    )
    assert all(
        torch.equal(tensor, second.state_dict()[name])
        for name, tensor in first.state_dict().items()
    )
