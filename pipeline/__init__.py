"""innerpissa: train one reversible adapter in a model's own SVD basis; measure whether it steers.

`from pipeline import load_base, load_adapter, steer, answers, ask` uses one; see `pipeline/app`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.app.answers import answers, ask
    from pipeline.app.opening import load_adapter
    from pipeline.app.use import load_base, steer

__all__ = ["answers", "ask", "load_adapter", "load_base", "steer"]
HOMES = {"load_adapter": "opening", "load_base": "use", "steer": "use"}  # else `answers`


def __getattr__(name: str) -> Any:
    # On first use, so that `import pipeline` and --help stay instant: these modules import torch.
    if name in __all__:
        return getattr(import_module(f"pipeline.app.{HOMES.get(name, 'answers')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
