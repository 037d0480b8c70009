"""Rows in batches: order kept, halved when memory runs out, finished ones reused by a second start."""

import pytest
import torch

from pipeline.lm.batches import in_batches, out_of_memory
from pipeline.support.errors import InputError
from pipeline.support.scratch import Scratch

MESSAGES = {
    "cuda": "CUDA out of memory. Tried to allocate 2.00 GiB",
    "mps": "MPS backend out of memory (MPS allocated: 1 GB)",
    "cpu": "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.",
}


def square(part):
    return torch.tensor(part, dtype=torch.float32)[:, None] ** 2


def test_results_are_in_the_order_of_the_rows():
    seen = []
    found = in_batches(list(range(7)), 3, lambda part: seen.append(part) or square(part), "squares")
    assert found[:, 0].tolist() == [0, 1, 4, 9, 16, 25, 36]
    assert seen == [[6], [3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_out_of_memory_halves_the_batch_keeps_what_was_done_and_says_so(message, capsys):
    done = []

    def work(part):
        if len(part) > 2:
            raise RuntimeError(message)
        done.extend(part)
        return square(part)

    found = in_batches(list(range(13)), 8, work, "squares")
    assert found[:, 0].tolist() == [i * i for i in range(13)]
    assert sorted(done) == list(range(13))
    said = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert said == ["squares: out of memory with 5 rows at once, going on with 2"]


def test_one_row_too_many_is_one_sentence():
    def work(part):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(
        InputError, match="memory does not suffice for squares a single row: shorten"
    ):
        in_batches([1, 2, 3], 2, work, "squares")


def test_other_errors_are_not_swallowed():
    def work(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        in_batches([1, 2, 3], 2, work, "squares")


def test_a_real_failed_allocation_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_a_second_start_computes_only_what_is_missing(tmp_path):
    rows, generator = list(range(20)), torch.Generator().manual_seed(0)
    weights = torch.randn(20, 4, generator=generator)
    whole = in_batches(rows, 4, lambda part: weights[part].exp(), "rows")
    scratch = Scratch(tmp_path / "kept", seconds=0)
    calls = []

    def work(part):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(part)
        return weights[part].exp()

    with pytest.raises(KeyboardInterrupt):
        in_batches(rows, 4, work, "rows", scratch)
    again = []
    found = in_batches(
        rows,
        4,
        lambda part: again.append(part) or weights[part].exp(),
        "rows",
        Scratch(tmp_path / "kept"),
    )
    assert torch.equal(found, whole)
    assert len(again) == 2
    assert not any(part in calls for part in again)


def test_two_calls_of_one_run_have_files_of_their_own(tmp_path):
    for _ in range(2):
        scratch = Scratch(tmp_path / "kept", seconds=0)
        first = in_batches([1, 2], 1, square, "rows", scratch)
        second = in_batches([3, 4], 1, square, "rows", scratch)
        assert first[:, 0].tolist() + second[:, 0].tolist() == [1, 4, 9, 16]
    scratch.clear()
    assert not (tmp_path / "kept").exists()
