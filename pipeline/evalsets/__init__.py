"""The evaluation sets, one file each, and their registry."""

from pipeline.support.section import Section
from pipeline.support.sections import (
    DailyDilemmasParams,
    EverydayParams,
    MoralChoiceParams,
    ReferenceParams,
)


class EvalsetsParams(Section):
    """One field per evaluation set: its id, its module here and its section of params.yaml."""

    reference: ReferenceParams
    """Held-out dilemmas of the synthetic reference world."""
    daily_dilemmas: DailyDilemmasParams
    """DailyDilemmas (arXiv 2410.02683): moral dilemmas of everyday life."""
    everyday: EverydayParams
    """Dilemmas of everyday life written for this project, in git."""
    moralchoice: MoralChoiceParams
    """MoralChoice (arXiv 2307.14324): scenarios labelled by ten moral rules."""


EVALSETS = tuple(EvalsetsParams.model_fields)
