"""A training step never asks a device for a value: on a GPU each such question would empty its queue."""

import inspect
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pipeline
from pipeline.steering import angles, pair_batches
from pipeline.steering.training import contrastive as losses
from pipeline.steering.training.partwise import PartwiseObjective
from tests.conftest import LEARNED
from tests.test_distributed import make_objective

PIPELINE = Path(pipeline.__file__).parent
ASKING = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.equal",
    "aten.is_nonzero",
    "aten._unique2",
    "aten._linalg_check_errors",  # of `solve` and `inv`, which stop at a singular matrix
    "aten._linalg_svd",  # it and what follows ask inside of their kernels
    "aten._linalg_eigh",
    "aten.linalg_eig",
    "aten.linalg_qr",
    "aten.linalg_lstsq",
}
ON_THE_HOST = {
    "adapter.py"
}  # what it asks of the coefficients, which are made there and stay there


def asker() -> str:
    """Return the file of ours that the operation at hand comes from; nothing where it is of a library's own doing."""
    frame = inspect.currentframe()
    while frame and (frame.f_code.co_filename == __file__ or "/torch/" in frame.f_code.co_filename):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename) if frame else Path()
    return path.name if PIPELINE in path.parents else ""


class Solved(NamedTuple):
    result: torch.Tensor


class Questions(TorchDispatchMode):
    """Note where the result of an operation, or its shape, depends on values in a way that the host must know."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).rpartition(".")[0]
        indices = (
            args[1] if name.startswith("aten.index") and isinstance(args[1], (list, tuple)) else []
        )
        masked = any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices
        )
        if (name in ASKING or masked) and (place := asker()) and place not in ON_THE_HOST:
            self.found.append((place, name))
        return func(*args, **(kwargs or {}))


def step(section, base, pairs, study) -> list[tuple[str, str]]:
    """Return what one training step asks."""
    objective, split = make_objective(section, base, pairs, study)
    partwise = PartwiseObjective(objective, 8)
    optimizer = torch.optim.AdamW(partwise.parameters)
    with Questions() as questions, torch.enable_grad():
        partwise.terms(split, list(range(8)), 0.5)
        torch.nn.utils.clip_grad_norm_(partwise.parameters, 1.0)
        optimizer.step()
    assert all(parameter.grad is not None for parameter in partwise.parameters)
    return questions.found


@pytest.mark.parametrize("method", LEARNED)
def test_a_training_step_asks_nothing(method, base, pairs, sections, study):
    assert step(sections[method], base, pairs, study) == []


def test_a_question_is_noticed(base, pairs, sections, study, monkeypatch):
    plain = pair_batches.state_nll
    monkeypatch.setattr(
        pair_batches,
        "state_nll",
        lambda model, states, ids: plain(model, states[states.new_ones(len(ids)) > 0], ids),
    )
    monkeypatch.setattr(
        angles, "spectral_norm", lambda A: torch.linalg.matrix_norm(A, ord=2, keepdim=True)
    )
    monkeypatch.setattr(torch.linalg, "solve_ex", lambda A, B: Solved(torch.linalg.solve(A, B)))
    monkeypatch.setattr(
        losses, "ordering", lambda observed, margin: observed.nll.sum() * observed.nll.max().item()
    )
    bounded = sections["innerpissa"].model_copy(update={"angle_bound": "spectral"})
    found = step(bounded, base, pairs, study)
    assert {
        ("rotation.py", "aten._linalg_check_errors"),
        ("angles.py", "aten._linalg_svd"),
        ("pair_batches.py", "aten.index"),
        ("contrastive.py", "aten._local_scalar_dense"),
    } <= set(found)
