"""innerpissa: train one reversible adapter in a model's own SVD basis; measure whether it steers.

`from pipeline import load_base, load_adapter, steer, answers` uses one; see `pipeline/app/use.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.app.answers import answers
    from pipeline.app.use import load_adapter, load_base, steer

__all__ = ["answers", "load_adapter", "load_base", "steer"]


def __getattr__(name: str) -> Any:
    # On first use, so that `import pipeline` and --help stay instant: these modules import torch.
    if name in __all__:
        return getattr(
            import_module("pipeline.app.answers" if name == "answers" else "pipeline.app.use"), name
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
