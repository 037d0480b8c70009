"""The report's figures: SVG and PNG, the same bytes for the same content."""

from pipeline.report.figures.choice_mass import choice_mass
from pipeline.report.figures.coherence import effect_vs_coherence
from pipeline.report.figures.dose_response import dose_response
from pipeline.report.figures.forest import forest
from pipeline.report.figures.training import training_curves
from pipeline.report.figures.values import value_map

__all__ = [
    "choice_mass",
    "dose_response",
    "effect_vs_coherence",
    "forest",
    "training_curves",
    "value_map",
]
