"""The registry of evaluation sets: id (and module name) -> type of its params section."""

from pipeline.study.sections import DailyDilemmasParams, ReferenceParams, Section

EVALSETS: dict[str, type[Section]] = {
    "reference": ReferenceParams,
    "daily_dilemmas": DailyDilemmasParams,
}
