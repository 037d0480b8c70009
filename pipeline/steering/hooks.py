"""Forward hooks on a model: coefficients by row, how hooks are attached, and whether they act."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pipeline.support.errors import InputError

Coefficient = float | int | Tensor  # one for all rows of a batch, or one per row [b]
Hooks = list[tuple[str, Callable]]  # forward hooks, each with the dotted name of its module

# Models on which hooks were seen to act, each with the names of the modules and its code.
ACTING: WeakKeyDictionary[nn.Module, tuple[set[str], list]] = WeakKeyDictionary()
# Models with hooks on them, each with the threads that attached these.
HELD: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()


def at_rows(coefficient: Coefficient, rows: int) -> Tensor:
    """Return float32 coefficients [rows] of a float or of a tensor that already has one per row."""
    by_row = torch.as_tensor(coefficient, dtype=torch.float32)
    if by_row.ndim == 0:
        return by_row.expand(rows)
    check_rows(by_row, rows)
    return by_row


def check_rows(coefficients: Tensor, rows: int) -> None:
    """Refuse coefficients that are not one per row: one would be broadcast silently."""
    if coefficients.shape != (rows,):
        raise ValueError(
            f"{len(coefficients)} coefficients for a batch of {rows} rows: give one number, or one "
            "per row"
        )


def check_batched(output: Tensor) -> None:
    """Refuse the output of a module that is not [b, t, o]."""
    if output.ndim != 3:
        raise InputError(
            "a target module sees its tokens without batch rows, as experts do: leave it out of "
            "modules.target"
        )


def is_zero(coefficient: Coefficient) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == 0


@torch.no_grad()
def check_acts(model: nn.Module, hooks: Hooks, rows: int = 1) -> None:
    """Refuse a model that, run on two tokens, passes by a module that hooks are meant for.

    It is tried once for the same modules and the same code.
    """
    tried = ({name for name, _ in hooks}, code_of(model))
    if not hooks or ACTING.get(model) == tried:
        return
    ran: set[str] = set()
    watchers: Hooks = [(name, lambda *_, name=name: ran.add(name)) for name, _ in hooks]
    ids = torch.zeros(rows, 2, dtype=torch.long, device=next(model.parameters()).device)
    with attached(model, [*hooks, *watchers]):
        model(input_ids=ids, use_cache=False)
    if idle := [name for name, _ in hooks if name not in ran]:
        raise InputError(
            f"{type(model).__name__} passes by {idle[0]}, as traced or fused code does, so that "
            "steering would not act: load the base anew (load_base) and leave its forward alone"
        )
    ACTING[model] = tried


def code_of(model: nn.Module) -> list[tuple[int, int, int]]:
    """Return what changes where a module, its forward or what it is compiled to is replaced."""
    return [
        (id(module), id(module.__dict__.get("forward")), id(module._compiled_call_impl))
        for module in model.modules()
    ]


def hold(model: nn.Module, stack: ExitStack) -> None:
    """Keep a model to this thread until the stack is left."""
    own, threads = threading.get_ident(), HELD.setdefault(model, [])
    if set(threads) - {own}:
        raise InputError(
            "another thread steers this model, and both coefficients would act at once: give each "
            "thread a model of its own, or each row of one batch its coefficient"
        )
    threads.append(own)
    stack.callback(threads.remove, own)


@contextmanager
def attached(model: nn.Module, hooks: Hooks) -> Iterator[None]:
    """Keep forward hooks on the named modules for the duration of a `with` block.

    What torch has compiled knows nothing of them, so that all code runs eagerly meanwhile. Raises
    InputError while another thread steers the model, since both would act at once.
    """
    with ExitStack() as stack:
        if hooks and not torch.compiler.is_dynamo_compiling():
            hold(model, stack)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, hook in hooks:
            stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        yield
