"""The registry of evaluation sets."""

from pipeline.study.sections import DailyDilemmasParams, ReferenceParams
from pipeline.support.section import Section


class EvalsetsParams(Section):
    """One field per evaluation set: its id, its module here and its section of params.yaml."""

    reference: ReferenceParams
    """Held-out dilemmas of the synthetic reference world."""
    daily_dilemmas: DailyDilemmasParams
    """DailyDilemmas (arXiv 2410.02683): moral dilemmas of everyday life."""


EVALSETS = tuple(EvalsetsParams.model_fields)
