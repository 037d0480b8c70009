"""The registry of steering methods. It names their code without importing it, so that it costs
nothing to read.
"""

from dataclasses import dataclass
from importlib import import_module

from pipeline.study.sections import (
    BaselineParams,
    DirectionParams,
    GradientParams,
    LearnedParams,
    LoraParams,
    PcaParams,
    PromptingParams,
    RandomParams,
    SSpaceParams,
    SvdAdapterParams,
)


@dataclass(frozen=True)
class Method:
    """Where a method's class is, the type of its params section, and whether it is trained (and so
    has seeds).
    """

    code: str
    section: type[LearnedParams] | type[BaselineParams]

    @property
    def learned(self) -> bool:
        return issubclass(self.section, LearnedParams)

    def load(self):
        module, name = self.code.split(":")
        return getattr(import_module(f"pipeline.steering.methods.{module}"), name)


METHODS = {
    "innerpissa": Method("innerpissa:InnerPissa", SvdAdapterParams),
    "antipasto": Method("antipasto:AntiPasto", SvdAdapterParams),
    "lora": Method("lora:Lora", LoraParams),
    "dora": Method("dora:Dora", LoraParams),
    "prompting": Method("prompting:Prompting", PromptingParams),
    "mean_diff": Method("mean_diff:MeanDiff", DirectionParams),
    "pca": Method("pca:Pca", PcaParams),
    "s_space": Method("s_space:SSpace", SSpaceParams),
    "gradient": Method("gradient:Gradient", GradientParams),
    "random": Method("random:RandomDirection", RandomParams),
}
LEARNED = tuple(name for name, method in METHODS.items() if method.learned)
BASELINES = tuple(name for name, method in METHODS.items() if not method.learned)
