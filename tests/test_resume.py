"""Training that is killed goes on with the same bits; a loss that is no number stops it and keeps the best state."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.support.errors import InputError
from pipeline.support.scratch import Scratch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
STEPS = 9
BODY = """
import os, signal, sys, torch
from dataclasses import replace
from pathlib import Path
from pipeline.lm.base import Base
from pipeline.lm.load import load_model, load_tokenizer
from pipeline.support.scratch import Scratch
from pipeline.steering import METHODS

folder, stop = Path(sys.argv[1]), int(sys.argv[2])
given = torch.load(folder / "given.pt", weights_only=False)
plain, calls = torch.nn.utils.clip_grad_norm_, []

def clip(*arguments):
    calls.append(1)
    if len(calls) == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments)

torch.nn.utils.clip_grad_norm_ = clip
model = load_model(given["manifest"], "float32", torch.device("cpu"))
study = replace(given["study"], scratch=Scratch(folder / "kept", seconds=float(sys.argv[3])))
base = Base(given["manifest"], model, load_tokenizer(given["manifest"]))
section = given["section"]
fitted = METHODS[section.method].load().fit(base, given["pairs"], section, study, seed=0)
torch.save((fitted.tensors(), fitted.history.to_dicts(), fitted.summary, len(calls)), folder / "found.pt")
"""


def start(folder: Path, stop: int = 0, seconds: float = 0) -> int:
    (folder / "body.py").write_text(BODY)
    command = [sys.executable, str(folder / "body.py"), str(folder), str(stop), str(seconds)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode


@pytest.mark.parametrize(
    ("method", "seconds", "left"), [("antipasto", 0, STEPS - 4), ("lora", 3600, STEPS - 3)]
)
def test_killed_training_ends_with_the_same_bits(
    method, seconds, left, fit, pairs, sections, study, manifest, tmp_path
):
    """Killed in its fifth step: with a checkpoint at each step four are done, with one at each validation three."""
    section = sections[method].model_copy(update={"lr": 2e-2})
    torch.save(
        {"pairs": pairs, "section": section, "study": study, "manifest": manifest},
        tmp_path / "given.pt",
    )
    assert start(tmp_path, stop=5, seconds=seconds) == -9
    assert not (tmp_path / "found.pt").exists()
    assert start(tmp_path, seconds=seconds) == 0
    tensors, history, summary, calls = torch.load(tmp_path / "found.pt", weights_only=False)
    assert calls == left
    whole = fit(method, lr=2e-2)
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in whole.tensors().items())
    assert history == whole.history.to_dicts()
    assert summary == whole.summary


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_best_state(
    tmp_path, monkeypatch, fit, study
):
    from pipeline.steering.training.contrastive import ContrastiveLoss

    plain = ContrastiveLoss.__call__

    def breaks(self, observed, progress):
        found = plain(self, observed, progress)
        return {
            key: value * float("nan") if progress == 5 / STEPS else value
            for key, value in found.items()
        }

    monkeypatch.setattr(ContrastiveLoss, "__call__", breaks)
    scratch = Scratch(tmp_path / "kept", seconds=3600)
    with pytest.raises(
        InputError,
        match=r"the loss is nan at step 5: lower the method's lr \(0.02\); the best state, of step 3",
    ):
        fit("lora", lr=2e-2, study=replace(study, scratch=scratch))
    kept = Scratch(tmp_path / "kept").file("training").read()
    assert kept["step"] == 3
    assert all(tensor.isfinite().all() for tensor in kept["best"])


def test_a_loss_that_is_no_number_from_the_start_does_not_blame_the_learning_rate(monkeypatch, fit):
    from pipeline.steering.training.contrastive import ContrastiveLoss

    plain = ContrastiveLoss.__call__
    monkeypatch.setattr(
        ContrastiveLoss,
        "__call__",
        lambda self, *seen: {k: v * float("inf") for k, v in plain(self, *seen).items()},
    )
    with pytest.raises(InputError, match="before any training: take dtype float32"):
        fit("innerpissa")


def test_a_scratch_is_forgotten_after_its_days_and_no_earlier(tmp_path):
    from pipeline.support.scratch import KEPT_DAYS, forget

    for name, days in (("train@lora-0-old", KEPT_DAYS + 1), ("train@lora-0-other", KEPT_DAYS - 1)):
        Scratch(tmp_path / name).file("training").write({"step": 1})
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    Scratch(tmp_path / "train@lora-0-new").file("training").write({"step": 1})
    forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train@lora-0-new",
        "train@lora-0-other",
    ]
    forget(tmp_path / "nowhere")
