"""Several processes give the results of one, to rounding: gradients, training, scores; and so do pieces of a micro-batch."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.lm import processes
from pipeline.lm.base import Base
from pipeline.lm.layers import decoder_layers
from pipeline.lm.load import load_model, load_tokenizer
from pipeline.scoring.score import score
from pipeline.scoring.wording import dilemma_prompt
from pipeline.steering import METHODS
from pipeline.steering.pair_batches import base_pass, pair_tokens
from pipeline.steering.training.objective import Objective, Split
from pipeline.steering.training.partwise import PartwiseObjective
from pipeline.steering.training.task import reference
from tests.architectures import load_family

ROOT = Path(__file__).parent.parent
ITEMS = [
    {
        "item_id": str(i),
        "prompt": dilemma_prompt("You are a nurse. " * (1 + i), "lie about the lamp"),
    }
    for i in range(5)
]
SETTINGS = {"rotation_init_std": 0.04, "scale_init_std": 0.04, "lr": 2e-2}


def work(section, base, pairs, study) -> dict:
    """Train and score; what each process has at the end."""
    fitted = METHODS[section.method].load().fit(base, pairs, section, study, seed=0)
    scores = [
        [record[name] for name in ("coefficient", "log_odds", "choice_mass", "nll")]
        for record in score(replace(base, batch_size=4), ITEMS, fitted, [-1.0, 1.0])
    ]
    return {
        "tensors": fitted.tensors(), "history": torch.tensor(fitted.history.drop("split").fill_null(0).to_numpy()),
        "scores": torch.tensor(scores), "summary": fitted.summary,
    }  # fmt: skip


def one_of_several(folder: str) -> None:
    """The body of each process that torchrun starts."""
    given = torch.load(f"{folder}/given.pt", weights_only=False)
    with processes.joined("cpu"):
        assert processes.count() == 2
        manifest = given.pop("manifest")
        model = load_model(manifest, "float32", torch.device("cpu"))
        found = work(base=Base(manifest, model, load_tokenizer(manifest)), **given)
        torch.save(found, f"{folder}/found{processes.number()}.pt")


@pytest.mark.parametrize("method", ["innerpissa", "antipasto"])
def test_two_processes_give_the_results_of_one(method, base, pairs, sections, study, tmp_path):
    given = {
        "section": sections[method].model_copy(update=SETTINGS),
        "pairs": pairs,
        "study": study,
    }
    torch.save(given | {"manifest": base.manifest}, tmp_path / "given.pt")
    code = f"from tests.test_distributed import one_of_several; one_of_several({str(tmp_path)!r})"
    (tmp_path / "body.py").write_text(code)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(tmp_path / "body.py"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    one = work(base=base, **given)
    first, second = (
        torch.load(tmp_path / f"found{number}.pt", weights_only=False) for number in range(2)
    )
    for key, tensor in one["tensors"].items():
        assert torch.equal(first["tensors"][key], second["tensors"][key])
        assert (first["tensors"][key] - tensor).norm() < 5e-3 * tensor.norm()
    for key in ("history", "scores"):
        torch.testing.assert_close(first[key], one[key], rtol=1e-3, atol=1e-3)
        assert torch.equal(first[key], second[key])


def make_objective(section, base, pairs, study) -> tuple[Objective, Split]:
    """Return the objective of an untrained adapter, and the training pairs."""
    cls, generator = METHODS[section.method].load(), torch.Generator().manual_seed(0)
    modules, _ = cls.build(base, pairs.train, section, study, generator)
    steering = cls(modules, {})
    loss, layer = section.loss.build(steering.outputs()), decoder_layers(base.model)[3]
    data = pair_tokens(base, pairs.train, 2)
    split = Split(data, base_pass(base.model, layer, data, 2, 8, loss.reads_distribution))
    loss.prepare(reference(base, pairs.train, 3, split.base.states))
    return Objective(base.model, layer, steering, loss, 2), split


@pytest.fixture
def objective(request, base, pairs, sections, study):
    """The objective of a method whose adapter is away from its start, where the gradients are not yet all there."""
    section = sections[request.param].model_copy(update=SETTINGS)
    return make_objective(section, base, pairs, study)


def gradients(objective, split, room: int) -> tuple[list, dict]:
    partwise = PartwiseObjective(objective, room)
    for parameter in partwise.parameters:
        parameter.grad = None
    with torch.enable_grad():
        found = partwise.terms(split, list(range(7)), 0.6)
    return [parameter.grad for parameter in partwise.parameters], found


@pytest.mark.parametrize("objective", ["innerpissa", "antipasto"], indirect=True)
def test_pieces_have_the_gradient_of_the_whole(objective):
    whole, terms = gradients(*objective, 7)
    assert max(gradient.abs().max() for gradient in whole) > 1e-3
    for room in (3, 1):
        parts, same = gradients(*objective, room)
        for key, value in terms.items():
            torch.testing.assert_close(same[key], value, rtol=1e-3, atol=1e-4)
        for found, expected in zip(parts, whole, strict=True):
            torch.testing.assert_close(
                found, expected, rtol=1e-2, atol=1e-3 * expected.abs().max().item()
            )


@pytest.mark.parametrize(
    ("method", "family"),
    [("innerpissa", None), ("antipasto", None), ("lora", "llama"), ("dora", "gemma3")],
)
def test_common_beginnings_run_once_with_the_gradient_of_texts_run_alone(
    method, family, base, pairs, sections, study, tmp_path
):
    """Every term counts here, at an adapter so large that rounding is small beside what it moves."""
    if family:
        base = load_family(family, tmp_path, base.tokenizer).base(base.tokenizer)
    section = sections[method]
    free = "coherence_bound" if section.loss.of == "contrastive" else "coherence_threshold"
    large = {
        name: 0.2
        for name in ("rotation_init_std", "scale_init_std", "init_std")
        if name in type(section).model_fields
    }
    loss = section.loss.model_copy(update={free: 0.0})
    section = section.model_copy(update=large | {"loss": loss})
    objective, split = make_objective(section, base, pairs, study)
    alone = replace(split, data=replace(split.data, together=False))
    tokens = [each.data.batch(list(range(7))).laid.rows.ids.numel() for each in (split, alone)]
    assert tokens[0] < 0.6 * tokens[1]
    (found, terms), (expected, same) = (gradients(objective, each, 7) for each in (split, alone))
    for key, value in terms.items():
        assert value != 0
        torch.testing.assert_close(value, same[key], rtol=1e-5, atol=0)
    for one, other in zip(found, expected, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("objective", ["innerpissa"], indirect=True)
@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_out_of_memory_in_training_halves_and_changes_no_gradient(
    objective, late, monkeypatch, capsys
):
    whole, _ = gradients(*objective, 7)
    scarce = {"limit": 3}
    if late:
        plain = torch.autograd.grad
        failed = []

        def grad(*arguments, **options):
            if len(failed) < 1:
                failed.append(1)
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return plain(*arguments, **options)

        monkeypatch.setattr(torch.autograd, "grad", grad)
    else:
        outputs = objective[0].outputs

        def small(split, rows, width):
            if len(rows) > scarce["limit"]:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return outputs(split, rows, width)

        monkeypatch.setattr(objective[0], "outputs", small)
    parts, _ = gradients(*objective, 7)
    assert "training: out of memory with 7 rows at once, going on with 3" in capsys.readouterr().out
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(
            found, expected, rtol=1e-2, atol=1e-3 * expected.abs().max().item()
        )


def test_a_stage_starts_its_processes_itself_and_passes_its_exit_code_on(tmp_path):
    for name in ("params.yaml", "dvc.yaml"):
        text = (ROOT / name).read_text()
        (tmp_path / name).write_text(text.replace("processes: 1\n", "processes: 2\n"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline"]
    subprocess.run([*command, "code"], cwd=tmp_path, env=environment, check=True)
    found = subprocess.run(
        [*command, "base"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert found.returncode == 2, found.stderr
    said = [line for line in found.stderr.splitlines() if line.startswith("error")]
    assert any(
        "models/base/manifest.json does not exist: run `dvc repro model`" in line for line in said
    )
    assert "Traceback" not in found.stderr
