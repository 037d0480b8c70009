"""One call that brings its base, several adapters at once, a quantised base, and answers with log-odds."""

import json

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor
from typer.testing import CliRunner

from pipeline import answers, ask, load_adapter, load_base, steer
from pipeline.app.answers import penalised
from pipeline.app.export import command, reload
from pipeline.app.export.command import main
from pipeline.cli import app
from pipeline.lm.load import load_model
from pipeline.lm.quantisation import is_packed
from pipeline.scoring.score import score
from pipeline.scoring.wording import dilemma_prompt
from pipeline.steering.methods.dora import DoraModule
from pipeline.steering.methods.lora import LoraModule
from pipeline.steering.methods.mean_diff import MeanDiff
from pipeline.steering.saved import save_steering
from pipeline.support.errors import InputError
from tests.conftest import ROOT
from tests.test_export import NAMES, SHAPES, planted_lora, planted_svd

IDS = torch.arange(40, 52)[None]
ITEM = {"item_id": "one", "prompt": dilemma_prompt("You broke a lamp.", "lie about it")}
CHAT = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, manifest):
    """Adapters of the tiny model, recorded with its folder and an id that no params.yaml lists."""
    model, root = load_model(manifest, "float32", "cpu"), tmp_path_factory.mktemp("saved")
    drawn = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    steerings = {
        "innerpissa": planted_svd(model, SHAPES[0]),
        "lora": planted_lora(model, LoraModule),
        "dora": planted_lora(model, DoraModule),
        "elsewhere": planted_lora(model, DoraModule, ["model.layers.2.mlp.down_proj"]),
        "mean_diff": MeanDiff(["model.layers.1", "model.layers.2"], drawn),
        "pca": MeanDiff(["model.layers.2"], 3 * drawn[:1]),
    }
    for name, steering in steerings.items():
        method = "dora" if name == "elsewhere" else "mean_diff" if name == "pca" else name
        save_steering(root / name, method, steering, {**manifest, "behaviour": name})
    return root


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "in_fresh_process", reload.logits)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def test_an_adapter_brings_its_base(saved, tiny_folder):
    opened = load_adapter(saved / "innerpissa", device="cpu")
    model, tokenizer, adapter = opened
    plain = logits(model)
    with steer(model, adapter, 1.0):
        steered = logits(model)
    base = load_base(str(tiny_folder), device="cpu")
    with steer(base.model, load_adapter(saved / "innerpissa", base), 1.0):
        assert logits(base.model).equal(steered) and not steered.equal(plain)
    assert tokenizer.chat_template == base.tokenizer.chat_template
    *_, texts = answers(opened.base, adapter, CHAT, [-1.0, 0.0, 1.0], 4)
    assert len(texts) == 3


def test_an_adapter_brings_what_its_base_begins_answers_with(saved, manifest, tmp_path):
    adapter = load_adapter(saved / "lora", device="cpu").adapter
    save_steering(tmp_path / "it", "lora", adapter, {**manifest, "answer_prefix": "Answer:"})
    opened = load_adapter(tmp_path / "it", device="cpu")
    assert opened.base.answer_prefix == "Answer:"
    plain = load_adapter(saved / "lora", device="cpu")
    said, other = (ask(one.base, one.adapter, CHAT, [0.0], 1) for one in (opened, plain))
    assert said[0].log_odds != other[0].log_odds


@pytest.mark.parametrize("spelt", ["quantisation", "quantization"])
def test_an_adapter_brings_its_base_in_four_bits(spelt, saved):
    model, _, adapter = load_adapter(str(saved / "innerpissa"), device="cpu", **{spelt: "4bit"})
    assert is_packed(model.get_submodule(NAMES[0]))
    plain = logits(model)
    with steer(model, adapter, 1.0):
        assert (logits(model) - plain).abs().max() > 0.05


@pytest.mark.parametrize("to", ["hub", "bake"])
def test_an_adapter_fitted_on_a_quantised_base_is_exported(to, saved, manifest, tmp_path):
    adapter = load_adapter(saved / "innerpissa", device="cpu").adapter
    save_steering(tmp_path / "it", "innerpissa", adapter, {**manifest, "quantisation": "4bit"})
    main(["it"], to, 1.0, "out", None, False)
    check = json.loads((tmp_path / "out/export.json").read_text())["check"]
    assert check["largest change of a logit"] > 0.05 > check["largest error of a logit"]


def test_a_base_that_is_not_here_is_named_in_one_sentence(saved, manifest, tmp_path, tiny_folder):
    adapter = load_adapter(saved / "lora", device="cpu").adapter
    save_steering(tmp_path / "it", "lora", adapter, {**manifest, "source": "models/gone"})
    with pytest.raises(InputError, match=r"made for tiny \(models/gone\), which is neither in"):
        load_adapter(tmp_path / "it")
    load_adapter(tmp_path / "it", str(tiny_folder), device="cpu")


def test_several_adapters_are_one(saved):
    both = [saved / "innerpissa", saved / "lora"]
    model, _, adapter = load_adapter(both, device="cpu", weights=[1.0, -0.5])
    first, second = (load_adapter(folder, model) for folder in both)
    with steer(model, first, 2.0), steer(model, second, -1.0):
        expected = logits(model)
    with steer(model, adapter, 2.0):
        torch.testing.assert_close(logits(model), expected)
    with pytest.raises(InputError, match="2 adapters and 1 weights do not go together"):
        load_adapter(both, model_base(model), weights=[1.0])


def model_base(model):
    return model.config._name_or_path


@pytest.mark.parametrize(("names", "to"), [
    (["innerpissa", "lora"], "bake"), (["innerpissa", "lora"], "lora"), (["lora", "elsewhere"], "lora"),
    (["lora", "elsewhere"], "bake"), (["mean_diff", "pca"], "vector"), (["mean_diff", "pca"], "gguf"),
])  # fmt: skip
def test_several_adapters_are_exported_as_one(names, to, saved, tmp_path):
    folders = [str(saved / name) for name in names]
    main(folders, to, 1.0, "out", None, False, [1.0, -0.5])
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert f"# {names[0]} and {names[1]} by 1 " in card and "+ -0.5 " in card
    if to == "gguf":
        return  # read back in test_export_forms as here, by the export itself
    model, _, adapter = load_adapter(folders, device="cpu", weights=[1.0, -0.5])
    with steer(model, adapter, 1.0):
        expected = logits(model)
    request = reload.Request("out", model_base(model), "none", 1.0, "float32")
    torch.testing.assert_close(
        reload.logits(request, {"input_ids": IDS}), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("names", "to", "said"), [
    (["innerpissa", "lora"], "hub", "--to hub writes one adapter without a weight: export each by itself"),
    (["lora", "dora"], "lora", "a DoRA shares .* with another adapter"),
    (["lora", "mean_diff"], "lora", "mean difference: a vector is added .*weight: export each by itself$"),
    (["lora", "mean_diff"], "bake", "which has no bias to hold it: export each by itself$"),
    (["lora", "mean_diff"], "vector", "LoRA: no vector is added to any output: export each by itself$"),
])  # fmt: skip
def test_what_several_cannot_be_together_is_refused(names, to, said, saved, tmp_path):
    with pytest.raises(InputError, match=said):
        main([str(saved / name) for name in names], to, 1.0, "out", None, False)
    assert not (tmp_path / "out").exists()


def test_the_terminal_takes_several_adapters_and_a_quantised_base(saved):
    given = ["--adapter", str(saved / "innerpissa"), "--adapter", str(saved / "lora"), "--weight", "1",
             "--weight", "-1", "--quantisation", "8bit", "--device", "cpu", "--max-new-tokens", "4",
             "--repetition-penalty", "1.3"]  # fmt: skip
    found = CliRunner().invoke(app, ["steer", "Who are you?", *given])
    assert found.exit_code == 0, found.output
    found = CliRunner().invoke(app, ["chat", *given], input="hello\n/quit\n")
    assert found.exit_code == 0 and "c = -1" in found.output
    found = CliRunner().invoke(app, ["steer", "Who are you?", *given, "--weight", "3"])
    assert found.exit_code == 2 and "2 adapters and 3 weights do not go together" in found.output


@pytest.mark.parametrize("text", [ITEM["prompt"], "Do you lie?"])
def test_log_odds_per_coefficient_come_with_the_answers(text, saved):
    opened = load_adapter(saved / "innerpissa", device="cpu")
    coefficients = [1.0, 0.0, -1.0]
    replies = ask(opened.base, opened.adapter, text, coefficients, 6)
    assert [reply.coefficient for reply in replies] == coefficients
    assert len({reply.log_odds for reply in replies}) == 3
    chat = [{"role": "user", "content": text}]
    *_, texts = answers(opened.base, opened.adapter, chat, coefficients, 6)
    assert [reply.text for reply in replies] == texts
    assert ask(opened.base, opened.adapter, chat, coefficients, 6) == replies
    if text != ITEM["prompt"]:
        return
    records = score(opened.base, [ITEM], opened.adapter, coefficients)
    for reply in replies:
        own = next(record for record in records if record["coefficient"] == reply.coefficient)
        assert reply.log_odds == pytest.approx(own["log_odds"], abs=1e-4)
        assert reply.choice_mass == pytest.approx(own["choice_mass"], rel=1e-3)


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """On the bundled model, with a planted adapter in the place of the study's."""
    base = load_base(str(ROOT / "models/reference"), "float32", "cpu")
    vector = torch.randn(
        1, base.model.config.hidden_size, generator=torch.Generator().manual_seed(0)
    )
    folder = tmp_path / "models/adapters/innerpissa/seed0"
    known = {"model": "reference", "source": "models/reference"} | {
        "weights_sha256": base.fingerprint
    }
    save_steering(folder, "mean_diff", MeanDiff(["model.layers.2"], vector), known)
    (tmp_path / "models/reference").symlink_to(ROOT / "models/reference")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    notebook = json.loads((ROOT / "docs/talk.ipynb").read_text(encoding="utf-8"))
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    said = capsys.readouterr().out
    assert "restored exactly: True" in said and said.count("-2: ") == 3
    assert len({reply.log_odds for reply in names["replies"]}) == 5


def test_a_repetition_penalty_is_that_of_transformers(saved):
    logits = torch.tensor([[1.0, -1.0, 2.0, 0.5], [1.0, -1.0, 2.0, 0.5]])
    rows = [[0, 1, 0], [2, 3, 3]]
    expected = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor(rows), logits.clone())
    assert penalised(logits, rows, 1.5).equal(expected)
    opened = load_adapter(saved / "lora", device="cpu")

    def written(penalty):
        stream = answers(opened.base, opened.adapter, CHAT, [0.0, 1.0], 24, 0.0, 0, penalty)
        *_, texts = stream
        return texts

    assert written(1.0) != written(50.0)
    with pytest.raises(InputError, match=r"repetition_penalty is 0\.5: give 1 for none"):
        written(0.5)
