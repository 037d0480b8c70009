"""The protocol of a steering method, what all of them share, and their registry.

The registry has one line per method and names its class without importing it. A method is one file
of `methods/`. It holds formula and source, the section of params.yaml, code, label and look in the
report, and the exact change of weights. To add one, write that file, a line here and a section
under `steering` in params.yaml.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Method:
    """Where the class of a method is: a file of `methods/` and a name in it."""

    code: str

    def load(self) -> Any:
        """Return the class, a `Steering`."""
        module, name = self.code.split(":")
        return getattr(import_module(f"pipeline.steering.methods.{module}"), name)

    @property
    def section(self) -> Any:
        """The type of its section."""
        return self.load().section

    @property
    def learned(self) -> bool:
        """Whether it is trained, and so has seeds."""
        return self.load().learned


METHODS = {
    "innerpissa": Method("innerpissa:InnerPissa"),
    "antipasto": Method("antipasto:AntiPasto"),
    "lora": Method("lora:Lora"),
    "dora": Method("dora:Dora"),
    "prompting": Method("prompting:Prompting"),
    "mean_diff": Method("mean_diff:MeanDiff"),
    "pca": Method("pca:Pca"),
    "s_space": Method("s_space:SSpace"),
    "gradient": Method("gradient:Gradient"),
    "random": Method("random:RandomDirection"),
}
